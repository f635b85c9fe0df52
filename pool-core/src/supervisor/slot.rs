//! One worker of the pool as the state machine sees it.
//!
//! ```text
//!            spawn            hello               close, all done          dead
//! Waiting ─────────▶ Starting ─────▶ Ready ─────────────────────▶ Retiring ─────▶ Stopped
//!    ▲                  │ dead         │ dead, or killed by us                       │ somebody
//!    ├──── back-off ────┴──────────────┘                                             │ is missing
//!    └───────────────────────────────────────────────────────────────────────────────┘
//! Dying: killed by us, its death is still needed to settle what it holds
//! ```
//! `Dying` is entered from `Starting` and `Ready`, and left by the death like every other state. A worker retires also when it
//! is to be replaced, or is one too many; its place is vacant then. So is that of one that dies while enough others are left.
//!
//! A pool has more places than workers that work at a time, if it keeps *spares*: a worker that is ready is given tasks only
//! while it is *active*. One that dies, or is about to be killed, is active no longer, and a spare becomes so in that moment.
//! The next process in the place of the dead one is a spare then. So a place stays what it is, whoever works.
//!
//! A worker that is killed for a timeout or a cancellation holds nothing any more, so its place is given to the next
//! incarnation at once; whatever still comes from the old one carries an old generation and is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Death;
use crate::ids::{Generation, WorkerId};
use crate::stats::RetireReason;
use crate::supervisor::event::{Incarnation, TaskKey, Ticket};
use crate::supervisor::machine::{Hand, Head, Pace, Standing};

/// A place for a worker, and the incarnation in it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) worker: WorkerId,
    pub(crate) generation: Generation,
    pub(crate) phase: Phase,
    /// Deaths that no task was to blame for, since the last good sign.
    pub(crate) strikes: Vec<Strike>,
    /// When this slot wants to be looked at again.
    pub(crate) timer: Option<Instant>,
    /// When it is vacant: the back-off after the last death, which who comes next has to wait for.
    pub(crate) rests_until: Option<Instant>,
    /// How long its incarnations have been ready, all told.
    pub(crate) uptime: Duration,
    /// Whether it is given tasks; it is ready then.
    pub(crate) active: bool,
    /// The state that it builds, whether it starts or has said hello; also while its death is awaited.
    pub(crate) preparing: Option<Preparing>,
    /// How many states it has begun to build before its hello.
    pub(crate) prepared: usize,
    /// How it is counted among the others.
    pub(crate) standing: Standing,
    /// Whether it is in the list of those that have room.
    pub(crate) hungry: bool,
}

/// A state that is being built.
#[derive(Debug, Clone)]
pub(crate) struct Preparing {
    pub(crate) since: Instant,
    pub(crate) state: Arc<str>,
}

/// A death that counts against the restart policy.
#[derive(Debug, Clone)]
pub(crate) struct Strike {
    /// The slot's uptime at that moment. The window of the policy is measured by it: neither slow starts nor our own
    /// back-off may carry strikes out of the window, or a worker that never starts would be replaced for ever.
    pub(crate) uptime: Duration,
    /// How many tasks of the pool had been finished by then.
    pub(crate) settled: u64,
    pub(crate) death: Death,
}

#[derive(Debug)]
pub(crate) enum Phase {
    /// No process; the next one is due at this time.
    Waiting { until: Instant },
    /// Spawned, and not yet said hello.
    Starting { since: Instant },
    /// Working.
    Ready(Ready),
    /// Killed by us with tasks still to settle.
    Dying { hand: Hand, was_ready: bool, going: bool },
    /// Asked to exit. It may still have to build as many states: the news of them, and the request, cross. Its time to exit runs
    /// from the end of the last one.
    Retiring { asked: Instant, since: Instant, killed: bool, builds: u64, why: RetireReason },
    /// Vacant.
    Stopped,
}

#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) since: Instant,
    pub(crate) hand: Hand,
    pub(crate) pace: Pace,
    pub(crate) next_ticket: Ticket,
    /// A suspect that waits for this worker to become empty, so that it runs alone.
    pub(crate) reserved: Option<TaskKey>,
    /// How many tickets it may still be given.
    pub(crate) quota: u64,
    /// Why it retires as soon as its hand is empty.
    pub(crate) leaving: Option<RetireReason>,
}

impl Slot {
    pub(crate) fn new(worker: WorkerId) -> Self {
        Self {
            worker,
            generation: Generation::new(0),
            phase: Phase::Stopped,
            strikes: Vec::new(),
            timer: None,
            rests_until: None,
            uptime: Duration::ZERO,
            active: false,
            preparing: None,
            prepared: 0,
            standing: Standing::default(),
            hungry: false,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation { worker: self.worker, generation: self.generation }
    }

    pub(crate) fn ready(&mut self) -> Option<&mut Ready> {
        match &mut self.phase {
            Phase::Ready(ready) => Some(ready),
            _ => None,
        }
    }

    /// Its working state, if it is given tasks.
    pub(crate) fn active(&self) -> Option<&Ready> {
        match &self.phase {
            Phase::Ready(ready) if self.active => Some(ready),
            _ => None,
        }
    }

    /// What it holds, if it holds anything.
    pub(crate) fn hand(&self) -> Option<&Hand> {
        match &self.phase {
            Phase::Ready(ready) => Some(&ready.hand),
            Phase::Dying { hand, .. } => Some(hand),
            _ => None,
        }
    }

    /// As [`hand`](Self::hand).
    pub(crate) fn hand_mut(&mut self) -> Option<&mut Hand> {
        match &mut self.phase {
            Phase::Ready(ready) => Some(&mut ready.hand),
            Phase::Dying { hand, .. } => Some(hand),
            _ => None,
        }
    }
}

impl Ready {
    pub(crate) fn new(now: Instant, pace: Pace, quota: u64) -> Self {
        Self { since: now, hand: Hand::new(now), pace, next_ticket: 1, reserved: None, quota, leaving: None }
    }

    /// Whether it is given nothing more, and retires when its hand is empty.
    pub(crate) fn is_going(&self) -> bool {
        self.quota == 0 || self.leaving.is_some()
    }

    /// Whether it has nothing to do, and may be given something.
    pub(crate) fn is_idle(&self) -> bool {
        self.hand.is_empty() && self.is_open()
    }

    /// Whether it may be given tasks now: nobody must wait behind a task that is to be stopped.
    pub(crate) fn is_open(&self) -> bool {
        self.reserved.is_none() && !self.is_going() && self.hand.head().is_none_or(Head::lets_others_wait)
    }
}
