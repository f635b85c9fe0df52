//! When the supervisor itself is at fault: nobody may wait for ever because of it, and no worker may be left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::Engine;
use crate::supervisor::event::{Event, KillReason};

/// How often it is tried to carry out what follows from a fault.
const TRIES: u32 = 64;
/// How long workers that have been killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Something has panicked: every task that has not ended ends with that, and every worker is killed.
    ///
    /// An action is taken from the queue before it is carried out, so one that panics again is not tried again.
    pub(crate) fn fault(&mut self, now: Instant, what: &str) {
        let mut is_told = false;
        for _ in 0..TRIES {
            let carried_out = catch_unwind(AssertUnwindSafe(|| {
                if !std::mem::replace(&mut is_told, true) {
                    self.machine.on(now, Event::Fault(what.to_owned()));
                }
                // What has not been carried out of what was wanted before comes first.
                while let Some(action) = self.pending.pop_front() {
                    self.perform(now, action);
                }
                self.run(now);
            }));
            if carried_out.is_ok() {
                return;
            }
        }
    }

    /// The launch that is under way has no result.
    pub(crate) fn forget_launch(&mut self) {
        self.spawning = None;
    }

    /// The reactor is about to end. If there is anything left, this is its last chance: kills the workers and reaps them.
    pub(crate) fn bury_the_rest(&mut self, now: Instant) {
        if self.is_gone() {
            return;
        }
        // After an orderly end there is none that this could concern.
        self.fault(now, "its thread has ended");
        self.to_spawn.clear();
        self.spawning = None;
        let deadline = now + PATIENCE;
        let living = self.links.iter_mut().filter_map(Option::take).chain(self.dying.drain(..));
        for mut link in living {
            link.kill(KillReason::Terminated);
            let remains = loop {
                match link.reap() {
                    Ok(Some(remains)) => break Some(remains),
                    Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                    // One that is stuck in the kernel; or nobody can tell.
                    Ok(None) | Err(_) => break None,
                }
            };
            if let Some(remains) = remains {
                self.deaths.count(&link.death(&remains, &mut self.oom, &self.executable).cause);
            }
        }
        self.buried.clear();
        self.abandoned = true;
    }
}
