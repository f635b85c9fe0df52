//! The rows of the comparison, and their targets, as data.

use crate::journal::Journal;
use crate::ours::Probe;

/// Figures that miss their target by no more than this share count as noise.
pub(crate) const TOLERANCE: f64 = 0.10;

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What a figure has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Target {
    /// Measured because it tells something, not because it has to be anything.
    None,
    AtLeast(f64),
    AtMost(f64),
    /// At most so many times the limit, measured in the same run.
    TimesLimit(f64),
}

/// One line of the table. What is measured is in the module of its probe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// The name of its samples, for this pool and for peers.
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) target: Target,
    pub(crate) probe: Probe,
    /// The limit is the best of these: the samples to show, and the ones to choose by.
    pub(crate) limits: &'static [(&'static str, &'static str)],
    /// Whether peers are measured too.
    pub(crate) peers: bool,
}

/// Whether a figure is what it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    NoTarget,
    Met,
    /// Missed by no more than [`TOLERANCE`].
    Close,
    Missed,
    NotMeasured,
}

impl Row {
    /// The samples of the limit, when it has been measured.
    pub(crate) fn limit_name(&self, journal: &Journal) -> Option<&'static str> {
        let measured = self.limits.iter().filter_map(|(shown, by)| Some((*shown, journal.median(by)?)));
        measured
            .reduce(|best, other| if self.is_better(other.1, best.1) { other } else { best })
            .map(|(shown, _)| shown)
    }

    pub(crate) fn limit(&self, journal: &Journal) -> Option<f64> {
        journal.median(self.limit_name(journal)?)
    }

    /// The peer that does best, and its figure.
    pub(crate) fn best_peer(&self, journal: &Journal) -> Option<(String, f64)> {
        let of_peers = journal.all().filter_map(|(name, _)| {
            let peer = name.strip_prefix("peer.")?.strip_suffix(self.id)?.strip_suffix('.')?;
            Some((peer.to_owned(), journal.median(name)?))
        });
        of_peers.reduce(|best, other| if self.is_better(other.1, best.1) { other } else { best })
    }

    pub(crate) fn is_better(&self, one: f64, other: f64) -> bool {
        match self.better {
            Better::Higher => one > other,
            Better::Lower => one < other,
        }
    }

    /// The figure that the target comes to; none without a target, or when it depends on a limit that is missing.
    pub(crate) fn target_figure(&self, journal: &Journal) -> Option<f64> {
        match self.target {
            Target::None => None,
            Target::AtLeast(figure) | Target::AtMost(figure) => Some(figure),
            Target::TimesLimit(times) => Some(times * self.limit(journal)?),
        }
    }

    pub(crate) fn verdict(&self, journal: &Journal) -> Verdict {
        if self.target == Target::None {
            return Verdict::NoTarget;
        }
        let (Some(ours), Some(target)) = (journal.median(self.id), self.target_figure(journal)) else {
            return Verdict::NotMeasured;
        };
        let (met, close) = match self.better {
            Better::Higher => (ours >= target, ours >= target * (1.0 - TOLERANCE)),
            Better::Lower => (ours <= target, ours <= target * (1.0 + TOLERANCE)),
        };
        match (met, close) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Close,
            (false, false) => Verdict::Missed,
        }
    }
}

/// A row with neither limit nor peers.
const fn row(
    id: &'static str,
    name: &'static str,
    unit: &'static str,
    better: Better,
    target: Target,
    probe: Probe,
) -> Row {
    Row { id, name, unit, better, target, probe, limits: &[], peers: false }
}

impl Row {
    const fn limited_by(mut self, limits: &'static [(&'static str, &'static str)]) -> Self {
        self.limits = limits;
        self
    }

    const fn with_peers(mut self) -> Self {
        self.peers = true;
        self
    }
}

const BATCHED: &[(&str, &str)] = &[("bare.pipe_batched", "bare.pipe_batched")];
const SPINNING_P50: &[(&str, &str)] = &[("bare.spin_hot_p50", "bare.spin_hot_p50")];
const SPINNING_P99: &[(&str, &str)] = &[("bare.spin_hot_p99", "bare.spin_hot_p99")];
/// On another core, because waking one is what the row is about. Left alone, the scheduler often runs both sides of a bare
/// exchange on one core, where it is much cheaper; the table of limits shows that too.
const ASLEEP_P50: &[(&str, &str)] =
    &[("bare.pipe_apart_p50", "bare.pipe_apart_p50"), ("bare.futex_apart_p50", "bare.futex_apart_p50")];
