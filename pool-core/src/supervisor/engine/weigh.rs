//! How much memory workers have, and whether their tasks start too many processes: looked at from outside while they have tasks, if
//! there is a limit.
//!
//! A worker is *unweighed* from the moment it is given a task until it has been looked at once with an empty hand. While there
//! is one, there is a time for the next look; an idle pool has none, so it does not wake up. What counts is *private* memory:
//! what is resident, without what is mapped from files or shared.
//!
//! # Races
//! * *A result and a look.* The results that the worker has written are read before its death is judged, so a task that was done
//!   is not blamed.
//! * *It ends while it is looked at.* A process that is gone has no memory.

use std::time::{Duration, Instant};

use super::Engine;
use crate::supervisor::event::Event;

/// Nobody fills memory faster than about so many bytes in a nanosecond.
const BYTES_A_NANO: u64 = 4;
const LEAST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// What a fork bomb can do within that is bounded by the kernel.
const CROWD_PAUSE: Duration = Duration::from_millis(50);

/// Limits of the private memory of each worker, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Above it the worker is replaced when it has finished what it runs.
    pub(crate) recycle: Option<u64>,
    /// Above it the worker is killed.
    pub(crate) kill: Option<u64>,
    /// With more processes and threads the worker is killed; what tells is its control group.
    pub(crate) processes: Option<u32>,
}

impl Limits {
    fn is_none(&self) -> bool {
        self.recycle.is_none() && self.kill.is_none() && self.processes.is_none()
    }

    /// How long a worker with so much memory cannot get above a limit that it has not exceeded, about.
    fn pause(&self, private: u64) -> Duration {
        let ahead = self.recycle.into_iter().chain(self.kill).filter_map(|limit| limit.checked_sub(private));
        let nanos = ahead.min().map(|bytes| Duration::from_nanos(bytes / BYTES_A_NANO));
        let longest = if self.processes.is_some() { CROWD_PAUSE } else { LONGEST_PAUSE };
        nanos.map_or(longest, |pause| pause.clamp(LEAST_PAUSE, longest))
    }
}

/// When the next worker is to be looked at.
#[derive(Debug)]
pub(super) struct Weigh {
    limits: Limits,
    at: Option<Instant>,
}

impl Weigh {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, at: None }
    }

    fn plan(&mut self, at: Instant) {
        self.at = Some(self.at.map_or(at, |planned| planned.min(at)));
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }
}

impl Engine {
    /// A worker has been given a task.
    #[inline]
    pub(super) fn note_work(&mut self, now: Instant, index: usize) {
        if !self.weigh.limits.is_none()
            && let Some(Some(link)) = self.links.get_mut(index)
            && !std::mem::replace(&mut link.unweighed, true)
        {
            self.weigh.plan(now + self.weigh.limits.pause(link.private));
        }
    }

    /// Looks at the memory of workers, when it is time for that.
    pub(super) fn weigh(&mut self, now: Instant) {
        if self.weigh.at.is_none_or(|at| at > now) {
            return;
        }
        self.read_rings();
        self.weigh.at = None;
        for index in 0..self.links.len() {
            let busy = self.machine.load(index) > 0;
            let Some(Some(link)) = self.links.get_mut(index) else { continue };
            if !link.unweighed || link.killed.is_some() {
                continue;
            }
            let who = link.who;
            if let Some(limit) = self.weigh.limits.processes.filter(|_| link.confined.is_full()) {
                self.machine.on(now, Event::Crowded(who, limit));
                continue;
            }
            let Some(private) = link.weigh() else { continue };
            link.unweighed = busy;
            if let Some(kill) = self.weigh.limits.kill.filter(|kill| private > *kill) {
                self.machine.on(now, Event::OverLimit(who, private, kill));
                continue;
            }
            if busy {
                self.weigh.plan(now + self.weigh.limits.pause(private));
            }
            if self.weigh.limits.recycle.is_some_and(|above| private > above) {
                self.machine.on(now, Event::Heavy(who));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_to_the_limit_the_sooner_is_the_next_look() {
        const GIB: u64 = 1 << 30;
        let limits = |recycle, kill| Limits { recycle, kill, processes: None };
        let kill = limits(None, Some(2 * GIB));
        assert_eq!(limits(None, Some(u64::MAX)).pause(0), LONGEST_PAUSE);
        assert_eq!(kill.pause(2 * GIB), LEAST_PAUSE);
        let near = kill.pause(2 * GIB - (80 << 20));
        assert!(near > LEAST_PAUSE && near < LONGEST_PAUSE, "{near:?}");
        assert!(kill.pause(2 * GIB - (40 << 20)) < near);
        // The one that has been exceeded is no reason to look more often.
        let both = limits(Some(GIB), Some(2 * GIB));
        assert_eq!(both.pause(GIB - 1), LEAST_PAUSE);
        assert_eq!(both.pause(2 * GIB - (80 << 20)), near);
        assert_eq!(limits(Some(GIB), None).pause(2 * GIB), LONGEST_PAUSE);
        assert_eq!(Limits { processes: Some(3), ..Limits::default() }.pause(0), CROWD_PAUSE);
    }
}
