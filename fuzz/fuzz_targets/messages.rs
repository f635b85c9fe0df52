//! See `pool_fuzz::messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pool_fuzz::messages(input));