/// The tail of the one that is faster at the median: the better of two tails would be luck.
const ASLEEP_P99: &[(&str, &str)] =
    &[("bare.pipe_apart_p99", "bare.pipe_apart_p50"), ("bare.futex_apart_p99", "bare.futex_apart_p50")];
const BACK_64K: &[(&str, &str)] = &[
    ("bare.mapped_back_64k_apart", "bare.mapped_back_64k_apart"),
    ("bare.mapped_back_64k_anywhere", "bare.mapped_back_64k_anywhere"),
];
const BACK_1M: &[(&str, &str)] = &[
    ("bare.mapped_back_1m_apart", "bare.mapped_back_1m_apart"),
    ("bare.mapped_back_1m_anywhere", "bare.mapped_back_1m_anywhere"),
];
const BACK_16M: &[(&str, &str)] = &[
    ("bare.mapped_back_16m_apart", "bare.mapped_back_16m_apart"),
    ("bare.mapped_back_16m_anywhere", "bare.mapped_back_16m_anywhere"),
];
const ONE_WAY: &[(&str, &str)] = &[
    ("bare.mapped_one_way_16m_apart", "bare.mapped_one_way_16m_apart"),
    ("bare.mapped_one_way_16m_anywhere", "bare.mapped_one_way_16m_anywhere"),
];
const SPAWN_EXIT: &[(&str, &str)] = &[("bare.spawn_exit", "bare.spawn_exit")];
const FIRST_BYTE: &[(&str, &str)] = &[("bare.spawn_first_byte", "bare.spawn_first_byte")];
const PIDFD: &[(&str, &str)] = &[("bare.pidfd", "bare.pidfd")];
const TWO_IDLE: &[(&str, &str)] = &[("bare.memory", "bare.memory")];
const TWO_IDLE_ALL: &[(&str, &str)] = &[("bare.memory_all", "bare.memory_all")];

