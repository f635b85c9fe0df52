//! Large arguments and results.
//!
//! Rates are those of the median trip, for the pool as for its limit: a trip that another program interrupts says nothing of
//! either.

use std::time::{Duration, Instant};

use pool_benches::samples::{giga_rate, median};
use pool_benches::{Outcome, ensure};

use super::ready_pool;
use crate::bare::bulk::{self, Bulk};
use crate::bare::trips::Waiting;
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks;

const MIB: usize = 1 << 20;
/// How the bare sides wait, and so where they are.
const PLACES: [(Waiting, &str); 2] = [(Waiting::Spinning, "apart"), (Waiting::Asleep, "anywhere")];
/// Before it is measured, everything runs for this long: memory is mapped, and the two sides have found their cores.
const WARM_UP: Duration = Duration::from_millis(40);

/// Billions of bytes a second, when the median trip moves so many bytes.
fn rate(bytes: usize, times: usize, mut trip: impl FnMut() -> Outcome<Duration>) -> Outcome<f64> {
    let start = Instant::now();
    while start.elapsed() < WARM_UP {
        trip()?;
    }
    let trips = (0..times).map(|_| Ok(trip()?.as_secs_f64())).collect::<Outcome<Vec<f64>>>()?;
    let middle = median(&trips).ok_or("nothing was measured")?;
    Ok(giga_rate(bytes as u64, Duration::from_secs_f64(middle)))
}

/// The argument as the result, and the same through memory that is mapped once.
pub(crate) fn echo(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    for (name, length, times) in [
        ("64k", 64 << 10, effort.pick(500, 2_000)),
        ("1m", MIB, effort.pick(60, 200)),
        ("16m", 16 * MIB, effort.pick(6, 12)),
    ] {
        let data = tasks::payload(length);
        for (waiting, place) in PLACES {
            // A process that spins must have ended before the pool is measured.
            let mut bulk = Bulk::start(waiting)?;
            let bare = rate(2 * length, times, || bulk.there_and_back(&data))?;
            journal.note(&format!("bare.mapped_back_{name}_{place}"), bare);
        }
        let pool = ready_pool(1)?;
        let mut last = Vec::new();
        let ours = rate(2 * length, times, || {
            // The memory of the result before is given back here, which is part of the price.
            let start = Instant::now();
            last = pool.apply(tasks::echo(&data))?;
            let time = start.elapsed();
            ensure(last.len() == length, "a result of another length")?;
            Ok(time)
        })?;
        ensure(last == data, "other data has come back")?;
        journal.note(&format!("echo_{name}"), ours);
    }
    Ok(())
}

/// A large argument that the task only looks at, and the same through memory that is mapped once.
pub(crate) fn borrowed(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let times = effort.pick(8, 20);
    let data = tasks::payload(16 * MIB);
    {
        let mut into = data.clone();
        journal.note("bare.memcpy_16m", rate(data.len(), times, || bulk::memcpy(&data, &mut into))?);
    }
    for (waiting, place) in PLACES {
        let mut bulk = Bulk::start(waiting)?;
        let bare = rate(data.len(), times, || bulk.one_way(&data))?;
        journal.note(&format!("bare.mapped_one_way_16m_{place}"), bare);
    }
    let pool = ready_pool(1)?;
    let expected = tasks::sample_of(&data);
    let ours = rate(data.len(), times, || {
        let start = Instant::now();
        let seen = pool.apply(tasks::sample(&data))?;
        let time = start.elapsed();
        ensure(seen == expected, "the task has seen other data")?;
        Ok(time)
    })?;
    journal.note("borrowed", ours);
    Ok(())
}
