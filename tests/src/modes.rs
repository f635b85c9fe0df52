//! One victim among innocents, in every result mode.

use std::fmt::Debug;
use std::ops::Range;
use std::time::Duration;

use pool_core::{Call, MapError, OnFailure, Pool, TaskError, TaskHandle};

use crate::executor::block_on;

/// How tasks are submitted and their results collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A handle for each task.
    ApplyAsync,
    /// A handle for each task, and waits with a limit.
    WaitTimeout,
    /// A future for each task.
    Future,
    /// All or nothing.
    Map,
    /// All or nothing, in the order of completion.
    MapUnordered,
    /// An iterator that goes on past failures.
    Imap,
    /// An iterator that goes on past failures, in the order of completion.
    ImapUnordered,
    /// Every item's own outcome.
    MapSettled,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ApplyAsync,
        Self::WaitTimeout,
        Self::Future,
        Self::Map,
        Self::MapUnordered,
        Self::Imap,
        Self::ImapUnordered,
        Self::MapSettled,
    ];
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
    /// In [`Mode::Map`] and [`Mode::MapUnordered`] the innocents of the map itself are aborted, and others run beside it.
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
        let handles =
            || -> Vec<TaskHandle<R>> { (0..Self::ITEMS).map(|n| pool.apply_async(call(n))).collect() };
        let isolated = || pool.batch().on_failure(OnFailure::Isolate);
        let mut results: Vec<Result<R, TaskError>> = match mode {
            Mode::ApplyAsync => handles().into_iter().map(TaskHandle::get).collect(),
            Mode::WaitTimeout => {
                let wait = |handle: TaskHandle<R>| {
                    while !handle.wait_timeout(Duration::from_millis(20)) {}
                    handle.get()
                };
                handles().into_iter().map(wait).collect()
            }
            Mode::Future => handles().into_iter().map(block_on).collect(),
            Mode::MapSettled => pool.map_settled(call, 0..Self::ITEMS),
            Mode::Imap => isolated().imap(call, 0..Self::ITEMS).collect(),
            Mode::ImapUnordered => {
                let mut results: Vec<Option<Result<R, TaskError>>> = (0..Self::ITEMS).map(|_| None).collect();
                let mut iterator = isolated().imap_unordered(call, 0..Self::ITEMS);
                while let Some(result) = iterator.next() {
                    let index = iterator.index().expect("a result has come");
                    assert!(results[index].replace(result).is_none(), "{index} has come twice");
                }
                results.into_iter().flatten().collect()
            }
            Mode::Map | Mode::MapUnordered => {
                let beside = |numbers: Range<u64>| -> Vec<_> {
                    numbers.map(|n| (n, pool.apply_async((self.innocent)(n)))).collect()
                };
                let before = beside(100..110);
                let outcome = match mode {
                    Mode::Map => pool.map(call, 0..Self::ITEMS),
                    _ => pool
                        .map_unordered(call, 0..Self::ITEMS)
                        .map(|results| in_order(results, Self::VICTIM, Self::ITEMS, &right)),
                };
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

/// Brings results that have come in any order into the order of their items.
#[track_caller]
fn in_order<R: PartialEq + Debug>(
    mut results: Vec<R>,
    victim: u64,
    items: u64,
    right: &impl Fn(u64) -> R,
) -> Vec<R> {
    let mut ordered = Vec::new();
    for n in (0..items).filter(|n| *n != victim) {
        let wanted = right(n);
        let place = results.iter().position(|result| *result == wanted);
        ordered.push(results.swap_remove(place.unwrap_or_else(|| panic!("no result of {n}: {results:?}"))));
    }
    assert_eq!(results.len(), 1, "what is left is the victim's");
    ordered.insert(victim as usize, results.remove(0));
    ordered
}

#[track_caller]
fn expect_right<R: PartialEq + Debug>(result: Result<R, TaskError>, right: &R, who: &str) {
    match result {
        Ok(result) => assert_eq!(result, *right, "{who}"),
        Err(error) => panic!("{who} was harmed: {error}"),
    }
}