/// The table.
#[rustfmt::skip]
pub(crate) const ROWS: &[Row] = {
    use {Better::{Higher, Lower}, Probe as P, Target::{AtLeast, AtMost, None, TimesLimit}};
    &[
        row("map", "map of tiny tasks, 2 workers", "M tasks/s", Higher, AtLeast(10.0), P::Map).limited_by(BATCHED).with_peers(),
        row("singles", "single submits, all then wait, 2 workers", "M tasks/s", Higher, AtLeast(2.0), P::Singles).limited_by(BATCHED).with_peers(),
        row("settled_share", "map_settled, share of map", "", Higher, AtLeast(0.7), P::Map),
        row("retries_share", "map with .retries(1), share of map", "", Higher, AtLeast(0.7), P::Map),
        row("insights_share", "map with insights, share of map", "", Higher, None, P::Seeing),
        row("insights_cost", "insights, what they cost a task", "ns", Lower, None, P::Seeing),
        row("events_share", "map with an event hook, share of map", "", Higher, AtLeast(0.9), P::Seeing),
        row("progress_share", "map with progress, share of map", "", Higher, None, P::Seeing),
        row("trip_hot_p50", "round trip, both hot, p50", "µs", Lower, AtMost(2.0), P::HotTrips).limited_by(SPINNING_P50).with_peers(),
        row("trip_hot_p99", "round trip, both hot, p99", "µs", Lower, None, P::HotTrips).limited_by(SPINNING_P99).with_peers(),
        row("trip_asleep_p50", "round trip, worker asleep, p50", "µs", Lower, TimesLimit(1.2), P::AsleepTrips).limited_by(ASLEEP_P50).with_peers(),
        row("trip_asleep_p99", "round trip, worker asleep, p99", "µs", Lower, TimesLimit(1.2), P::AsleepTrips).limited_by(ASLEEP_P99).with_peers(),
        row("echo_64k", "echo 64 KiB, in + out", "GB/s", Higher, AtLeast(4.0), P::Echo).limited_by(BACK_64K).with_peers(),
        row("echo_1m", "echo 1 MiB, in + out", "GB/s", Higher, AtLeast(4.0), P::Echo).limited_by(BACK_1M).with_peers(),
        row("echo_16m", "echo 16 MiB, in + out", "GB/s", Higher, AtLeast(5.0), P::Echo).limited_by(BACK_16M).with_peers(),
        row("borrowed", "16 MiB argument, borrowed", "GB/s", Higher, AtLeast(9.0), P::Borrowed).limited_by(ONE_WAY),
        row("start", "pool of 2: start, one task, stop", "ms", Lower, AtMost(3.0), P::Start).limited_by(SPAWN_EXIT).with_peers(),
        row("crash", "crash to next result, no spare", "ms", Lower, TimesLimit(1.5), P::Crash).limited_by(FIRST_BYTE).with_peers(),
        row("crash_spare", "crash to next result, a spare", "ms", Lower, AtMost(0.6), P::Crash).limited_by(PIDFD),
        row("limit_late", "time limit to `TimedOut`", "ms", Lower, AtMost(50.0), P::Limits),
        row("limit_latest", "time limit to `TimedOut`, the latest", "ms", Lower, AtMost(50.0), P::Limits),
        row("memory", "memory of the pool, 2 idle workers", "MB", Lower, AtMost(3.0), P::Memory).limited_by(TWO_IDLE).with_peers(),
        row("memory_all", "same, with pages of the program file", "MB", Lower, None, P::Memory).limited_by(TWO_IDLE_ALL).with_peers(),
        row("queued", "queued tiny task, handle dropped", "bytes", Lower, AtMost(128.0), P::Queued),
        row("queued_handle", "queued tiny task, with its handle", "bytes", Lower, None, P::Queued),
        row("queued_growth", "queued tiny task, process growth", "bytes", Lower, None, P::Queued),
        row("idle_wakeups", "idle pool of 2: wake-ups", "/s", Lower, AtMost(0.0), P::Idle).with_peers(),
        row("idle_cpu", "idle pool of 2: processor time", "µs/s", Lower, AtMost(0.0), P::Idle).with_peers(),
        row("flat_tasks", "cost a task, 10³ to 10⁷: worst / best", "×", Lower, AtMost(1.2), P::FlatTasks),
        row("flat_workers", "cost a task, 1 to 64 workers: worst / best", "×", Lower, AtMost(1.2), P::FlatWorkers),
        row("busy_100us", "tasks of 100 µs: cores' time in tasks", "%", Higher, AtLeast(97.0), P::Busy),
        row("busy_1ms", "tasks of 1 ms: cores' time in tasks", "%", Higher, AtLeast(97.0), P::Busy),
        row("mixed_one_long", "one 1 s task among short ones: time / ideal", "×", Lower, None, P::Mixed),
        row("mixed_heavy_tail", "heavy-tailed tasks: time / ideal", "×", Lower, None, P::Mixed),
    ]
};

