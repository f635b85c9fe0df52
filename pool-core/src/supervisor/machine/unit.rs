//! Units: what the state machine keeps of tasks that have not ended.
//!
//! There may be millions of them, so a unit is small, its number and its links in the queue included, and what the units of
//! a batch have in common is kept once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::call::RetryOn;
use crate::error::Death;
use crate::ids::{TaskId, WorkerId};
use crate::supervisor::event::{Action, GroupId, TaskKey, TaskSpec};
use crate::supervisor::table::TaskTable;

/// Items that are of a kind and in the same place. Where one of them fares differently, the unit is split.
#[derive(Debug)]
pub(crate) struct Unit {
    /// What was asked for besides running it, if anything was.
    terms: Option<Arc<Terms>>,
    /// Offset of the first item that has not ended.
    pub(super) done: u32,
    /// Offset behind the last item.
    pub(super) end: u32,
    /// Bytes of the arguments of one item, on average.
    pub(super) size: u32,
    pub(super) place: Place,
    /// The [lane](super::lanes) that it waits in when it waits.
    pub(super) lane: u32,
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

/// How a unit is to be treated. It is shared by units until an attempt fails: what is counted then is the business of a single
/// item, which gets a copy.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    limit: Limit,
    group: Option<GroupId>,
    chunk: u32,
    retries: u32,
    retry_on: RetryOn,
    /// Attempts that were started and failed, where there may be others.
    attempts: u32,
    deaths: Vec<Death>,
}

impl Terms {
    fn of(spec: &TaskSpec) -> Self {
        Self {
            limit: Limit::new(spec.limit),
            group: spec.group,
            chunk: spec.chunk,
            retries: spec.retries,
            // Of no meaning without retries, so that it need not be told apart there.
            retry_on: if spec.retries > 0 { spec.retry_on } else { RetryOn::DEATH },
            attempts: 0,
            deaths: Vec::new(),
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        let conditions = |it: &Self| (it.limit, it.group, it.chunk, it.retries, it.retry_on);
        conditions(self) == conditions(other)
    }
}

/// Whether nothing is asked for besides running it.
fn is_plain(spec: &TaskSpec) -> bool {
    spec.limit.is_none() && spec.group.is_none() && spec.chunk == 0 && spec.retries == 0
}

impl Unit {
    /// `last` are terms that it may have in common with others; they are left to the next one.
    pub(super) fn new(spec: &TaskSpec, lane: u32, last: &mut Option<Arc<Terms>>) -> Self {
        let count = spec.count.max(1);
        let terms = if is_plain(spec) { None } else { Some(Terms::of(spec)) };
        let terms = terms.map(|terms| match last {
            Some(last) if last.is_like(&terms) => Arc::clone(last),
            _ => Arc::clone(last.insert(Arc::new(terms))),
        });
        Self {
            terms,
            done: 0,
            end: count,
            size: u32::try_from(spec.size.div_ceil(count as usize)).unwrap_or(u32::MAX),
            place: Place::Queued,
            lane,
            before: super::line::NOBODY,
            behind: super::line::NOBODY,
        }
    }

    /// Items that have not ended.
    pub(super) fn left(&self) -> u32 {
        self.end - self.done
    }

    /// Time limit of an item.
    pub(super) fn limit(&self) -> Limit {
        self.terms.as_ref().map_or(Limit::NONE, |terms| terms.limit)
    }

    /// Items that a worker is given at a time, or 0 for what is best.
    pub(super) fn chunk(&self) -> u32 {
        self.terms.as_ref().map_or(0, |terms| terms.chunk)
    }

    /// Its batch.
    pub(super) fn group(&self) -> Option<GroupId> {
        self.terms.as_ref().and_then(|terms| terms.group)
    }

    /// Attempts that were started and failed, if there may be others.
    pub(super) fn attempts(&self) -> u32 {
        self.terms.as_ref().map_or(0, |terms| terms.attempts)
    }

    /// Whether it would run again after a failure of this kind.
    pub(super) fn runs_again(&self, kind: RetryOn) -> bool {
        self.terms
            .as_ref()
            .is_some_and(|terms| terms.attempts < terms.retries && terms.retry_on.contains(kind))
    }

    /// Counts an attempt that failed. Without retries it is the only one, and not counted.
    pub(super) fn count_attempt(&mut self, death: Option<&Death>) {
        if let Some(terms) = self.terms.as_mut().filter(|terms| terms.retries > 0) {
            let terms = Arc::make_mut(terms);
            terms.attempts += 1;
            terms.deaths.extend(death.cloned());
        }
    }

    /// The deaths of its workers, where it may have had several.
    pub(super) fn take_deaths(&mut self) -> Option<Vec<Death>> {
        let terms = self.terms.as_mut().filter(|terms| terms.retries > 0)?;
        Some(std::mem::take(&mut Arc::make_mut(terms).deaths))
    }

    /// Makes the items at the offset `at` and behind it a unit of its own, whose offsets start there.
    fn split_off(&mut self, at: u32) -> Self {
        let end = std::mem::replace(&mut self.end, at) - at;
        Self { terms: self.terms.clone(), done: 0, end, ..*self }
    }
}

/// Splits the first `items` items that are left of a unit from the others, which get a key of their own, and are in the same
/// place. The caller puts them into its line, or into the hand of its worker.
pub(super) fn split<P>(
    units: &mut TaskTable<Unit>,
    out: &mut VecDeque<Action<P>>,
    from: TaskKey,
    items: u32,
) -> Option<TaskKey> {
    let unit = units.get_mut(from)?;
    let at = unit.done + items;
    debug_assert!(at < unit.end, "{from:?} has no item {at}");
    let rest = unit.split_off(at);
    let into = units.insert(from.item(at), rest);
    out.push_back(Action::Split { from, at, into });
    Some(into)
}

/// A time limit in nanoseconds; the largest number stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(u64);

impl Limit {
    const NONE: Self = Self(u64::MAX);

    fn new(limit: Option<Duration>) -> Self {
        limit.map_or(Self::NONE, |limit| Self(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX)))
    }

    pub(crate) fn get(self) -> Option<Duration> {
        (self != Self::NONE).then(|| Duration::from_nanos(self.0))
    }
}

/// What a unit costs in the table, its number included.
const _: () = assert!(size_of::<Option<(TaskId, Unit)>>() == 48);
