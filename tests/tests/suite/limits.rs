//! Time limits: in every result mode, whatever a task is stuck in, and whatever else goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pool_core::{Call, OnFailure, Pool, TaskError};
use pool_tests::{Mode, Scene, block_on, expect_healthy, wait_until};
use pool_worker::drill;

use crate::programs::stock;

/// The limit of the stuck task.
const LIMIT: Duration = Duration::from_millis(150);
/// What no outcome takes as long as; it is there against hangs, and says nothing of how soon outcomes come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the task is stuck in.
#[derive(Debug, Clone, Copy)]
enum Stuck {
    Sleep,
    BusyLoop,
    InC,
    Stopped,
    IgnoringSigterm,
}

impl Stuck {
    const ALL: [Self; 5] = [Self::Sleep, Self::BusyLoop, Self::InC, Self::Stopped, Self::IgnoringSigterm];

    fn call(self) -> Call<()> {
        let call = match self {
            Self::Sleep => drill::hang(),
            Self::BusyLoop => drill::spin_for_ever(),
            Self::InC => drill::hang_in_c(),
            Self::Stopped => drill::stop(),
            Self::IgnoringSigterm => drill::hang_ignoring_sigterm(),
        };
        call.timeout(LIMIT)
    }
}

/// What else goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Alone,
    /// Short tasks keep coming and ending.
    NextToSteadyTasks,
    /// Others were submitted before it.
    BehindAFullQueue,
    /// Its outcome is not asked for before it is there.
    NobodyWaiting,
}

impl Place {
    const ALL: [Self; 4] =
        [Self::Alone, Self::NextToSteadyTasks, Self::BehindAFullQueue, Self::NobodyWaiting];
}

/// Runs a stuck task, and returns its outcome. `before_asking` is called when it has been submitted, in the middle of what the mode
/// does.
fn run(pool: &Pool, how: Mode, stuck: Stuck, before_asking: &dyn Fn()) -> Result<(), TaskError> {
    // For the map family: an input with one item, which does not end before the outcome may be asked for.
    let input = || {
        std::iter::once(0).chain(std::iter::from_fn(|| {
            before_asking();
            None
        }))
    };
    let call = |_| stuck.call();
    let only = |mut results: Vec<Result<(), TaskError>>| {
        assert_eq!(results.len(), 1);
        results.remove(0)
    };
    match how {
        Mode::ApplyAsync | Mode::WaitTimeout | Mode::Future => {
            let handle = pool.apply_async(stuck.call());
            before_asking();
            match how {
                Mode::ApplyAsync => handle.get(),
                Mode::Future => block_on(handle),
                _ => {
                    assert!(handle.wait_timeout(PATIENCE));
                    assert!(handle.is_finished());
                    handle.get()
                }
            }
        }
        Mode::Map => pool.map(call, input()).map(drop).map_err(|error| error.error),
        Mode::MapUnordered => pool.map_unordered(call, input()).map(drop).map_err(|error| error.error),
        Mode::MapSettled => only(pool.map_settled(call, input())),
        Mode::Imap => {
            let mut results = pool.imap(call, 0..1);
            // An iterator begins when it is asked.
            assert!(results.next_timeout(Duration::ZERO).is_err());
            before_asking();
            let first = results.next().expect("one item");
            assert!(results.next().is_none());
            first
        }
        Mode::ImapUnordered => {
            let mut results = pool.batch().on_failure(OnFailure::Isolate).imap_unordered(call, 0..1);
            assert!(results.next_timeout(Duration::ZERO).is_err());
            before_asking();
            only(results.collect())
        }
    }
}

/// Runs every stuck task in every place, on one pool, which must be whole again after each.
fn every_limit_holds(how: Mode) {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).cancel_grace(Duration::ZERO).build().unwrap();
    expect_healthy(&pool);
    for stuck in Stuck::ALL {
        for place in Place::ALL {
            let case = format!("{how:?}, {stuck:?}, {place:?}");
            let before = pool.stats();
            let over = AtomicBool::new(false);
            let began = Instant::now();
            let outcome = std::thread::scope(|scope| {
                let steady = (place == Place::NextToSteadyTasks).then(|| {
                    scope.spawn(|| {
                        while !over.load(Ordering::Relaxed) {
                            assert_eq!(pool.apply(drill::sleep_ms(2)).unwrap(), 2);
                        }
                    })
                });
                let queue: Vec<_> = match place {
                    Place::BehindAFullQueue => {
                        (0..80).map(|_| pool.apply_async(drill::sleep_ms(5))).collect()
                    }
                    _ => Vec::new(),
                };
                let before_asking = || {
                    if place == Place::NobodyWaiting {
                        wait_until("it has timed out", || pool.stats().timed_out > before.timed_out);
                    }
                };
                let outcome = run(&pool, how, stuck, &before_asking);
                over.store(true, Ordering::Relaxed);
                if let Some(steady) = steady {
                    steady.join().expect("the short tasks are not harmed");
                }
                for handle in queue {
                    assert_eq!(handle.get().expect("the others are not harmed"), 5);
                }
                outcome
            });
            let took = began.elapsed();
            assert!(
                matches!(outcome, Err(TaskError::TimedOut { limit, .. }) if limit == LIMIT),
                "{case}: {outcome:?}"
            );
            assert!((LIMIT..PATIENCE).contains(&took), "{case}: {took:?}");
            let after = pool.stats();
            let (late, failed) = (after.timed_out - before.timed_out, after.failed - before.failed);
            assert_eq!((late, failed), (1, 0), "{case}: {after:?}");
            wait_until("its worker is buried", || {
                pool.stats().deaths.task_timeout > before.deaths.task_timeout
            });
            expect_healthy(&pool);
        }
    }
    let stats = pool.stats();
    assert_eq!(stats.deaths.total(), (Stuck::ALL.len() * Place::ALL.len()) as u64, "{stats:?}");
}

macro_rules! limits_hold {
    ($($name:ident: $how:ident,)*) => {$(
        #[test]
        fn $name() {
            every_limit_holds(Mode::$how);
        }
    )*};
}

limits_hold! {
    limits_hold_in_get: ApplyAsync,
    limits_hold_in_wait_timeout: WaitTimeout,
    limits_hold_in_futures: Future,
    limits_hold_in_map: Map,
    limits_hold_in_map_unordered: MapUnordered,
    limits_hold_in_imap: Imap,
    limits_hold_in_imap_unordered: ImapUnordered,
    limits_hold_in_map_settled: MapSettled,
}
