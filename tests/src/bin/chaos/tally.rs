//! What a run came to, in one line.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pool_core::Stats;

use crate::judge::{Finding, Wrong};

/// Sums over all rounds.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    seed: u64,
    pub(crate) rounds: u64,
    pub(crate) time: Duration,
    /// Tasks that the pools took in.
    tasks: u64,
    deaths: BTreeMap<&'static str, u64>,
    restarts: u64,
    requeued: u64,
    retried: u64,
    retired: u64,
    wrong: [u64; 5],
}

impl Tally {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Adds a pool that has ended; it began with so many workers.
    pub(crate) fn add(&mut self, stats: &Stats, workers: u64) {
        self.tasks += stats.submitted;
        for (cause, count) in stats.deaths.by_cause() {
            *self.deaths.entry(cause).or_default() += count;
        }
        self.restarts += stats.spawned.saturating_sub(workers);
        self.requeued += stats.requeued;
        self.retried += stats.retried;
        self.retired += stats.retired.total();
    }

    pub(crate) fn find(&mut self, finding: &Finding) {
        self.wrong[place(finding.wrong)] += 1;
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.wrong.iter().all(|count| *count == 0)
    }

    /// All but the verdict on hangs, which are told of by whoever finds them.
    pub(crate) fn so_far(&self) -> String {
        let mut causes: Vec<String> = Vec::new();
        for (cause, count) in self.deaths.iter().filter(|(_, count)| **count > 0) {
            causes.push(format!("{cause} {count}"));
        }
        let of = |wrong| self.wrong[place(wrong)];
        format!(
            "seed {}, {} rounds, {:.0} s: tasks {}, deaths {} ({}), restarts {}, retired {}, re-queued {}, retried {}, \
             lost {}, doubled {}, wrongly blamed {}, unsound {}, leaked {},",
            self.seed,
            self.rounds,
            self.time.as_secs_f64(),
            self.tasks,
            self.deaths.values().sum::<u64>(),
            causes.join(", "),
            self.restarts,
            self.retired,
            self.requeued,
            self.retried,
            of(Wrong::Lost),
            of(Wrong::Doubled),
            of(Wrong::Blamed),
            of(Wrong::Unsound),
            of(Wrong::Leaked)
        )
    }
}

fn place(wrong: Wrong) -> usize {
    match wrong {
        Wrong::Lost => 0,
        Wrong::Doubled => 1,
        Wrong::Blamed => 2,
        Wrong::Unsound => 3,
        Wrong::Leaked => 4,
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hangs 0", self.so_far())
    }
}
