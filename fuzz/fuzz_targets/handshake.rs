//! See `pool_fuzz::handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pool_fuzz::handshake(input));
