//! See `durable::entry`.
#![no_main]

#[path = "../src/durable/mod.rs"]
mod durable;

libfuzzer_sys::fuzz_target!(|input: &[u8]| durable::entry::entry(input));
