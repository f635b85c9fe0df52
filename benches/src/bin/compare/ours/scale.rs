//! Whether a task costs the same among few and many tasks, and among few and many workers.

use std::fmt::Display;
use std::time::Instant;

use pool_benches::samples;
use pool_benches::{Outcome, ensure};
use pool_core::Pool;

use super::{are_right, ready_pool};
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks::tiny;

/// How often everything is measured, in turns, so that a slow moment does not count for one of the sizes alone.
const TURNS: usize = 7;
/// In each turn a size is repeated until so many tasks have run, so that short maps do not stand for one lucky moment.
const AT_LEAST: u64 = 100_000;

/// From a thousand tasks to ten million; to one million in a quick run.
pub(crate) fn tasks(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let pool = ready_pool(2)?;
    let largest: u64 = effort.pick(1_000_000, 10_000_000);
    let sizes: Vec<u64> = std::iter::successors(Some(1_000), |size| Some(size * 10))
        .take_while(|size| *size <= largest)
        .collect();
    let mut costs = vec![Vec::new(); sizes.len()];
    for _ in 0..effort.pick(3, TURNS) {
        for (size, costs) in sizes.iter().zip(&mut costs) {
            costs.push(cost(&pool, *size)?);
        }
    }
    if effort.quick {
        journal.remark("cost a task: to 10⁶ tasks only, since this is a quick run".to_owned());
    }
    note_spread("flat_tasks", &sizes, &costs, journal)
}

/// From one worker to sixty-four.
pub(crate) fn workers(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let count = effort.pick(100_000, 300_000);
    let sizes = [1, 2, 4, 8, 16, 32, 64];
    let pools = sizes.iter().map(|workers| ready_pool(*workers)).collect::<Outcome<Vec<_>>>()?;
    let mut costs = vec![Vec::new(); sizes.len()];
    for _ in 0..TURNS {
        for (pool, costs) in pools.iter().zip(&mut costs) {
            costs.push(cost(pool, count)?);
        }
    }
    note_spread("flat_workers", &sizes, &costs, journal)
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

/// The dearest size beside the cheapest, by the medians of all turns.
fn note_spread<S: Display>(
    name: &str,
    sizes: &[S],
    costs: &[Vec<f64>],
    journal: &mut Journal,
) -> Outcome<()> {
    let mut medians = Vec::new();
    for (size, costs) in sizes.iter().zip(costs) {
        let median = samples::median(costs).ok_or("nothing was measured")?;
        journal.note(&format!("{name}.{size}_ns"), median);
        medians.push(median);
    }
    let (least, most) = samples::extremes(&medians).ok_or("nothing was measured")?;
    ensure(least > 0.0, "a task that costs nothing")?;
    journal.note(name, most / least);
    Ok(())
}