/// The limits that are measured beside, with their units, for a table of their own.
pub(crate) const LIMITS: &[(&str, &str, &str)] = &[
    ("bare.pipe_batched", "64-byte messages through a pipe, 256 a write", "M/s"),
    ("bare.pipe_single", "64-byte messages through a pipe, one a write", "M/s"),
    ("bare.spin_hot_p50", "round trip, shared memory, both spinning, p50", "µs"),
    ("bare.spin_hot_p99", "round trip, shared memory, both spinning, p99", "µs"),
    ("bare.futex_hot_p50", "round trip, futex, back to back, p50", "µs"),
    ("bare.futex_hot_p99", "round trip, futex, back to back, p99", "µs"),
    ("bare.pipe_hot_p50", "round trip, pipe, back to back, p50", "µs"),
    ("bare.pipe_hot_p99", "round trip, pipe, back to back, p99", "µs"),
    ("bare.futex_apart_p50", "round trip, futex, asleep on another core, p50", "µs"),
    ("bare.futex_apart_p99", "round trip, futex, asleep on another core, p99", "µs"),
    ("bare.pipe_apart_p50", "round trip, pipe, asleep on another core, p50", "µs"),
    ("bare.pipe_apart_p99", "round trip, pipe, asleep on another core, p99", "µs"),
    ("bare.futex_anywhere_p50", "round trip, futex, asleep on any core, p50", "µs"),
    ("bare.futex_anywhere_p99", "round trip, futex, asleep on any core, p99", "µs"),
    ("bare.pipe_anywhere_p50", "round trip, pipe, asleep on any core, p50", "µs"),
    ("bare.pipe_anywhere_p99", "round trip, pipe, asleep on any core, p99", "µs"),
    ("bare.mapped_back_64k_apart", "mapped, reused, 64 KiB there and back, in + out, two cores", "GB/s"),
    ("bare.mapped_back_64k_anywhere", "mapped, reused, 64 KiB there and back, in + out, any core", "GB/s"),
    ("bare.mapped_back_1m_apart", "mapped, reused, 1 MiB there and back, in + out, two cores", "GB/s"),
    ("bare.mapped_back_1m_anywhere", "mapped, reused, 1 MiB there and back, in + out, any core", "GB/s"),
    ("bare.mapped_back_16m_apart", "mapped, reused, 16 MiB there and back, in + out, two cores", "GB/s"),
    ("bare.mapped_back_16m_anywhere", "mapped, reused, 16 MiB there and back, in + out, any core", "GB/s"),
    ("bare.mapped_one_way_16m_apart", "mapped, reused, 16 MiB one way, two cores", "GB/s"),
    ("bare.mapped_one_way_16m_anywhere", "mapped, reused, 16 MiB one way, any core", "GB/s"),
    ("bare.memcpy_16m", "memcpy of 16 MiB", "GB/s"),
    ("bare.spawn_first_byte", "posix_spawn of this program, to its first byte", "ms"),
    ("bare.spawn_exit", "posix_spawn of this program, to its exit", "ms"),
    ("bare.pidfd", "SIGKILL to readable pidfd", "ms"),
    ("bare.memory", "memory of 2 idle copies of this program", "MB"),
    ("bare.memory_all", "same, with pages of the program file", "MB"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(samples: &[(&str, f64)]) -> Journal {
        let mut journal = Journal::default();
        for (name, value) in samples {
            journal.note(name, *value);
        }
        journal
    }

    fn find(id: &str) -> Row {
        *ROWS.iter().find(|row| row.id == id).expect("a row of the table")
    }

    #[test]
    fn every_limit_of_a_row_has_a_line_of_its_own() {
        for (shown, by) in ROWS.iter().flat_map(|row| row.limits) {
            for name in [shown, by] {
                assert!(LIMITS.iter().any(|(known, ..)| known == name), "{name}");
            }
        }
    }

    #[test]
    fn tolerance_is_for_noise_only() {
        for (figure, verdict) in [(10.0, Verdict::Met), (9.1, Verdict::Close), (8.9, Verdict::Missed)] {
            assert_eq!(find("map").verdict(&measured(&[("map", figure)])), verdict, "{figure}");
        }
        assert_eq!(find("idle_wakeups").verdict(&measured(&[("idle_wakeups", 1.0)])), Verdict::Missed);
        assert_eq!(find("map").verdict(&measured(&[])), Verdict::NotMeasured);
    }

    #[test]
    fn a_tail_is_compared_with_the_tail_of_the_limit_that_is_faster_at_the_median() {
        let journal = measured(&[
            ("bare.pipe_apart_p50", 60.0),
            ("bare.pipe_apart_p99", 100.0),
            ("bare.futex_apart_p50", 50.0),
            ("bare.futex_apart_p99", 200.0),
        ]);
        assert_eq!(find("trip_asleep_p50").limit(&journal), Some(50.0));
        assert_eq!(find("trip_asleep_p99").target_figure(&journal), Some(240.0));
    }

    #[test]
    fn the_best_peer_is_the_best_in_the_sense_of_the_row() {
        let journal = measured(&[
            ("peer.a.start", 5.0),
            ("peer.b.start", 4.0),
            ("peer.b.map", 4.0),
            ("peer.a.map", 5.0),
        ]);
        assert_eq!(find("start").best_peer(&journal), Some(("b".to_owned(), 4.0)));
        assert_eq!(find("map").best_peer(&journal), Some(("a".to_owned(), 5.0)));
    }
}
