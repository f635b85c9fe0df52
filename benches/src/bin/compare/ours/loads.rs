//! Tasks that take time: how much of the cores' time is theirs, and how well unequal ones are spread.

use std::time::{Duration, Instant};

use pool_benches::{Outcome, ensure};
use pool_core::Pool;

use super::ready_pool;
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks;

/// Seed of the heavy-tailed sizes: the same work in every run.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
/// Shape of the distribution; below 2 its variance has no limit.
const SHAPE: f64 = 1.2;
const SHORTEST_NS: f64 = 10e3;
/// A single task must not decide the finish.
const LONGEST_NS: f64 = 30e6;

/// How the tasks are bundled.
#[derive(Debug, Clone, Copy)]
enum Bundling {
    /// As the pool does it by itself.
    Default,
    /// Always so many, as somebody would who knows the sizes.
    Chunks(usize),
}

/// The bundlings that the default is compared with.
const BY_HAND: &[Bundling] =
    &[Bundling::Chunks(1), Bundling::Chunks(10), Bundling::Chunks(100), Bundling::Chunks(1000)];

/// Runs the tasks; tells the time to the last result, and how long they took by themselves.
fn run(pool: &Pool, bundling: Bundling, sizes: &[u64]) -> Outcome<(Duration, Duration)> {
    let start = Instant::now();
    let spent = match bundling {
        Bundling::Default => pool.map(tasks::busy, sizes.iter().copied())?,
        Bundling::Chunks(size) => pool.batch().chunk_size(size).map(tasks::busy, sizes.iter().copied())?,
    };
    let time = start.elapsed();
    ensure(spent.len() == sizes.len(), "results are missing")?;
    ensure(spent.iter().zip(sizes).all(|(spent, size)| spent >= size), "a task ended early")?;
    Ok((time, Duration::from_nanos(spent.iter().sum())))
}

fn cores() -> Outcome<usize> {
    Ok(std::thread::available_parallelism()?.get())
}

/// Tasks of one size, a worker for each core: the share of the cores' time that they get.
pub(crate) fn busy(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let cores = cores()?;
    for (name, ns) in [("busy_100us", 100_000), ("busy_1ms", 1_000_000)] {
        let wall: u64 = effort.pick(200_000_000, 1_000_000_000);
        let count = usize::try_from(wall / ns)? * cores;
        let pool = ready_pool(cores)?;
        let (time, spent) = run(&pool, Bundling::Default, &vec![ns; count])?;
        journal.note(name, 100.0 * spent.as_secs_f64() / (time.as_secs_f64() * cores as f64));
    }
    Ok(())
}

/// Unequal tasks, compared with the ideal: the cores share the work evenly and nothing else costs anything.
pub(crate) fn mixed(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let count = effort.pick(300_000, 1_000_000);
    let mut one_long = vec![1_000; count];
    let long = effort.pick(300_000_000, 1_000_000_000);
    if let Some(size) = one_long.get_mut(count / 10) {
        *size = long;
    }
    if effort.quick {
        journal.remark("one long task: 0.3 s among 3·10⁵ tasks, since this is a quick run".to_owned());
    }
    let heavy = heavy_tailed(effort.pick(5_000, 20_000));
    let cores = cores()?;
    for (name, sizes) in [("mixed_one_long", one_long), ("mixed_heavy_tail", heavy)] {
        let pool = ready_pool(cores)?;
        for bundling in std::iter::once(&Bundling::Default).chain(BY_HAND) {
            let (time, spent) = run(&pool, *bundling, &sizes)?;
            let longest = sizes.iter().max().copied().unwrap_or(0) as f64 / 1e9;
            let ideal = (spent.as_secs_f64() / cores as f64).max(longest);
            match bundling {
                Bundling::Default => journal.note(name, time.as_secs_f64() / ideal),
                Bundling::Chunks(size) => {
                    journal.note(&format!("{name}.chunks_{size}"), time.as_secs_f64() / ideal);
                }
            }
        }
    }
    Ok(())
}

/// Sizes in ns after Pareto, from a generator of its own so that no library's change alters the work (xorshift64*).
fn heavy_tailed(count: usize) -> Vec<u64> {
    let mut state = SEED;
    let mut uniform = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let bits = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        (bits as f64 + 1.0) / (1_u64 << 53) as f64
    };
    (0..count).map(|_| (SHORTEST_NS * uniform().powf(-1.0 / SHAPE)).min(LONGEST_NS) as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_tailed_sizes_are_the_same_every_time_and_unequal() {
        let sizes = heavy_tailed(20_000);
        assert_eq!(sizes, heavy_tailed(20_000));
        let total: u64 = sizes.iter().sum();
        let mut sorted = sizes.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let top: u64 = sorted.iter().take(200).sum();
        assert!(top * 4 > total, "one in a hundred holds more than a quarter of the work: {top} of {total}");
        assert!(sorted[0] as f64 <= LONGEST_NS && *sorted.last().unwrap() as f64 >= SHORTEST_NS);
    }
}
