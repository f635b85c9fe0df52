//! Whether a task costs the same among few and many tasks, and among few and many workers.

use std::time::Instant;

use pool_benches::samples;
use pool_benches::{Outcome, ensure};
use pool_core::Pool;

use super::{are_right, ready_pool};
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks::tiny;

/// Each size is repeated until so many tasks have run, so that short maps do not stand for one lucky moment.
const AT_LEAST: u64 = 200_000;

/// From a thousand tasks to ten million; to one million in a quick run.
pub(crate) fn tasks(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let pool = ready_pool(2)?;
    let mut costs = Vec::new();
    let largest: u64 = effort.pick(1_000_000, 10_000_000);
    let mut count = 1_000;
    while count <= largest {
        let cost = cost(&pool, count)?;
        journal.note(&format!("flat_tasks.{count}_ns"), cost);
        costs.push(cost);
        count *= 10;
    }
    if effort.quick {
        journal.remark("cost a task: to 10⁶ tasks only, since this is a quick run".to_owned());
    }
    note_spread("flat_tasks", &costs, journal)
}

/// From one worker to sixty-four.
pub(crate) fn workers(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let count = effort.pick(100_000, 300_000);
    let mut costs = Vec::new();
    for workers in [1, 2, 4, 8, 16, 32, 64] {
        let cost = cost(&ready_pool(workers)?, count)?;
        journal.note(&format!("flat_workers.{workers}_ns"), cost);
        costs.push(cost);
    }
    note_spread("flat_workers", &costs, journal)
}

/// Nanoseconds for each task of a map of so many; the median of several maps.
fn cost(pool: &Pool, count: u64) -> Outcome<f64> {
    let mut costs = Vec::new();
    for _ in 0..(AT_LEAST / count).max(1) {
        let start = Instant::now();
        let results = pool.map(tiny, 0..count)?;
        costs.push(start.elapsed().as_secs_f64() * 1e9 / count as f64);
        are_right(results, count)?;
    }
    Ok(samples::median(&costs).ok_or("nothing was measured")?)
}

fn note_spread(name: &str, costs: &[f64], journal: &mut Journal) -> Outcome<()> {
    let (least, most) = samples::extremes(costs).ok_or("nothing was measured")?;
    ensure(least > 0.0, "a task that costs nothing")?;
    journal.note(name, most / least);
    Ok(())
}
