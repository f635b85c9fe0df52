//! See `pool_fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pool_fuzz::frames(input));
