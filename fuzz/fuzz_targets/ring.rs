//! See `pool_fuzz::ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pool_fuzz::ring(input));
