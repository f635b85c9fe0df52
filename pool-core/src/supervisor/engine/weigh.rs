//! How much memory workers have: looked at from outside while they have tasks, if there is a limit.
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

/// Limits of the private memory of each worker, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// Above it the worker is replaced after its task.
    pub(crate) recycle: Option<u64>,
    /// Above it the worker is killed.
    pub(crate) kill: Option<u64>,
}

impl Limits {
    fn lowest(&self) -> Option<u64> {
        self.recycle.into_iter().chain(self.kill).min()
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

    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }
}

/// How long a worker with so much memory cannot get above the limit, about.
fn pause(private: u64, limit: u64) -> Duration {
    Duration::from_nanos(limit.saturating_sub(private) / BYTES_A_NANO).clamp(LEAST_PAUSE, LONGEST_PAUSE)
}

impl Engine {
    /// A worker has been given a task.
    #[inline]
    pub(super) fn note_work(&mut self, now: Instant, index: usize) {
        if let Some(limit) = self.weigh.limits.lowest()
            && let Some(Some(link)) = self.links.get_mut(index)
            && !std::mem::replace(&mut link.unweighed, true)
        {
            let at = now + pause(link.private, limit);
            self.weigh.at = Some(self.weigh.at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// Looks at the memory of workers, when it is time for that.
    pub(super) fn weigh(&mut self, now: Instant) {
        let Some(limit) = self.weigh.limits.lowest().filter(|_| self.weigh.at.is_some_and(|at| at <= now))
        else {
            return;
        };
        self.read_rings();
        self.weigh.at = None;
        for index in 0..self.links.len() {
            let busy = self.machine.load(index) > 0;
            let Some(Some(link)) = self.links.get_mut(index) else { continue };
            if !link.unweighed || link.killed.is_some() {
                continue;
            }
            let who = link.who;
            let Some(private) = link.weigh() else { continue };
            link.unweighed = busy;
            if let Some(kill) = self.weigh.limits.kill.filter(|kill| private > *kill) {
                self.machine.on(now, Event::OverLimit(who, private, kill));
                continue;
            }
            if self.weigh.limits.recycle.is_some_and(|recycle| private > recycle) {
                // It leaves after its task; until then it may grow further.
                self.machine.on(now, Event::Heavy(who));
            }
            if busy {
                let at = now + pause(private, limit).max(LEAST_PAUSE);
                self.weigh.at = Some(self.weigh.at.map_or(at, |planned| planned.min(at)));
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
        assert_eq!(pause(0, u64::MAX), LONGEST_PAUSE);
        assert_eq!(pause(3 * GIB, 2 * GIB), LEAST_PAUSE);
        assert_eq!(pause(2 * GIB, 2 * GIB), LEAST_PAUSE);
        let near = pause(2 * GIB - (80 << 20), 2 * GIB);
        assert!(near > LEAST_PAUSE && near < LONGEST_PAUSE, "{near:?}");
        assert!(pause(2 * GIB - (40 << 20), 2 * GIB) < near);
    }
}
