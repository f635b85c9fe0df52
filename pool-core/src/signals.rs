//! SIGINT and SIGTERM, for pools that are to end before the program does.
//!
//! # States
//!
//! ```text
//!               the first signal              pools have ended, workers     `main` has had
//!                                             are gone                      its time
//! Quiet ───────────────────────▶ Ending ────────────────────────▶ Parting ──────────────▶ the program
//!                                   │ a second signal, or exit       │ the same            ends by the signal
//!                                   └────────────────────────────────┴──────────────────▶
//! ```
//!
//! A handler does nothing but remember the signal and ring a bell; a thread does the rest. Handler and thread are made
//! with the first pool that asks for them, and stay: with no such pool left, a signal ends the program at once.
//!
//! # Races
//! * *A signal comes while a pool is being built.* It is registered last: either the thread finds it, or it ends with the
//!   program.
//! * *A pool is dropped meanwhile.* The thread holds what handles hold, which keeps no pool alive; whoever drops the pool
//!   finds it ended.
//! * *`main` returns before the workers are gone.* Dropping the pool waits for them; at exit the signal does what is left.
//! * *A fork.* In the child the signal does what it did before there was a handler, until the child builds such a pool itself:
//!   then it gets a letterbox and a thread of its own. The locks of the parent's are not touched. A child that is forked at
//!   the very moment at which another thread makes the first ones must not build such a pool.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::fork::Origin;
use crate::supervisor::event::Event;
use crate::supervisor::shared::Shared;
use crate::sys::signals::{self, Disposition, Letterbox};

/// How long killed workers are waited for, which takes milliseconds unless one is stuck in the kernel.
const REAP_PATIENCE: Duration = Duration::from_secs(10);
/// How long `main` may take to report what it has been told, or to exit.
const GRACE: Duration = Duration::from_millis(500);

const SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];
/// Which of them have a handler of ours.
static CAUGHT: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
static ENDS_AT_EXIT: AtomicBool = AtomicBool::new(false);

/// The pools of one process that end with a signal.
#[derive(Debug)]
struct Watch {
    origin: Origin,
    pools: Mutex<Vec<Weak<Shared>>>,
}

/// That of this process, or of the one that it has been forked from.
static WATCH: Mutex<Option<Arc<Watch>>> = Mutex::new(None);

/// Where a pool is to be registered.
#[derive(Debug)]
pub(crate) struct Place(Arc<Watch>);

/// Has signals handled in this process, unless they are.
pub(crate) fn prepare() -> io::Result<Place> {
    let mut current = WATCH.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(watch) = current.as_ref().filter(|watch| !watch.origin.is_elsewhere()) {
        return Ok(Place(Arc::clone(watch)));
    }
    let watch = Arc::new(Watch { origin: Origin::here(), pools: Mutex::default() });
    let (mut bell, rung) = io::pipe()?;
    let letterbox = Letterbox::new(rung);
    let thread = std::thread::Builder::new().name("pool-signals".to_owned());
    thread.spawn({
        let watch = Arc::clone(&watch);
        move || {
            if bell.read_exact(&mut [0]).is_ok() {
                watch.end(letterbox.signal());
            }
        }
    })?;
    letterbox.publish();
    for (signal, caught) in SIGNALS.into_iter().zip(&CAUGHT) {
        let before = signals::disposition(signal)?;
        if before != Disposition::Ignored && !caught.load(Ordering::Relaxed) {
            signals::catch(signal, before)?;
            caught.store(true, Ordering::Relaxed);
        }
    }
    if !ENDS_AT_EXIT.load(Ordering::Relaxed) {
        signals::end_at_exit()?;
        ENDS_AT_EXIT.store(true, Ordering::Relaxed);
    }
    *current = Some(Arc::clone(&watch));
    Ok(Place(watch))
}

impl Place {
    /// Has a pool ended by a signal.
    pub(crate) fn take(self, pool: &Arc<Shared>) {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|known| known.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }
}

impl Watch {
    /// Ends all pools, and then the program.
    fn end(&self, signal: i32) {
        let pools: Vec<Arc<Shared>> = {
            let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        if !pools.is_empty() {
            // Should it fail, the program ends all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                for pool in &pools {
                    pool.with(|engine, now| engine.machine.on(now, Event::Interrupt(signal)));
                }
                let deadline = Instant::now() + REAP_PATIENCE;
                for pool in &pools {
                    if !pool.wait_gone(Some(deadline)) {
                        tracing::error!(pool = pool.name, "workers are still not gone after a signal");
                    }
                }
            }));
            drop(pools);
            std::thread::sleep(GRACE);
        }
        signals::end_by(signal);
    }
}
