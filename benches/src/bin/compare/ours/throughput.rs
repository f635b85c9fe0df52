//! Many tiny tasks at once.

use std::time::Instant;

use pool_benches::Outcome;
use pool_benches::samples::mega_rate;

use super::{are_right, ready_pool};
use crate::bare::streams;
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks::tiny;

/// How often everything is measured in one round.
const TURNS: u32 = 3;

/// `map`, `map_settled` and `map` with retries, and messages through a bare pipe.
pub(crate) fn map(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let count = effort.pick(200_000, 1_000_000);
    let messages = effort.pick(2_000_000, 4_000_000);
    journal.note("bare.pipe_batched", mega_rate(messages as u64, streams::send(messages, 256)?));
    let pool = ready_pool(2)?;
    // In turns in the same pool: the first map of a pool maps its memory, too.
    for _ in 0..TURNS {
        let start = Instant::now();
        let results = pool.map(tiny, 0..count)?;
        let plain = start.elapsed();
        are_right(results, count)?;
        journal.note("map", mega_rate(count, plain));

        let start = Instant::now();
        let results = pool.map_settled(tiny, 0..count);
        let settled = start.elapsed();
        are_right(results.into_iter().collect::<Result<Vec<_>, _>>()?, count)?;
        journal.note("settled_share", plain.as_secs_f64() / settled.as_secs_f64());

        let start = Instant::now();
        let results = pool.map(|n| tiny(n).retries(1), 0..count)?;
        let retrying = start.elapsed();
        are_right(results, count)?;
        journal.note("retries_share", plain.as_secs_f64() / retrying.as_secs_f64());
    }
    Ok(())
}

/// Tasks that are submitted one at a time, and then waited for.
pub(crate) fn singles(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let count = effort.pick(100_000, 300_000);
    let messages = effort.pick(200_000, 500_000);
    journal.note("bare.pipe_single", mega_rate(messages as u64, streams::send(messages, 1)?));
    let messages = 2_000_000;
    journal.note("bare.pipe_batched", mega_rate(messages as u64, streams::send(messages, 256)?));
    let pool = ready_pool(2)?;
    for _ in 0..TURNS {
        let start = Instant::now();
        let handles: Vec<_> = (0..count).map(|n| pool.apply_async(tiny(n))).collect();
        let results = handles.into_iter().map(|handle| handle.get()).collect::<Result<Vec<_>, _>>()?;
        let time = start.elapsed();
        are_right(results, count)?;
        journal.note("singles", mega_rate(count, time));
    }
    Ok(())
}
