//! Units: what the state machine keeps of tasks that have not ended.
//!
//! There may be millions of them, so a unit fits into a cache line together with its number and its links in the queue.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::call::RetryOn;
use crate::error::Death;
use crate::ids::{TaskId, WorkerId};
use crate::supervisor::event::{Action, GroupId, TaskKey, TaskSpec};
use crate::supervisor::table::TaskTable;

/// Items that are of a kind and in the same place. Where one of them fares differently, the unit is split.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(super) limit: Limit,
    batch: Batch,
    /// What only few units have.
    rare: Option<Box<Rare>>,
    /// Offset of the first item that has not ended.
    pub(super) done: u32,
    /// Offset behind the last item.
    pub(super) end: u32,
    /// Items that a worker is given at a time, or 0 for what is best.
    pub(super) chunk: u32,
    /// Bytes of the arguments of one item, on average.
    pub(super) size: u32,
    pub(super) place: Place,
    /// Neighbours in the [line](super::line::Line) that the unit stands in.
    pub(super) before: u32,
    pub(super) behind: u32,
}

/// Where the items of a unit are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Queued,
    /// It failed before and waits to run alone.
    Suspect,
    /// Reserved for this worker, or held by it.
    With(WorkerId),
}

/// A unit that may run again. Once an attempt has failed, it is a single item.
#[derive(Debug)]
pub(super) struct Rare {
    pub(super) retries: u32,
    pub(super) retry_on: RetryOn,
    /// Attempts that were started and failed.
    pub(super) attempts: u32,
    pub(super) deaths: Vec<Death>,
}

impl Unit {
    pub(super) fn new(spec: &TaskSpec) -> Self {
        let count = spec.count.max(1);
        let rare =
            || Rare { retries: spec.retries, retry_on: spec.retry_on, attempts: 0, deaths: Vec::new() };
        Self {
            limit: Limit::new(spec.limit),
            batch: Batch::new(spec),
            rare: (spec.retries > 0).then(|| Box::new(rare())),
            done: 0,
            end: count,
            chunk: spec.chunk,
            size: u32::try_from(spec.size.div_ceil(count as usize)).unwrap_or(u32::MAX),
            place: Place::Queued,
            before: super::line::NOBODY,
            behind: super::line::NOBODY,
        }
    }

    /// Items that have not ended.
    pub(super) fn left(&self) -> u32 {
        self.end - self.done
    }

    /// Its batch.
    pub(super) fn group(&self) -> Option<GroupId> {
        self.batch.id()
    }

    /// The batch that a failure of the unit aborts.
    pub(super) fn aborts(&self) -> Option<GroupId> {
        self.batch.id().filter(|_| self.batch.aborts())
    }

    /// Attempts that were started and failed.
    pub(super) fn attempts(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.attempts)
    }

    /// How it may run again, if it may.
    pub(super) fn rare(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// Whether it would run again after a failure of this kind.
    pub(super) fn retries(&self, kind: RetryOn) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.attempts < rare.retries && rare.retry_on.contains(kind))
    }

    /// Makes the items at the offset `at` and behind it a unit of its own, whose offsets start there.
    fn split_off(&mut self, at: u32) -> Self {
        let rare = self.rare.as_ref().map(|rare| {
            let Rare { retries, retry_on, .. } = **rare;
            Box::new(Rare { retries, retry_on, attempts: 0, deaths: Vec::new() })
        });
        let end = std::mem::replace(&mut self.end, at) - at;
        Self { limit: self.limit, batch: self.batch, rare, done: 0, end, ..*self }
    }
}

/// Splits the first `items` items that are left of a unit from the others, which get a key of their own, and are in the same
/// place. The caller puts them into its line, or into the hand of its worker.
pub(super) fn split<P>(
    units: &mut TaskTable<Unit>,
    out: &mut Vec<Action<P>>,
    from: TaskKey,
    items: u32,
) -> Option<TaskKey> {
    let unit = units.get_mut(from)?;
    let at = unit.done + items;
    debug_assert!(at < unit.end, "{from:?} has no item {at}");
    let rest = unit.split_off(at);
    let into = units.insert(from.item(at), rest);
    out.push(Action::Split { from, at, into });
    Some(into)
}

/// A time limit in nanoseconds; the largest number stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(u64);

impl Limit {
    fn new(limit: Option<Duration>) -> Self {
        Self(limit.map_or(u64::MAX, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn get(self) -> Option<Duration> {
        (self.0 != u64::MAX).then(|| Duration::from_nanos(self.0))
    }
}

/// The number of a batch, twice, and one more where it is to be aborted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Batch(Option<NonZeroU64>);

impl Batch {
    fn new(spec: &TaskSpec) -> Self {
        Self(spec.group.and_then(|group| NonZeroU64::new(group.0 << 1 | u64::from(spec.abort))))
    }

    fn id(self) -> Option<GroupId> {
        self.0.map(|packed| GroupId(packed.get() >> 1))
    }

    fn aborts(self) -> bool {
        self.0.is_some_and(|packed| packed.get() & 1 == 1)
    }
}

/// What a unit costs in the table, its number included.
const _: () = assert!(size_of::<Option<(TaskId, Unit)>>() == 64);
