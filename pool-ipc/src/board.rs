//! The claim board: which task a worker was running, known exactly after its death and without a system call
//! per task.
//!
//! It is a part of the worker's [`Region`](crate::Region), in little-endian words of 8 bytes:
//!
//! | offset | word | written by |
//! |---|---|---|
//! | 0 | `started_ns`: when the running task was claimed (`CLOCK_MONOTONIC`) | worker |
//! | 128 | `cancel`: the ticket to cancel + 1, or 0; bit 63: the worker may spin | supervisor |
//! | 256 | [`SLOTS`] words `ticket << 2 \| state`; a ticket's slot is `ticket % SLOTS` | both |
//!
//! # States
//!
//! ```text
//!               offer             claim             finish
//!  (any old) ──────────▶ Offered ───────▶ Claimed ──────────▶ Finished
//!                           │ take_back
//!                           └───────────▶ Taken
//! ```
//!
//! | state | after the worker's death it means |
//! |---|---|
//! | `Offered` | not started: give it to another worker; no attempt is counted |
//! | `Claimed` | it was running, or writing its result: it died with the worker, unless its result is read |
//! | `Finished` | its result is in the ring or pipe |
//! | `Taken` | the supervisor has it |
//!
//! # Races
//!
//! * **Claim against take-back.** Both are a compare-and-swap from `Offered` of the same ticket on the same
//!   word, so that exactly one succeeds.
//! * **A stale frame.** A frame whose task was taken back is still in the ring or pipe. Its ticket is `Taken`, or its
//!   slot holds a later ticket; either way the claim fails. This holds because tickets are never used twice
//!   in an incarnation.
//! * **A slot in use.** Tickets that are a multiple of [`SLOTS`] apart share a slot. The supervisor must not
//!   offer a ticket while it holds another of that slot offered or claimed; it keeps a new ticket less than
//!   [`SLOTS`] above the oldest one that it holds. Fewer than [`SLOTS`] in flight are not enough by themselves: one task that runs for an hour
//!   while others are offered and taken back would be overwritten.
//! * **A slot that is reused early.** Between publishing a result and finishing its ticket the worker may be away for long (it is
//!   preempted, or stopped by a signal). The supervisor has read the result by then, and may have taken back all that came
//!   behind, so that it offers the next ticket of the slot. Finishing must not overwrite that offer, which could not be claimed
//!   then: it is a compare-and-swap from `Claimed` of its own ticket.
//! * **Death between result and finish.** The result is published first, so `Finished` implies that it is
//!   there, and a `Claimed` ticket may have a result too. The supervisor reads all results before it looks at
//!   the board.
//! * **Part of a span.** The worker claims from the oldest ticket on, [`Board::take_back_span`] takes from the
//!   youngest down and stops at the first that it cannot have. So what it took is the end of the span, whatever the
//!   worker did meanwhile.
//! * **Time of another task.** [`Board::observe`] reads the slot, then `started_ns`, then the slot again. The
//!   worker finishes a task before it stores the time of the next one, so an unchanged `Claimed` says that
//!   the time belongs to this ticket.
//! * **Late cancel.** `cancel` names a ticket, so a request that comes after its task has ended means nothing
//!   to the next.
//!
//! # Memory orderings
//!
//! Every store is `Release`, every load `Acquire`, every swap `AcqRel` on success. The swap of a claim
//! publishes its `started_ns`, so that who sees `Claimed` sees that time or a later one. If it is later, that
//! store's `Release` publishes the `Finished` which came before it, so that the second look at the slot sees
//! `Claimed` no more. The fields are independent otherwise; nothing needs a total order (`SeqCst`). The frame
//! that follows an offer passes through a ring's position or the kernel, which both order it after the offer.
//!
//! Finishing is a swap, too, although only the worker leaves `Claimed`: see the slot that is reused early. What else it
//! could find there was scribbled, and the supervisor, which has the result, knows better.
//!
//! # Trust
//!
//! The worker runs code that may scribble over the board. Seals keep its size, so that no access can fault;
//! every bit pattern is a state; a forged time or state is a wrong answer about this worker's own tasks and
//! nothing else. The supervisor believes its own records first: it ignores tickets that it did not send,
//! keeps what it took back whatever the slot says, and clamps times to between its offer and now.

