//! See `durable::journal`.
#![no_main]

#[path = "../src/durable/mod.rs"]
mod durable;

libfuzzer_sys::fuzz_target!(|input: &[u8]| durable::journal::journal(input));
