//! The steps that a tiny task goes through, each to be done again and again by itself.
//!
//! The program `instructions` counts them, the benchmark `inner` times them.

mod codec;
mod handle;
mod machine;
mod ring;

use pool_benches::Outcome;
use pool_core::task;

/// How often a step can be done after one preparation.
pub(crate) const MOST: u32 = 1024;

/// As little as a task can do.
#[task]
pub(crate) fn tiny(n: u64) -> u64 {
    n + 1
}

/// One step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// The part of the pool that it belongs to.
    pub(crate) part: &'static str,
    /// What is done once, and where.
    pub(crate) name: &'static str,
    /// Sets it up.
    pub(crate) make: fn() -> Outcome<Box<dyn Repeat>>,
}

/// Something that can be done again and again.
pub(crate) trait Repeat {
    /// Makes ready for doing it this often, at most [`MOST`] times; what this costs does not count.
    fn prepare(&mut self, _count: u32) {}

    /// Does it this often.
    fn run(&mut self, count: u32);
}

/// What needs no preparation.
struct Simple<F>(F);

impl<F: FnMut()> Repeat for Simple<F> {
    #[inline]
    fn run(&mut self, count: u32) {
        for _ in 0..count {
            (self.0)();
        }
    }
}

fn simple(step: impl FnMut() + 'static) -> Outcome<Box<dyn Repeat>> {
    Ok(Box::new(Simple(step)))
}

/// What is prepared, and then done.
struct Prepared<S, P, F> {
    state: S,
    prepare: P,
    run: F,
}

impl<S, P: FnMut(&mut S, u32), F: FnMut(&mut S, u32)> Repeat for Prepared<S, P, F> {
    fn prepare(&mut self, count: u32) {
        (self.prepare)(&mut self.state, count);
    }

    #[inline]
    fn run(&mut self, count: u32) {
        (self.run)(&mut self.state, count);
    }
}

fn prepared<S: 'static>(
    state: S,
    prepare: impl FnMut(&mut S, u32) + 'static,
    run: impl FnMut(&mut S, u32) + 'static,
) -> Outcome<Box<dyn Repeat>> {
    Ok(Box::new(Prepared { state, prepare, run }))
}

/// All of them, in the order of a task's way.
pub(crate) fn all() -> impl Iterator<Item = &'static Step> {
    [codec::STEPS, machine::STEPS, ring::STEPS, handle::STEPS].into_iter().flatten()
}
