//! The dead who cannot be reaped yet, and those who are as good as dead.
//!
//! *Held.* A process that somebody debugs (`ptrace(2)`) is its debugger's to wait for before it is ours. Its pidfd says that it is
//! dead, and `waitid(2)` that it has nothing to tell, until the debugger has taken note of the death or is gone itself, which may be
//! never. The task and the pool do not wait for that: the worker counts as dead at once, with the status that `/proc` shows. What
//! is left of it stays among the dying, out of epoll, which would report it for ever, and is looked for from time to time. A pool
//! at its end does so for [`PATIENCE`], and then leaves it to the debugger.
//!
//! *Stuck.* A process that has been killed and sleeps in the kernel (state D), or in a frozen control group of the first version, dies
//! when it wakes up, which may be never. It will not run one instruction of its own before that, so its board has its last word
//! as soon as the signal has reached all its threads. What it holds waits for that; after [`STUCK`] it counts as dead, and what is
//! left of it is treated like one that is held.
//!
//! *Orphans.* A program that is the first process of a container, or has made itself a subreaper, is given the children of tasks
//! when their worker is dead: they have been killed with it, and are zombies until this program reaps them. Any program has such
//! children if a task has made them with `CLONE_PARENT`. They are found by their process group, whose number cannot be given to
//! anybody else while one of them is there.
//!
//! # Races
//! * *One that was stuck dies in the moment in which it is given up.* It is asked once more, and has its own status then.
//! * *One that was stuck was in the midst of writing a result.* What comes of it later is not read: the pipe is closed, and the ring
//!   given up. Its task had been started, and has lost its worker.
//! * *The debugger lets go between two looks.* The next look reaps.
//! * *An orphan does not die at once.* It is looked for again, for at most [`PATIENCE`].
//! * *Somebody else reaps them.* Then there are none.

use std::time::{Duration, Instant};

use super::Engine;
use crate::supervisor::event::Incarnation;
use crate::supervisor::link::Link;
use crate::sys::process;

/// How long a pool at its end waits for debuggers, and any pool for orphans that have been killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a worker that has been killed may take to die.
pub(super) const STUCK: Duration = Duration::from_secs(2);
const HELD_PAUSE: Duration = Duration::from_millis(100);
const ORPHAN_PAUSE: Duration = Duration::from_millis(5);

/// What is looked for again.
#[derive(Debug, Default)]
pub(super) struct Unreaped {
    at: Option<Instant>,
    /// Workers that have been killed and whose death is waited for, and until when.
    killed: Vec<(Incarnation, Instant)>,
    /// Process groups of dead workers, and until when they are looked for.
    orphans: Vec<(u32, Instant)>,
    /// When a pool at its end looks no more for those that are held.
    give_up_at: Option<Instant>,
}

impl Unreaped {
    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }

    pub(super) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    fn look_after(&mut self, now: Instant, pause: Duration) {
        let at = now + pause;
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }
}

impl Engine {
    /// Keeps a worker that is dead, and whose death has been told, until it can be reaped.
    pub(super) fn keep_held(&mut self, now: Instant, mut link: Link) {
        tracing::debug!(pool = self.pool, pid = link.pid, "a dead worker cannot be reaped yet");
        link.hold();
        self.dying.push(link);
        self.unreaped.look_after(now, HELD_PAUSE);
    }

    /// Somebody has been killed, and what it holds waits for its death.
    pub(super) fn await_death(&mut self, now: Instant, who: Incarnation) {
        self.unreaped.killed.push((who, now + STUCK));
        self.unreaped.look_after(now, STUCK);
    }

    /// Buries those that do not die although they have been killed.
    fn give_up_the_stuck(&mut self, now: Instant) {
        let due = self.unreaped.killed.extract_if(.., |(_, until)| *until <= now);
        for who in due.map(|(who, _)| who).collect::<Vec<_>>() {
            if let Some(link) = self.live(who) {
                link.stuck = true;
                tracing::warn!(pid = link.pid, "a worker that was killed is stuck in the kernel");
                self.bury(now, who);
            }
        }
        if let Some(next) = self.unreaped.killed.iter().map(|(_, until)| *until).min() {
            self.unreaped.look_after(now, next.saturating_duration_since(now));
        }
    }

    /// A worker has been reaped, and what was left of its group killed before that.
    pub(super) fn reap_orphans(&mut self, now: Instant, group: u32) {
        if process::reap_dead_of(group) {
            self.unreaped.orphans.push((group, now + PATIENCE));
            self.unreaped.look_after(now, ORPHAN_PAUSE);
        }
    }

    /// Looks again, if it is time.
    pub(super) fn look_for_unreaped(&mut self, now: Instant) {
        if self.unreaped.at.is_none_or(|at| at > now) {
            return;
        }
        self.unreaped.at = None;
        self.give_up_the_stuck(now);
        self.unreaped.orphans.retain(|(group, until)| process::reap_dead_of(*group) && now < *until);
        if self.unreaped.has_orphans() {
            self.unreaped.look_after(now, ORPHAN_PAUSE);
        }
        if self.machine.is_drained() {
            let give_up_at = *self.unreaped.give_up_at.get_or_insert(now + PATIENCE);
            if now >= give_up_at {
                tracing::warn!(pool = self.pool, "dead workers are left to whoever holds them");
                self.dying.retain(|link| !link.held);
            }
        }
        let mut place = 0;
        while let Some(link) = self.dying.get(place) {
            match link.held.then(|| link.reap()) {
                None => place += 1,
                Some(Ok(None)) => {
                    place += 1;
                    self.unreaped.look_after(now, HELD_PAUSE);
                }
                Some(Ok(Some(_)) | Err(_)) => {
                    let link = self.dying.swap_remove(place);
                    self.reap_orphans(now, link.pid);
                    self.buried.push(link);
                    self.needs_reactor = true;
                }
            }
        }
    }
}
