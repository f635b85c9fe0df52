//! What it costs to see what a pool does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use pool_benches::{Outcome, ensure};
use pool_core::{Pool, Progress};

use super::{are_right, ready, ready_pool};
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks::tiny;

/// A map of tiny tasks with insights, with an event hook, and with progress, each beside one with nothing of the kind.
pub(crate) fn seeing(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let count = effort.pick(200_000, 1_000_000);
    let plain = ready_pool(2)?;
    let measured = ready(Pool::builder().insights(true), 2)?;
    let told = ready(Pool::builder().on_worker_event(|_| {}), 2)?;
    for pool in [&plain, &measured, &told] {
        // Memory that is there from then on, and paces that are known.
        time(pool, count / 4)?;
    }
    let off = time(&plain, count)?;
    let on = time(&measured, count)?;
    ensure(measured.insights().run.count > count, "a task has not been measured")?;
    journal.note("insights_share", off.as_secs_f64() / on.as_secs_f64());
    journal.note("insights_cost", (on.as_secs_f64() - off.as_secs_f64()) * 1e9 / count as f64);
    journal.note("events_share", off.as_secs_f64() / time(&told, count)?.as_secs_f64());

    let reported = Arc::new(AtomicU64::new(0));
    let done = Arc::clone(&reported);
    let start = Instant::now();
    let progress = Progress::with(move |report| done.store(report.done, Relaxed));
    let results = plain.batch().progress(progress).map(tiny, 0..count)?;
    let on = start.elapsed();
    are_right(results, count)?;
    ensure(reported.load(Relaxed) == count, "the last report is not of all tasks")?;
    journal.note("progress_share", off.as_secs_f64() / on.as_secs_f64());
    Ok(())
}

fn time(pool: &Pool, count: u64) -> Outcome<Duration> {
    let start = Instant::now();
    let results = pool.map(tiny, 0..count)?;
    let time = start.elapsed();
    are_right(results, count)?;
    Ok(time)
}
