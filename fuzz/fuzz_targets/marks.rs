//! See `pool_fuzz::marks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pool_fuzz::marks(input));
