//! Worker states, and tasks that need them.

use std::error::Error;

use pool_core::{StateContext, WorkerState, task};

use crate::sys;

/// Counts the calls of [`count`] in one worker process.
#[derive(Debug)]
pub struct Counter(u64);

impl WorkerState for Counter {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self(0))
    }
}

/// Returns how many times this worker process has run it, from 1.
#[task]
pub fn count(#[state] counter: &mut Counter) -> u64 {
    counter.0 += 1;
    counter.0
}

/// A state that cannot be built: its `init` returns an error.
#[derive(Debug)]
pub struct FailingState(());

impl WorkerState for FailingState {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Err("this state cannot be built".into())
    }
}

/// Needs a [`FailingState`].
#[task]
pub fn with_failing_state(#[state] state: &mut FailingState) {
    let FailingState(()) = state;
}

/// A state whose `init` panics.
#[derive(Debug)]
pub struct PanickingState(());

impl WorkerState for PanickingState {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        panic!("panic while a state is built")
    }
}

/// Needs a [`PanickingState`].
#[task]
pub fn with_panicking_state(#[state] state: &mut PanickingState) {
    let PanickingState(()) = state;
}

/// A state whose `init` kills its process with SIGKILL.
#[derive(Debug)]
pub struct DyingState(());

impl WorkerState for DyingState {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        sys::die_by(libc::SIGKILL)
    }
}

/// Needs a [`DyingState`].
#[task]
pub fn with_dying_state(#[state] state: &mut DyingState) {
    let DyingState(()) = state;
}
