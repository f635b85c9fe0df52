//! What the benchmark programs share: how processes are looked at from outside, and what is made of samples.
//!
//! The programs are `compare`, which measures this pool beside the limits of the kernel and beside other pools, and
//! `peer_procspawn`, the one other pool that is written in Rust. It is a program of its own so that neither's start-up code
//! runs in the other's processes.

pub mod process;
pub mod samples;

/// Anything may go wrong in a benchmark, and all of it ends the measurement.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// An error with this text, unless the condition holds: a benchmark of wrong results is worth nothing.
///
/// # Errors
/// The text, when the condition does not hold.
pub fn ensure(holds: bool, otherwise: &str) -> Outcome<()> {
    if holds { Ok(()) } else { Err(otherwise.to_owned().into()) }
}
