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
mod tests {
    #[test]
    fn a_failed_claim_tells_a_withdrawn_ticket_from_a_scribbled_slot() {
        let (board, _) = pair();
        board.offer(7);
        assert!(board.take_back(7));
        assert!(board.is_withdrawn(7));
        board.offer(7 + SLOTS as u64);
        assert!(board.is_withdrawn(7), "its slot is in use again");
        board.offer(8);
        assert!(!board.is_withdrawn(8), "it could be claimed");
        for garbage in [0, u64::MAX, 0xA5A5_A5A5_A5A5_A5A5, 7 << 2 | CLAIMED, 6 << 2 | TAKEN, 8 << 2 | TAKEN]
        {
            board.slot(7).store(garbage, Release);
            assert!(!board.is_withdrawn(7), "{garbage:#x}");
        }
    }

    use std::{
        hint,
        os::fd::AsFd,
        sync::atomic::AtomicBool,
        thread,
        time::{Duration, Instant},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::Region;

    fn pair() -> (Board, Board) {
        let (supervisor, memory) = Region::create().unwrap();
        let worker = Region::open(memory.as_fd()).unwrap();
        (supervisor.board(), worker.board())
    }

    #[test]
    fn a_ticket_goes_through_its_states() {
        let (supervisor, worker) = pair();
        assert_eq!(supervisor.observe(7), Slot::Foreign);
        assert!(!worker.claim(7, 1), "never offered");
        supervisor.offer(7);
        assert_eq!(supervisor.observe(7), Slot::Offered);
        assert!(worker.claim(7, 123));
        assert!(!worker.claim(7, 124));
        assert!(!supervisor.take_back(7));
        worker.finish(7);
        assert_eq!(supervisor.observe(7), Slot::Finished);
        assert!(!supervisor.take_back(7) && !worker.claim(7, 125));
        supervisor.offer(8);
        assert!(worker.claim(8, 200));
        worker.slot(8).store(0xA5A5_A5A5_A5A5_A5A5, Release);
        worker.finish(8);
        assert_eq!(supervisor.observe(8), Slot::Finished, "a task that scribbled has a result nevertheless");
    }

    #[test]
    fn a_late_finish_leaves_the_next_ticket_of_the_slot_alone() {
        let (supervisor, worker) = pair();
        let (old, new) = (3, 3 + SLOTS as u64);
        for is_taken in [false, true] {
            supervisor.offer(old);
            assert!(worker.claim(old, 1));
            // The supervisor has read the result before the worker, which is stopped, comes to finish it.
            supervisor.offer(new);
            assert!(!is_taken || supervisor.take_back(new));
            worker.finish(old);
            assert_eq!(supervisor.observe(new), if is_taken { Slot::Taken } else { Slot::Offered });
            assert_eq!(worker.claim(new, 2), !is_taken, "{is_taken}");
            assert!(is_taken == worker.is_withdrawn(new));
        }
    }

    #[test]
    fn a_ticket_taken_back_cannot_be_claimed_even_when_its_slot_is_used_again() {
        let (supervisor, worker) = pair();
        let (old, new) = (3, 3 + SLOTS as u64);
        supervisor.offer(old);
        assert!(supervisor.take_back(old));
        assert!(!supervisor.take_back(old));
        assert_eq!(supervisor.observe(old), Slot::Taken);
        assert!(!worker.claim(old, 1));
        supervisor.offer(new);
        assert!(!worker.claim(old, 1), "the stale frame");
        assert_eq!((supervisor.observe(old), supervisor.observe(new)), (Slot::Foreign, Slot::Offered));
        assert!(worker.claim(new, 9));
        assert_eq!(supervisor.observe(new), Slot::Claimed { since_ns: 9 });
    }

    #[test]
    fn numbers_that_are_no_tickets_change_nothing() {
        let (supervisor, worker) = pair();
        for number in [0, MAX_TICKET + 1, u64::MAX] {
            assert!(!worker.claim(number, 1) && !supervisor.take_back(number));
            worker.finish(number);
            assert_eq!(supervisor.observe(number), Slot::Foreign);
        }
        // Would be the word of ticket 1 if its upper bits were dropped.
        supervisor.offer(1);
        assert!(!worker.claim(MAX_TICKET + 2, 1));
        supervisor.offer(MAX_TICKET);
        assert!(worker.claim(MAX_TICKET, 5));
        assert_eq!(supervisor.observe(MAX_TICKET), Slot::Claimed { since_ns: 5 });
    }

    #[test]
    #[should_panic(expected = "counted from 1")]
    fn ticket_zero_cannot_be_offered() {
        pair().0.offer(0);
    }

    #[test]
    fn cancel_reaches_the_named_ticket_only() {
        let (supervisor, worker) = pair();
        assert!([0, 5, u64::MAX].iter().all(|&ticket| !worker.cancel_requested(ticket)), "nothing asked yet");
        supervisor.request_cancel(5);
        assert!(worker.cancel_requested(5));
        assert!(!worker.cancel_requested(6) && !worker.cancel_requested(4));
        supervisor.request_cancel(6);
        assert!(worker.cancel_requested(6) && !worker.cancel_requested(5));
    }

    #[test]
    fn a_span_is_offered_at_once_and_taken_back_from_its_end_to_what_is_claimed() {
        let (supervisor, worker) = pair();
        let first = 3 * SLOTS as u64 - 5;
        supervisor.offer_all(first, 10);
        assert!((0..10).all(|item| supervisor.observe(first + item) == Slot::Offered));
        assert_eq!(supervisor.observe(first + 10), Slot::Foreign);
        assert!(worker.claim(first, 1) && worker.claim(first + 1, 2));
        assert_eq!(supervisor.take_back_span(first + 8, 2), 2);
        assert_eq!(supervisor.take_back_span(first, 8), 6);
        assert_eq!(supervisor.take_back_span(first, 2), 0);
        assert!((2..10).all(|item| supervisor.observe(first + item) == Slot::Taken));
        worker.finish(first);
        assert_eq!(supervisor.observe(first), Slot::Finished);
        assert!(!worker.claim(first + 2, 3) && worker.is_withdrawn(first + 2));
        supervisor.offer_all(100, 0);
        assert_eq!(supervisor.observe(100), Slot::Foreign);
        assert_eq!((supervisor.take_back_span(100, 0), supervisor.take_back_span(u64::MAX, 2)), (0, 0));
    }

    #[test]
    #[should_panic(expected = "share a slot")]
    fn more_tickets_than_slots_cannot_be_offered_at_once() {
        pair().0.offer_all(1, SLOTS as u32 + 1);
    }

    #[test]
    fn the_clock_runs_forward() {
        let (before, deadline) = (now_ns(), Instant::now() + Duration::from_secs(5));
        while now_ns() == before {
            assert!(Instant::now() < deadline);
        }
        assert!(Board::now_ns() > before);
    }

    /// Spins until `is_reached`, giving way now and then; fails after a minute.
    fn spin_until(mut is_reached: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !(0..1_000).any(|_| {
            hint::spin_loop();
            is_reached()
        }) {
            assert!(Instant::now() < deadline, "the other side stands still");
            thread::yield_now();
        }
    }

    /// Supervisor and worker race for 200,000 tickets: turn by turn, where the worker claims what is taken back at that
    /// very moment, and in a stream, where older tickets are taken back and slots come round again.
    #[test]
    fn each_ticket_goes_to_exactly_one_side() {
        const TICKETS: u64 = 200_000;
        let (supervisor, worker) = pair();
        let (sent, seen) = (AtomicU64::new(0), AtomicU64::new(0));
        let (taken, claimed) = thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let mut claimed = Vec::new();
                for ticket in 1..=TICKETS {
                    spin_until(|| sent.load(Acquire) >= ticket);
                    if worker.claim(ticket, ticket) {
                        claimed.push(ticket);
                        worker.finish(ticket);
                    }
                    seen.store(ticket, Release);
                }
                claimed
            });
            let mut taken = Vec::new();
            let mut take_back = |ticket| {
                if supervisor.take_back(ticket) {
                    taken.push(ticket);
                }
            };
            let mut random = 1_u64;
            for ticket in 1..=TICKETS {
                let is_stream = ticket / 1_000 % 2 == 1;
                let lag = if is_stream { SLOTS as u64 } else { 1 };
                spin_until(|| seen.load(Acquire) + lag >= ticket);
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pick = random >> 58;
                supervisor.offer(ticket);
                if pick == 0 {
                    take_back(ticket);
                }
                sent.store(ticket, Release);
                if is_stream {
                    take_back(ticket.saturating_sub(pick));
                } else if pick != 1 {
                    (0..pick).for_each(|_| hint::spin_loop());
                    take_back(ticket);
                }
            }
            (taken, worker.join().unwrap())
        });
        // Each side is sure of some: by turns, pick 0 is taken before it is sent, and pick 1 is left alone.
        assert!(!taken.is_empty() && !claimed.is_empty(), "{} against {}", taken.len(), claimed.len());
        let mut all = [taken, claimed].concat();
        all.sort_unstable();
        let mut expected = 1..=TICKETS;
        if let Some((found, expected)) =
            all.iter().map(|&found| (found, expected.next())).find(|&(f, e)| Some(f) != e)
        {
            panic!("ticket {found} follows where {expected:?} should: lost, or gone to both");
        }
        assert_eq!(all.len() as u64, TICKETS);
    }

    #[test]
    fn a_task_that_ends_during_the_look_is_not_given_the_time_of_the_next() {
        let (supervisor, worker) = pair();
        supervisor.offer(1);
        supervisor.offer(2);
        assert!(worker.claim(1, 100));
        let seen = supervisor.observe_around(1, || {
            worker.finish(1);
            assert!(worker.claim(2, 200));
        });
        assert_eq!(seen, Slot::Finished);
        assert_eq!(supervisor.observe(2), Slot::Claimed { since_ns: 200 });
    }

    /// The worker uses the ticket for the time, so that each look can be checked to pair a ticket with its own time.
    #[test]
    fn a_claimed_ticket_is_seen_with_its_own_time() {
        let (supervisor, worker) = pair();
        let (is_over, last) = (AtomicBool::new(false), AtomicU64::new(1));
        let looks = thread::scope(|scope| {
            scope.spawn(|| {
                for ticket in (1..).take_while(|_| !is_over.load(Acquire)) {
                    worker.offer(ticket);
                    last.store(ticket, Release);
                    assert!(worker.claim(ticket, ticket));
                    worker.finish(ticket);
                }
            });
            let mut outcomes = Ok(0);
            spin_until(|| {
                let ticket = last.load(Acquire);
                match (supervisor.observe(ticket), &mut outcomes) {
                    (Slot::Claimed { since_ns }, Ok(looks)) if since_ns == ticket => *looks += 1,
                    (Slot::Claimed { since_ns }, _) => outcomes = Err((ticket, since_ns)),
                    _ => {}
                }
                !matches!(outcomes, Ok(0..20_000))
            });
            is_over.store(true, Release);
            outcomes
        });
        assert_eq!(looks, Ok(20_000), "(ticket, the time it was seen with)");
    }

    proptest! {
        /// Whatever a worker scribbles, observing gives an answer and taking back takes at most what was
        /// offered.
        #[test]
        fn any_board_can_be_observed(scribbled in prop::collection::vec((0..SLOTS, any::<u64>()), 1..200),
                                     ticket: u64, time: u64) {
            let (supervisor, _) = pair();
            supervisor.words.started_ns.set(time);
            supervisor.words.cancel.set(ticket);
            let mut tickets = vec![ticket];
            for (slot, word) in scribbled {
                supervisor.words.slots[slot].store(word, Relaxed);
                // The one that the word is about, and one that is about this slot.
                tickets.extend([word >> 2, word << 20 >> 8 | slot as u64]);
            }
            for ticket in tickets {
                let found = supervisor.observe(ticket);
                prop_assert_eq!(supervisor.take_back(ticket), found == Slot::Offered);
            }
        }
    }
}
