//! Targets for what outlives a program: files that somebody has written once, and that may have been damaged since.
//!
//! They are no part of the library of this package, because those who replay its corpora do not know these files. The targets, and
//! the tests of `pool-store`, include this module.

pub mod entry;
#[path = "../input.rs"]
mod input;
pub mod journal;