#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;
use std::sync::{
    Arc,
    atomic::Ordering::{AcqRel, Acquire, Relaxed, Release},
};

#[cfg(loom)]
use loom::sync::atomic::AtomicU64;

#[cfg(not(loom))]
use crate::{
    region::Layout,
    sys::{Mapping, Part},
};
use crate::{sys, word::Word};

/// Slots of a board: the most tasks that one worker can hold.
#[cfg(not(loom))]
pub const SLOTS: usize = 4096;
/// Slots of a board; few, for loom.
#[cfg(loom)]
pub const SLOTS: usize = 2;

/// The board in shared memory; the [module documentation](self) has its table.
#[repr(C)]
pub(crate) struct Words {
    started_ns: Word,
    cancel: Word,
    slots: [AtomicU64; SLOTS],
}

#[cfg(loom)]
impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").finish_non_exhaustive()
    }
}

/// Tickets have 62 bits; the other two are the state.
const MAX_TICKET: u64 = u64::MAX >> 2;

/// The bit of the word `cancel` that says that the worker may spin.
const MAY_SPIN: u64 = 1 << 63;

const OFFERED: u64 = 0;
const CLAIMED: u64 = 1;
const TAKEN: u64 = 2;
const FINISHED: u64 = 3;

/// What a slot says about a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The worker has not started it.
    Offered,
    /// The worker is running it.
    Claimed {
        /// Since when, in nanoseconds of `CLOCK_MONOTONIC`, as the worker says.
        since_ns: u64,
    },
    /// The supervisor took it back.
    Taken,
    /// The worker has written its result.
    Finished,
    /// The slot is about another ticket: this one was never offered, its slot is in use again, or it was
    /// scribbled over.
    Foreign,
}

/// One worker's claim board; see the [module documentation](self) for states and races.
///
/// ```
/// use std::os::fd::AsFd;
/// use pool_ipc::{Region, Slot, now_ns};
///
/// let (region, descriptor) = Region::create()?;
/// let supervisor = region.board();
/// let worker = Region::open(descriptor.as_fd())?.board();
///
/// supervisor.offer(1);
/// let now = now_ns();
/// assert!(worker.claim(1, now));
/// assert!(!supervisor.take_back(1), "too late");
/// assert_eq!(supervisor.observe(1), Slot::Claimed { since_ns: now });
/// worker.finish(1);
/// assert_eq!(supervisor.observe(1), Slot::Finished);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Board {
    #[cfg(not(loom))]
    words: Part<Layout, Words>,
    #[cfg(loom)]
    words: Arc<Words>,
}

impl Board {
    #[cfg(not(loom))]
    pub(crate) fn new(region: &Arc<Mapping<Layout>>) -> Self {
        Self { words: Part::new(region, |region| &region.board) }
    }

    /// A board that its clones share, and no process.
    #[cfg(loom)]
    #[must_use]
    pub fn model() -> Self {
        let slots = std::array::from_fn(|_| AtomicU64::new(0));
        Self { words: Arc::new(Words { started_ns: Word::new(), cancel: Word::new(), slots }) }
    }

    /// Supervisor, before it sends the frame: opens `ticket` for claiming.
    ///
    /// # Panics
    /// If `ticket` is 0 or has more than 62 bits: tickets are counted from 1.
    pub fn offer(&self, ticket: u64) {
        assert!(is_ticket(ticket), "tickets are counted from 1 and have 62 bits");
        self.slot(ticket).store(ticket << 2 | OFFERED, Release);
    }

