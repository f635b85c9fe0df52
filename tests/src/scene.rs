//! The guard around a test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pool_core::{Builder, Output, Pool, RestartPolicy};

use crate::footprint::Footprint;
use crate::start::start_method;
use crate::transport::transport;
use crate::watchdog::{LIMIT, Watchdog};

/// The name of every pool of a scene; its threads are found by it.
const POOL: &str = "scene";
/// How long the last thread or process may take to disappear once the pool is gone.
const AFTERMATH: Duration = Duration::from_secs(10);

/// Descriptors, threads and children belong to the process, so one test runs at a time.
static TURN: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Make it before the pool, so that it is dropped after it. Dropped, it checks that nothing is left.
#[derive(Debug)]
pub struct Scene {
    mark: String,
    before: Footprint,
    _watchdog: Watchdog,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    /// Waits for its turn, and looks at what is there before.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it waits, and has a guard's life")]
    pub fn new() -> Self {
        Self::of(LIMIT)
    }

    /// As [`new`](Self::new), for a test that is asked to take longer.
    #[must_use]
    pub fn of(limit: Duration) -> Self {
        // A test that failed has poisoned it, and that is all it has done.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mark =
            format!("POOL_TESTS_SCENE={}.{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let test = thread::current().name().unwrap_or("of no name").to_owned();
        Self {
            before: Footprint::take(&mark, POOL),
            mark,
            _watchdog: Watchdog::new(test, limit),
            _turn: turn,
        }
    }

    /// A builder for a pool of two workers that run this program. What they print is thrown away; what their restart policy
    /// forgives is left as it is, but it does not wait long.
    pub fn builder(&self) -> Builder {
        let (key, value) = self.mark.split_once('=').expect("made above");
        let restart = RestartPolicy {
            first_delay: Duration::from_millis(2),
            max_delay: Duration::from_millis(50),
            ..RestartPolicy::default()
        };
        let builder = Pool::builder().name(POOL).transport(transport()).start(start_method()).workers(2);
        builder.output(Output::Null).restart(restart).env(key, value)
    }

    /// The entry in the environment of everything that this scene has started.
    #[must_use]
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// Waits until everything that was not there before is gone.
    ///
    /// # Panics
    /// When something is left.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        let deadline = Instant::now() + AFTERMATH;
        loop {
            let now = Footprint::take(&self.mark, POOL);
            if now.is_within(&self.before) {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {}", now.beyond(&self.before));
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.expect_nothing_left();
        }
    }
}
