//! See `pool_fuzz::board`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pool_fuzz::board(input));