    /// Supervisor: [offers](Self::offer) `count` tickets from `first` on.
    ///
    /// # Panics
    /// If one of them is no ticket, or if they are more than there are slots.
    pub fn offer_all(&self, first: u64, count: u32) {
        let last = first.saturating_add(u64::from(count).saturating_sub(1));
        assert!(is_ticket(first) && is_ticket(last), "tickets are counted from 1 and have 62 bits");
        assert!(count as usize <= SLOTS, "two tickets would share a slot");
        for ticket in first..first + u64::from(count) {
            self.slot(ticket).store(ticket << 2 | OFFERED, Release);
        }
    }

    /// Supervisor: takes `ticket` back unless the worker has claimed it; whether it did.
    #[must_use = "false says that the worker has claimed it"]
    pub fn take_back(&self, ticket: u64) -> bool {
        self.step(ticket, OFFERED, TAKEN)
    }

    /// Supervisor: takes back what the worker has not claimed of `count` tickets from `first` on, from the youngest down
    /// until one cannot be taken. How many it took: that many at the end of the span.
    #[must_use = "only these are the supervisor's again"]
    pub fn take_back_span(&self, first: u64, count: u32) -> u32 {
        let is_taken =
            |back: &u32| first.checked_add(u64::from(*back)).is_some_and(|ticket| self.take_back(ticket));
        (0..count).rev().take_while(is_taken).count() as u32
    }

    /// Worker: starts `ticket` at `now_ns`, unless the supervisor has taken it back; whether it did.
    #[must_use = "a ticket that was not claimed must not be run"]
    #[inline]
    pub fn claim(&self, ticket: u64, now_ns: u64) -> bool {
        self.words.started_ns.set(now_ns);
        self.step(ticket, OFFERED, CLAIMED)
    }

    /// Worker, after a claim has failed: whether `ticket` was withdrawn by the supervisor, which has taken it back and may
    /// have used its slot for a later ticket. If not, task code has scribbled over the board.
    #[must_use]
    pub fn is_withdrawn(&self, ticket: u64) -> bool {
        let word = self.slot(ticket).load(Acquire);
        word == (ticket << 2 | TAKEN) || is_later(word, ticket)
    }

    /// What a report says of the slot of `ticket`, when it makes no sense.
    #[must_use]
    pub fn describe(&self, ticket: u64) -> String {
        let word = self.slot(ticket).load(Acquire);
        format!(
            "ticket {ticket} is not to be claimed: its slot is about ticket {}, state {}",
            word >> 2,
            word & 3
        )
    }

    /// Worker, after the result of `ticket`, which it has claimed, has been written: marks it finished, unless the supervisor
    /// has read the result by then and uses the slot for a later ticket.
    #[inline]
    pub fn finish(&self, ticket: u64) {
        if is_ticket(ticket) && !self.step(ticket, CLAIMED, FINISHED) {
            self.finish_anew(ticket);
        }
    }

    /// Finishes a ticket whose slot no longer says that it is claimed.
    #[cold]
    fn finish_anew(&self, ticket: u64) {
        let slot = self.slot(ticket);
        let word = slot.load(Acquire);
        if !is_later(word, ticket) {
            // Scribbled. Nobody else writes there for as long as it is not: a swap that fails has found a later ticket.
            let _ = slot.compare_exchange(word, ticket << 2 | FINISHED, AcqRel, Relaxed);
        }
    }

    /// Supervisor: what the board says about `ticket`. To be checked against the supervisor's own records.
    #[must_use]
    pub fn observe(&self, ticket: u64) -> Slot {
        self.observe_around(ticket, || {})
    }

