//! The measurements of this pool, through its public interface, each beside its limit.

mod idle;
mod latency;
mod limits;
mod loads;
pub(crate) mod memory;
mod payload;
mod scale;
mod seeing;
mod start;
mod throughput;

use std::time::{Duration, Instant};

use pool_benches::{Outcome, ensure};
use pool_core::{Builder, Pool};

use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks::tiny;

/// Longest time until all workers are ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A measurement that fills one row or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    Map,
    Seeing,
    Singles,
    HotTrips,
    AsleepTrips,
    Echo,
    Borrowed,
    Start,
    Crash,
    Limits,
    Memory,
    Queued,
    Idle,
    FlatTasks,
    FlatWorkers,
    Busy,
    Mixed,
}

impl Probe {
    pub(crate) const ALL: [Self; 17] = [
        Self::Map,
        Self::Seeing,
        Self::Singles,
        Self::HotTrips,
        Self::AsleepTrips,
        Self::Echo,
        Self::Borrowed,
        Self::Start,
        Self::Crash,
        Self::Limits,
        Self::Memory,
        Self::Queued,
        Self::Idle,
        Self::FlatTasks,
        Self::FlatWorkers,
        Self::Busy,
        Self::Mixed,
    ];

    /// In how many of the rounds it takes part: what takes long or hardly varies is measured less often.
    pub(crate) fn rounds(self, effort: Effort) -> u32 {
        match self {
            Self::Queued => effort.pick(1, 2),
            Self::Limits => 1,
            Self::FlatTasks => effort.pick(1, 2),
            Self::FlatWorkers | Self::Idle => effort.pick(1, 3),
            Self::AsleepTrips => effort.pick(2, 5),
            Self::Mixed => effort.pick(1, 5),
            _ => effort.rounds(),
        }
    }

    /// Measures once.
    pub(crate) fn run(self, effort: Effort, journal: &mut Journal) -> Outcome<()> {
        match self {
            Self::Map => throughput::map(effort, journal),
            Self::Seeing => seeing::seeing(effort, journal),
            Self::Singles => throughput::singles(effort, journal),
            Self::HotTrips => latency::hot(effort, journal),
            Self::AsleepTrips => latency::asleep(effort, journal),
            Self::Echo => payload::echo(effort, journal),
            Self::Borrowed => payload::borrowed(effort, journal),
            Self::Start => start::start(effort, journal),
            Self::Crash => start::crash(effort, journal),
            Self::Limits => limits::limits(effort, journal),
            Self::Memory => memory::memory(journal),
            Self::Queued => memory::queued(journal),
            Self::Idle => idle::idle(journal),
            Self::FlatTasks => scale::tasks(effort, journal),
            Self::FlatWorkers => scale::workers(effort, journal),
            Self::Busy => loads::busy(effort, journal),
            Self::Mixed => loads::mixed(effort, journal),
        }
    }
}

/// A pool whose workers have all reported.
fn ready_pool(workers: usize) -> Outcome<Pool> {
    ready(Pool::builder(), workers)
}

/// The same, with these settings.
fn ready(builder: Builder, workers: usize) -> Outcome<Pool> {
    let pool = builder.workers(workers).build()?;
    let start = Instant::now();
    while pool.stats().workers_ready < workers {
        ensure(start.elapsed() < PATIENCE, "the workers do not become ready")?;
        std::thread::yield_now();
    }
    ensure(pool.apply(tiny(1))? == 2, "a wrong result")?;
    Ok(pool)
}

/// Whether these are the results of `tiny` for 0, 1, 2 …
fn are_right(results: impl IntoIterator<Item = u64>, count: u64) -> Outcome<()> {
    ensure(results.into_iter().eq(1..=count), "a result is wrong, missing, or in the wrong place")
}
