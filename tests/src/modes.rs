//! One victim among innocents, in every result mode.

use std::fmt::Debug;
use std::ops::Range;

use pool_core::{Call, MapError, Pool, TaskError, TaskHandle};

/// How tasks are submitted and their results collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A handle for each task.
    ApplyAsync,
    /// All or nothing.
    Map,
    /// Every item's own outcome.
    MapSettled,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ApplyAsync, Self::Map, Self::MapSettled];
}

/// One victim among innocents of the same result type.
#[derive(Debug, Clone, Copy)]
pub struct Trial<V, I> {
    /// Makes the call that fails.
    pub victim: V,
    /// Makes the call for an item that must not be harmed.
    pub innocent: I,
}

impl<V, I> Trial<V, I> {
    /// Items in all, the victim included.
    pub const ITEMS: u64 = 24;
    /// Which of them is the victim.
    pub const VICTIM: u64 = 9;

    /// Runs the trial, and returns the outcome of the victim. Innocents must have the results that `right` gives.
    ///
    /// In [`Mode::Map`] the innocents of the map itself are aborted, and others run beside it.
    ///
    /// # Panics
    /// When an innocent is harmed, or the map reports something else than its victim.
    #[track_caller]
    pub fn run<R>(&self, pool: &Pool, mode: Mode, right: impl Fn(u64) -> R) -> Result<R, TaskError>
    where
        R: PartialEq + Debug + 'static,
        V: Fn() -> Call<R>,
        I: Fn(u64) -> Call<R>,
    {
        let call = |n| if n == Self::VICTIM { (self.victim)() } else { (self.innocent)(n) };
        let mut results: Vec<Result<R, TaskError>> = match mode {
            Mode::ApplyAsync => {
                let handles: Vec<_> = (0..Self::ITEMS).map(|n| pool.apply_async(call(n))).collect();
                handles.into_iter().map(TaskHandle::get).collect()
            }
            Mode::MapSettled => pool.map_settled(call, 0..Self::ITEMS),
            Mode::Map => {
                let beside = |numbers: Range<u64>| -> Vec<_> {
                    numbers.map(|n| (n, pool.apply_async((self.innocent)(n)))).collect()
                };
                let before = beside(100..110);
                let outcome = pool.map(call, 0..Self::ITEMS);
                let after = beside(110..120);
                for (n, handle) in before.into_iter().chain(after) {
                    expect_right(handle.get(), &right(n), &format!("innocent {n} beside the map"));
                }
                match outcome {
                    Ok(results) => results.into_iter().map(Ok).collect(),
                    Err(MapError { index, error, completed, .. }) => {
                        assert_eq!(index as u64, Self::VICTIM, "the map blames another item: {error}");
                        assert!((completed as u64) < Self::ITEMS, "{completed} completed");
                        return Err(error);
                    }
                }
            }
        };
        assert_eq!(results.len() as u64, Self::ITEMS, "{mode:?}");
        let outcome = results.remove(Self::VICTIM as usize);
        let innocents = (0..Self::ITEMS).filter(|n| *n != Self::VICTIM);
        for (n, result) in innocents.zip(results) {
            expect_right(result, &right(n), &format!("innocent {n}, {mode:?}"));
        }
        outcome
    }
}

#[track_caller]
fn expect_right<R: PartialEq + Debug>(result: Result<R, TaskError>, right: &R, who: &str) {
    match result {
        Ok(result) => assert_eq!(result, *right, "{who}"),
        Err(error) => panic!("{who} was harmed: {error}"),
    }
}
