//! A crate that denies every lint may use tasks.

#![no_implicit_prelude]
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unused, nonstandard_style, rust_2018_idioms, future_incompatible)]
#![deny(unused_qualifications, unreachable_pub, missing_debug_implementations, elided_lifetimes_in_paths)]
#![deny(unused_results, single_use_lifetimes, unused_lifetimes, trivial_casts, let_underscore_drop)]

use ::pool_core::{TaskContext, task};

/// Shadows everything that the expansion might forget to spell out.
#[expect(dead_code, reason = "names of the standard library")]
mod shadows {
    pub(crate) struct Result;
    pub(crate) struct String;
    pub(crate) struct Vec;
    pub(crate) struct Call;
    pub(crate) mod core {}
    pub(crate) mod std {}
    pub(crate) mod pool_core {}
}
#[expect(unused_imports, reason = "only there to be in the way")]
use shadows::*;

/// Documented.
#[task]
pub fn documented(n: u32, _text: &str, #[context] _cx: &TaskContext) -> u32 {
    n
}

/// Documented, and without anything to decode.
#[must_use]
#[inline]
#[task]
pub fn nothing() {}

fn main() {
    ::std::assert!(::std::matches!(documented(3, "").run_here(), ::std::result::Result::Ok(3)));
    ::std::assert!(nothing().run_here().is_ok());
}