    /// [`observe`](Self::observe), with `between` called between the first look at the slot and the look at the time.
    fn observe_around(&self, ticket: u64, between: impl FnOnce()) -> Slot {
        if !is_ticket(ticket) {
            return Slot::Foreign;
        }
        let slot = self.slot(ticket);
        let mut word = slot.load(Acquire);
        if word == (ticket << 2 | CLAIMED) {
            between();
            let since_ns = self.words.started_ns.get();
            let again = slot.load(Acquire);
            if again == word {
                return Slot::Claimed { since_ns };
            }
            // It ended meanwhile, and the time may be that of the next.
            word = again;
        }
        match (word >> 2, word & 3) {
            (found, _) if found != ticket => Slot::Foreign,
            (_, OFFERED) => Slot::Offered,
            (_, TAKEN) => Slot::Taken,
            // A claim on the second look only: a word that goes backwards was scribbled, so its time is worth
            // nothing.
            (_, CLAIMED) => Slot::Claimed { since_ns: 0 },
            _ => Slot::Finished,
        }
    }

    /// Supervisor: asks the task with `ticket`, which must be the running one, to stop soon. Only the last
    /// request counts.
    pub fn request_cancel(&self, ticket: u64) {
        let may_spin = self.words.cancel.get() & MAY_SPIN;
        self.words.cancel.set((ticket.wrapping_add(1) & !MAY_SPIN) | may_spin);
    }

    /// Supervisor: whether the worker may spin while it waits for tasks; at first it may not.
    pub fn allow_spinning(&self, allowed: bool) {
        let cancel = self.words.cancel.get() & !MAY_SPIN;
        self.words.cancel.set(if allowed { cancel | MAY_SPIN } else { cancel });
    }

    /// Worker: whether it may spin while it waits for tasks.
    #[must_use]
    pub fn may_spin(&self) -> bool {
        self.words.cancel.get() & MAY_SPIN != 0
    }

    /// Worker: whether the supervisor asked the task with `ticket` to stop. Costs one load.
    #[must_use]
    pub fn cancel_requested(&self, ticket: u64) -> bool {
        is_ticket(ticket) && self.words.cancel.get() & !MAY_SPIN == ticket + 1
    }

    /// Supervisor: when the worker started the task that it has started last, by its own account.
    #[must_use]
    pub fn latest_start_ns(&self) -> u64 {
        self.words.started_ns.get()
    }

    /// `CLOCK_MONOTONIC` in nanoseconds, the clock of [`claim`](Self::claim); the same as [`now_ns`].
    #[must_use]
    pub fn now_ns() -> u64 {
        now_ns()
    }

    #[inline]
    fn step(&self, ticket: u64, from: u64, to: u64) -> bool {
        is_ticket(ticket)
            && self
                .slot(ticket)
                .compare_exchange(ticket << 2 | from, ticket << 2 | to, AcqRel, Relaxed)
                .is_ok()
    }

    #[inline]
    fn slot(&self, ticket: u64) -> &AtomicU64 {
        &self.words.slots[slot_of(ticket)]
    }
}

fn is_ticket(ticket: u64) -> bool {
    (1..=MAX_TICKET).contains(&ticket)
}

/// Whether the slot of `ticket` is in use again, for a ticket that the worker has not come to.
fn is_later(word: u64, ticket: u64) -> bool {
    /// Nobody offers more tickets than this while one frame is on its way.
    const FURTHEST: u64 = 1 << 32;
    let later = (word >> 2).wrapping_sub(ticket);
    (1..FURTHEST).contains(&later)
        && later.is_multiple_of(SLOTS as u64)
        && matches!(word & 3, OFFERED | TAKEN)
}

fn slot_of(ticket: u64) -> usize {
    (ticket % SLOTS as u64) as usize
}

/// `CLOCK_MONOTONIC` in nanoseconds: the same for all processes of this machine, and not changed with the
/// wall clock.
#[must_use]
#[doc(alias = "clock_gettime")]
pub fn now_ns() -> u64 {
    sys::monotonic_ns()
}

/// [`now_ns`] as of the last timer interrupt, so up to a few milliseconds ago: costs a fraction.
#[must_use]
#[doc(alias = "CLOCK_MONOTONIC_COARSE")]
pub fn coarse_now_ns() -> u64 {
    sys::coarse_monotonic_ns()
}

#[cfg(all(test, not(loom)))]
mod tests;
