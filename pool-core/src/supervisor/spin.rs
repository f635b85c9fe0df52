//! Waiting without sleeping, as long as that pays.
//!
//! Putting a thread to sleep and waking it costs tens of microseconds, so a short wait is better spent looking again and
//! again, provided that nobody else could use the core. Whether it pays is measured: every wait that was in vain halves
//! how often the next ones are tried, the first success restores it. A thread that has nothing to wait for soon (an idle
//! pool's worker) spins once, in vain, and sleeps.
//!
//! Every microsecond the core is offered to others (`sched_yield(2)`): the very thread that is waited for may be queued
//! behind the one that spins. Where somebody else takes it for a whole time slice, the cores are crowded, and to sleep is
//! better: who sleeps is woken the moment there is something. So spinning is given up then, for many times as long as has
//! been lost.
//!
//! Whether there is a core to spin on is for the engine to know: it spins only while workers that are busy leave one
//! free, and lets a worker spin only then.

use std::hint;
use std::time::{Duration, Instant};

use crate::sync::{self, thread};

/// About what two wake-ups of a sleeping core cost: to spin for longer never pays.
const LONGEST: Duration = Duration::from_micros(100);
/// Looks between two glances at the clock.
const LOOKS: u32 = 32;
/// A yield that takes longer has let somebody run who has much to do.
const SLICE: Duration = Duration::from_micros(200);
/// For how many times as long as was lost spinning is given up then.
const REST: u32 = 50;
/// Most waits that are not tried after one that was in vain.
const MOST_SKIPPED: u32 = 255;

/// A thread's experience with spinning.
#[derive(Debug)]
pub(crate) struct Spin {
    since: Option<Instant>,
    crowded_until: Option<Instant>,
    looks: u32,
    /// Waits still to be slept through.
    skip: u32,
    in_vain: u32,
}

impl Spin {
    pub(crate) fn new() -> Self {
        Self { since: None, crowded_until: None, looks: 0, skip: 0, in_vain: 0 }
    }

    /// What to do next, nothing having come yet.
    pub(crate) fn turn(&mut self) -> Turn {
        let Some(since) = self.since else {
            if self.skip > 0 {
                self.skip -= 1;
                return Turn::Sleep;
            }
            let now = sync::now();
            if self.crowded_until.is_some_and(|until| now < until) {
                return Turn::Sleep;
            }
            self.crowded_until = None;
            self.since = Some(now);
            self.looks = 0;
            return Turn::Look;
        };
        self.looks += 1;
        hint::spin_loop();
        if !self.looks.is_multiple_of(LOOKS) {
            return Turn::Look;
        }
        if since.elapsed() >= LONGEST { self.give_up() } else { Turn::Yield }
    }

    /// The thread has [given way](give_way), and was away for so long.
    pub(crate) fn was_away(&mut self, away: Duration) {
        if away >= SLICE && self.since.is_some() {
            self.crowded_until = Some(sync::now() + away * REST);
            self.give_up();
        }
    }

    /// What was waited for has come.
    pub(crate) fn found(&mut self) {
        if self.since.take().is_some() {
            self.in_vain = 0;
        }
    }

    fn give_up(&mut self) -> Turn {
        self.since = None;
        self.in_vain = (self.in_vain + 1).min(MOST_SKIPPED.ilog2() + 1);
        self.skip = (1 << self.in_vain) - 1;
        Turn::Sleep
    }
}

/// What a thread that waits does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It looks once more.
    Look,
    /// It [gives way](give_way), and looks once more.
    Yield,
    Sleep,
}

/// Offers the core to others (`sched_yield(2)`); for how long they had it. Not to be called with a lock held.
#[doc(alias = "sched_yield")]
pub(crate) fn give_way() -> Duration {
    let before = sync::now();
    thread::yield_now();
    sync::now().saturating_duration_since(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait that is in vain, if it is tried at all; whether it was.
    fn waits(spin: &mut Spin) -> bool {
        let tried = spin.turn() == Turn::Look;
        if tried {
            spin.give_up();
        }
        tried
    }

    #[test]
    fn waits_in_vain_are_tried_ever_more_rarely() {
        let mut spin = Spin::new();
        let tried: Vec<usize> = (0..2000).filter(|_| waits(&mut spin)).collect();
        assert_eq!(tried[..4], [0, 2, 6, 14], "each one in vain doubles what is slept through");
        assert!(tried.windows(2).all(|pair| pair[1] - pair[0] <= MOST_SKIPPED as usize + 1));
        assert!((14..20).contains(&tried.len()), "but it is tried again and again: {tried:?}");
    }

    #[test]
    fn a_wait_ends() {
        let mut spin = Spin::new();
        let mut turns = 0;
        while spin.turn() != Turn::Sleep {
            turns += 1;
        }
        assert!(turns >= LOOKS && spin.skip == 1, "{turns} turns");
    }

    #[test]
    fn one_success_makes_it_worth_trying_again() {
        let mut spin = Spin::new();
        while spin.in_vain < 3 {
            waits(&mut spin);
        }
        while spin.turn() == Turn::Sleep {}
        spin.found();
        assert!(waits(&mut spin), "the next wait is tried");
        assert_eq!(spin.skip, 1, "and the failures before are forgotten");
    }

    #[test]
    fn what_was_lost_to_others_is_made_up_for() {
        let mut spin = Spin::new();
        spin.crowded_until = Some(Instant::now() + Duration::from_secs(3600));
        assert!((0..1000).all(|_| spin.turn() == Turn::Sleep), "not before its time");
        spin.crowded_until = Some(Instant::now());
        assert_eq!(spin.turn(), Turn::Look, "then again");
        spin.was_away(SLICE);
        assert!(spin.crowded_until.is_some() && spin.since.is_none(), "and it is given up again");
    }
}
