//! One worker of the pool as the state machine sees it.
//!
//! ```text
//!            spawn            hello               close, all done          dead
//! Waiting ─────────▶ Starting ─────▶ Ready ─────────────────────▶ Retiring ─────▶ Stopped
//!    ▲                  │ dead         │ dead, or killed by us
//!    └──── back-off ────┴──────────────┘            Dying: killed by us, its death is still needed to settle what it holds
//! ```
//! `Dying` is entered from `Starting` and `Ready`, and left by the death like every other state.
//! A worker that is killed for a timeout or a cancellation holds nothing any more, so its place is given to the next
//! incarnation at once; whatever still comes from the old one carries an old generation and is dropped.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::error::Death;
use crate::ids::{Generation, WorkerId};
use crate::supervisor::event::{Incarnation, KillReason, TaskKey, Ticket};

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
    /// How long its incarnations have been ready, all told.
    pub(crate) uptime: Duration,
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
    Dying { held: VecDeque<Held>, was_ready: bool },
    /// Asked to exit.
    Retiring { since: Instant, killed: bool },
    /// Gone for good.
    Stopped,
}

#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) since: Instant,
    /// What the worker holds, in the order in which it will run them.
    pub(crate) held: VecDeque<Held>,
    pub(crate) next_ticket: Ticket,
    /// When the present head of `held` became the head.
    pub(crate) head_since: Instant,
    /// A suspect that waits for this worker to become empty, so that it runs alone.
    pub(crate) reserved: Option<TaskKey>,
    /// Whether the one task held is a suspect that runs alone.
    pub(crate) alone: bool,
    /// Bytes of the arguments held.
    pub(crate) bytes: usize,
    /// The worker is about to be killed for its head; see [`Condemned`].
    pub(crate) condemned: Option<Condemned>,
}

/// The two steps to a kill of our own: first every unclaimed task is taken back, so that no innocent can start; then the
/// worker is inspected once more, because the condemned task may have finished meanwhile.
#[derive(Debug, Clone)]
pub(crate) struct Condemned {
    pub(crate) ticket: Ticket,
    pub(crate) why: KillReason,
}

/// A task that a worker holds.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) ticket: Ticket,
    /// `None` once the task has been settled without the worker: its result will be dropped.
    pub(crate) task: Option<TaskKey>,
    pub(crate) size: usize,
    pub(crate) limit: Option<Duration>,
    /// When it was started, once known.
    pub(crate) started: Option<Instant>,
    /// It was running when garbage came out of the worker, so its result does not count.
    pub(crate) spoiled: bool,
    /// It is being taken back.
    pub(crate) taking: bool,
    /// It has been told to stop, at this time and for this reason.
    pub(crate) doomed: Option<(Instant, KillReason)>,
}

impl Slot {
    pub(crate) fn new(worker: WorkerId, now: Instant) -> Self {
        Self {
            worker,
            generation: Generation::new(0),
            phase: Phase::Waiting { until: now },
            strikes: Vec::new(),
            timer: None,
            uptime: Duration::ZERO,
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
}

impl Ready {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            held: VecDeque::new(),
            next_ticket: 1,
            head_since: now,
            reserved: None,
            alone: false,
            bytes: 0,
            condemned: None,
        }
    }

    /// Removes a task that it does not hold any more, for whatever reason.
    pub(crate) fn remove(&mut self, place: usize, now: Instant) -> Option<Held> {
        let held = self.held.remove(place)?;
        self.bytes = self.bytes.saturating_sub(held.size);
        if place == 0 {
            self.head_since = now;
            self.alone = false;
        }
        if self.condemned.as_ref().is_some_and(|condemned| condemned.ticket == held.ticket) {
            // It ended after all; the worker need not die.
            self.condemned = None;
        }
        Some(held)
    }

    /// Whether it has nothing to do, and may be given something.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.is_open()
    }

    /// Whether it may be given tasks now.
    pub(crate) fn is_open(&self) -> bool {
        self.condemned.is_none() && self.reserved.is_none() && !self.alone
    }

    /// Whether tasks are being taken back from it. Derived and not counted: a task may finish before the answer comes.
    pub(crate) fn is_taking(&self) -> bool {
        self.held.iter().any(|held| held.taking)
    }

    /// Whether a task that must not wait behind a doomed one may be given to it.
    pub(crate) fn has_doomed_head(&self) -> bool {
        self.held.front().is_some_and(|held| held.doomed.is_some())
    }
}
