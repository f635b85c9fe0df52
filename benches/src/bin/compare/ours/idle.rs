//! What a pool does when it has nothing to do.

use std::time::{Duration, Instant};

use pool_benches::{Outcome, ensure, process};

use super::{are_right, ready_pool};
use crate::journal::Journal;
use crate::tasks::tiny;

/// Time without a wake-up after which the work counts as over.
const QUIET: Duration = Duration::from_millis(50);
/// For how long it is looked at then.
const LOOK: Duration = Duration::from_secs(1);
/// A pool that is not quiet by then is taken as it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often threads of the pool and of its workers wake up, and for how long they run.
pub(crate) fn idle(journal: &mut Journal) -> Outcome<()> {
    let pool = ready_pool(2)?;
    are_right(pool.map(tiny, 0..10_000)?, 10_000)?;
    let start = Instant::now();
    let mut before = process::activity()?;
    loop {
        std::thread::sleep(QUIET);
        let now = process::activity()?;
        let quiet = process::activity_between(&before, &now).0 == 0;
        before = now;
        if quiet || start.elapsed() > PATIENCE {
            break;
        }
    }
    // Time passing is the subject.
    std::thread::sleep(LOOK);
    let after = process::activity()?;
    // A thread in the pool's process, and at least one in each worker.
    ensure(after.len() > 2, "the threads of the pool are not seen")?;
    let (switches, ran) = process::activity_between(&before, &after);
    journal.note("idle_wakeups", switches as f64 / LOOK.as_secs_f64());
    journal.note("idle_cpu", ran as f64 / 1e3 / LOOK.as_secs_f64());
    drop(pool);
    Ok(())
}
