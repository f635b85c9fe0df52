//! How late the news comes that a task has exceeded its time limit.

use std::time::{Duration, Instant};

use pool_benches::samples::millis;
use pool_benches::{Outcome, ensure};
use pool_core::TaskError;

use super::ready_pool;
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks::hang;

const LIMIT: Duration = Duration::from_millis(100);

/// One task after the other hangs, in a pool that has nothing else to do.
pub(crate) fn limits(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let pool = ready_pool(2)?;
    let mut latest = 0.0_f64;
    for _ in 0..effort.pick(10, 50) {
        let start = Instant::now();
        let outcome = pool.apply(hang().timeout(LIMIT));
        let late = millis(start.elapsed().saturating_sub(LIMIT));
        ensure(matches!(outcome, Err(TaskError::TimedOut { .. })), "a task that hangs does not time out")?;
        journal.note("limit_late", late);
        latest = latest.max(late);
    }
    journal.note("limit_latest", latest);
    Ok(())
}
