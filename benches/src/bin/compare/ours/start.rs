//! Starting, stopping, and starting again after a crash.

use std::time::Instant;

use pool_benches::samples::millis;
use pool_benches::{Outcome, ensure};
use pool_core::{Builder, Pool, TaskError, WorkerStatus};

use crate::bare::spawn;
use crate::effort::Effort;
use crate::journal::Journal;
use crate::sys;
use crate::tasks::{crash as crash_task, tiny};

/// A pool from nothing to nothing, and a bare process.
pub(crate) fn start(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    for _ in 0..effort.pick(6, 15) {
        let (_, exit) = spawn::spawn()?;
        journal.note("bare.spawn_exit", millis(exit));
        let start = Instant::now();
        let pool = Pool::builder().workers(2).build()?;
        let result = pool.apply(tiny(1))?;
        drop(pool);
        journal.note("start", millis(start.elapsed()));
        ensure(result == 2, "a wrong result")?;
    }
    Ok(())
}

/// From the moment at which a task aborts its worker to the result of the next task on the same place in the pool.
pub(crate) fn crash(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let one = || Pool::builder().workers(1);
    for _ in 0..effort.pick(6, 15) {
        let (first, _) = spawn::spawn()?;
        journal.note("bare.spawn_first_byte", millis(first));
        journal.note("bare.pidfd", millis(spawn::death()?));
        journal.note("crash", recover(one())?);
        journal.note("crash_spare", recover(one().spares(1))?);
    }
    Ok(())
}

/// In milliseconds.
fn recover(builder: Builder) -> Outcome<f64> {
    let pool = builder.build()?;
    ensure(pool.apply(tiny(1))? == 2, "a wrong result")?;
    // The spare, where there is one, is ready as well.
    while pool.workers().iter().any(|worker| worker.status == WorkerStatus::Starting) {
        std::thread::yield_now();
    }
    // In memory: the write comes between the clock and the crash, and a disk would count as part of the recovery.
    let stamp = tempfile::NamedTempFile::new_in("/dev/shm")?;
    let crashing = pool.apply_async(crash_task(stamp.path()));
    let next = pool.apply_async(tiny(7));
    let result = next.get()?;
    let end = sys::monotonic_ns();
    ensure(result == 8, "a wrong result")?;
    match crashing.get() {
        Err(TaskError::WorkerDied(_)) => {}
        other => return Err(format!("a crash is reported as {other:?}").into()),
    }
    let at: [u8; 8] = std::fs::read(stamp.path())?.as_slice().try_into()?;
    Ok(end.saturating_sub(u64::from_le_bytes(at)) as f64 / 1e6)
}
