//! The claim board: which task a worker was running, known exactly after its death and without a system call
//! per task.
//!
//! One sealed page of shared memory per worker incarnation, in little-endian words of 8 bytes:
//!
//! | offset | word | written by |
//! |---|---|---|
//! | 0 | magic | supervisor, once |
//! | 8 | `started_ns`: when the running task was claimed (`CLOCK_MONOTONIC`) | worker |
//! | 16 | `cancel`: the ticket to cancel + 1, or 0 | supervisor |
//! | 2048 | [`SLOTS`] words `ticket << 2 \| state`; a ticket's slot is `ticket % SLOTS` | both |
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
//! | `Finished` | its result is in the pipe |
//! | `Taken` | the supervisor has it |
//!
//! # Races
//!
//! * **Claim against take-back.** Both are a compare-and-swap from `Offered` of the same ticket on the same
//!   word, so that exactly one succeeds.
//! * **A stale frame.** A frame whose task was taken back is still in the pipe. Its ticket is `Taken`, or its
//!   slot holds a later ticket; either way the claim fails. This holds because tickets are never used twice
//!   in an incarnation.
//! * **A slot in use.** Tickets that are a multiple of [`SLOTS`] apart share a slot. The supervisor must not
//!   offer a ticket while it holds another of that slot offered or claimed; it keeps a new ticket less than
//!   [`SLOTS`] above the oldest one that it holds. Fewer than [`SLOTS`] in flight are not enough by themselves: one task that runs for an hour
//!   while others are offered and taken back would be overwritten.
//! * **Death between result and finish.** The result is written first, so `Finished` implies that it is in
//!   the pipe, and a `Claimed` ticket may have a result too. The supervisor reads the pipe to its end before
//!   it looks at the board.
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
//! that follows an offer passes through the kernel, which orders it after the offer.
//!
//! # Trust
//!
//! The worker runs code that may scribble over the page. Seals keep its size, so that no access can fault;
//! every bit pattern is a state; a forged time or state is a wrong answer about this worker's own tasks and
//! nothing else. The supervisor believes its own records first: it ignores tickets that it did not send,
//! keeps what it took back whatever the slot says, and clamps times to between its offer and now.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
    unistd::ftruncate,
};

use crate::sys::{self, SharedWords, WORDS};

/// Slots of a board: the most tasks that one worker can hold.
pub const SLOTS: usize = 256;

const MAGIC: u64 = u64::from_le_bytes(*b"POOLBRD1");
const MAGIC_WORD: usize = 0;
const STARTED_WORD: usize = 1;
const CANCEL_WORD: usize = 2;
const FIRST_SLOT: usize = 2048 / 8;

const _: () = assert!(SharedWords::LEN == 4096 && FIRST_SLOT + SLOTS == WORDS);

/// Tickets have 62 bits; the other two are the state.
const MAX_TICKET: u64 = u64::MAX >> 2;

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
/// use pool_ipc::{Board, Slot, now_ns};
///
/// let (supervisor, page) = Board::create()?;
/// let worker = Board::open(page.as_fd())?;
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
#[derive(Debug)]
pub struct Board {
    page: SharedWords,
}

impl Board {
    /// Makes an empty board, and the descriptor to give to the worker.
    ///
    /// # Errors
    /// Those of `memfd_create(2)`, `ftruncate(2)`, `fcntl(2)` and `mmap(2)`.
    #[doc(alias = "memfd_create")]
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        // Linux 6.3 can make it impossible to execute the page, and may be set up to insist on that
        // (vm.memfd_noexec); earlier kernels do not know the flag.
        let no_exec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
        let fd = match memfd_create(c"pool-board", flags | no_exec) {
            Err(Errno::EINVAL) => memfd_create(c"pool-board", flags)?,
            made => made?,
        };
        ftruncate(&fd, SharedWords::LEN as libc::off_t)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SharedWords::SEALS))?;
        let board = Self { page: SharedWords::map(fd.as_fd())? };
        board.word(MAGIC_WORD).store(MAGIC, Release);
        Ok((board, fd))
    }

    /// Maps the board behind a descriptor that the supervisor sent. The descriptor is not needed afterwards.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) if it has another size, other seals or no board's magic;
    /// those of `fstat(2)`, `fcntl(2)` and `mmap(2)`.
    pub fn open(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let board = Self { page: SharedWords::map(fd)? };
        if board.word(MAGIC_WORD).load(Acquire) != MAGIC {
            let message = "shared page does not start with the magic of a claim board: wrong descriptor";
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(board)
    }

    /// Supervisor, before it sends the frame: opens `ticket` for claiming.
    ///
    /// # Panics
    /// If `ticket` is 0 or has more than 62 bits: tickets are counted from 1.
    pub fn offer(&self, ticket: u64) {
        assert!(is_ticket(ticket), "tickets are counted from 1 and have 62 bits");
        self.slot(ticket).store(ticket << 2 | OFFERED, Release);
    }

    /// Supervisor: takes `ticket` back unless the worker has claimed it; whether it did.
    #[must_use = "false says that the worker has claimed it"]
    pub fn take_back(&self, ticket: u64) -> bool {
        self.step(ticket, OFFERED, TAKEN)
    }

    /// Worker: starts `ticket` at `now_ns`, unless the supervisor has taken it back; whether it did.
    #[must_use = "a ticket that was not claimed must not be run"]
    pub fn claim(&self, ticket: u64, now_ns: u64) -> bool {
        self.word(STARTED_WORD).store(now_ns, Release);
        self.step(ticket, OFFERED, CLAIMED)
    }

    /// Worker, after a claim has failed: whether `ticket` was withdrawn by the supervisor, which has taken it back and may
    /// have used its slot for a later ticket. If not, task code has scribbled over the board.
    #[must_use]
    pub fn is_withdrawn(&self, ticket: u64) -> bool {
        /// Nobody offers more tickets than this while one frame is on its way.
        const FURTHEST: u64 = 1 << 32;
        let (found, state) = {
            let word = self.slot(ticket).load(Acquire);
            (word >> 2, word & 3)
        };
        let later = found.wrapping_sub(ticket);
        match later {
            0 => state == TAKEN,
            _ => later < FURTHEST && later % SLOTS as u64 == 0 && matches!(state, OFFERED | TAKEN),
        }
    }

    /// Worker, after the result has been written: marks `ticket` finished.
    ///
    /// Does nothing if the ticket is not claimed, which takes a task that scribbled over the board; the
    /// supervisor has the result, and the worker can do nothing better.
    pub fn finish(&self, ticket: u64) {
        self.step(ticket, CLAIMED, FINISHED);
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
            let since_ns = self.word(STARTED_WORD).load(Acquire);
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
        self.word(CANCEL_WORD).store(ticket.wrapping_add(1), Release);
    }

    /// Worker: whether the supervisor asked the task with `ticket` to stop. Costs one load.
    #[must_use]
    pub fn cancel_requested(&self, ticket: u64) -> bool {
        is_ticket(ticket) && self.word(CANCEL_WORD).load(Acquire) == ticket + 1
    }

    /// `CLOCK_MONOTONIC` in nanoseconds, the clock of [`claim`](Self::claim); the same as [`now_ns`].
    #[must_use]
    pub fn now_ns() -> u64 {
        now_ns()
    }

    fn step(&self, ticket: u64, from: u64, to: u64) -> bool {
        is_ticket(ticket)
            && self
                .slot(ticket)
                .compare_exchange(ticket << 2 | from, ticket << 2 | to, AcqRel, Relaxed)
                .is_ok()
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.page.words()[index]
    }

    fn slot(&self, ticket: u64) -> &AtomicU64 {
        self.word(FIRST_SLOT + slot_of(ticket))
    }
}

fn is_ticket(ticket: u64) -> bool {
    (1..=MAX_TICKET).contains(&ticket)
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_failed_claim_tells_a_withdrawn_ticket_from_a_scribbled_slot() {
        let (board, _page) = Board::create().expect("memory is left");
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
        sync::atomic::AtomicBool,
        thread,
        time::{Duration, Instant},
    };

    use nix::{fcntl::SealFlag, unistd};
    use proptest::prelude::*;

    use super::*;

    fn pair() -> (Board, Board) {
        let (supervisor, page) = Board::create().unwrap();
        let worker = Board::open(page.as_fd()).unwrap();
        (supervisor, worker)
    }

    #[test]
    fn a_ticket_goes_through_its_states() {
        let (supervisor, worker) = pair();
        assert_eq!(supervisor.observe(7), Slot::Foreign);
        assert!(!worker.claim(7, 1), "never offered");
        supervisor.offer(7);
        assert_eq!(supervisor.observe(7), Slot::Offered);
        worker.finish(7);
        assert_eq!(supervisor.observe(7), Slot::Offered, "only what is claimed can finish");
        assert!(worker.claim(7, 123));
        assert!(!worker.claim(7, 124));
        assert!(!supervisor.take_back(7));
        worker.finish(7);
        assert_eq!(supervisor.observe(7), Slot::Finished);
        assert!(!supervisor.take_back(7) && !worker.claim(7, 125));
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
        worker.finish(old);
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
    fn the_page_keeps_its_size_whatever_its_holder_tries() {
        let (_board, page) = Board::create().unwrap();
        assert_eq!(unistd::ftruncate(&page, 0), Err(Errno::EPERM));
        assert_eq!(unistd::ftruncate(&page, 8192), Err(Errno::EPERM));
        assert_eq!(fcntl(&page, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)), Err(Errno::EPERM));
    }

    #[test]
    fn only_a_board_opens_as_one() {
        let open = |fd: &OwnedFd| Board::open(fd.as_fd()).unwrap_err().kind();
        let memfd = |len, seals| {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let fd = memfd_create(c"not-a-board", flags).unwrap();
            ftruncate(&fd, len).unwrap();
            fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            fd
        };
        assert_eq!(open(&memfd(4095, SharedWords::SEALS)), io::ErrorKind::InvalidData);
        assert_eq!(open(&memfd(4096, SealFlag::F_SEAL_GROW)), io::ErrorKind::InvalidData);
        assert_eq!(open(&memfd(4096, SharedWords::SEALS)), io::ErrorKind::InvalidData, "no magic");
        let (read, _write) = crate::pipe_pair().unwrap();
        assert_eq!(open(&read), io::ErrorKind::InvalidData);
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
        fn any_page_can_be_observed(words in prop::collection::vec(any::<u64>(), WORDS), ticket: u64) {
            let (supervisor, _page) = Board::create().unwrap();
            for (slot, word) in supervisor.page.words().iter().zip(&words) {
                slot.store(*word, Relaxed);
            }
            for ticket in words.iter().map(|word| word >> 2).chain([ticket]) {
                let found = supervisor.observe(ticket);
                prop_assert_eq!(supervisor.take_back(ticket), found == Slot::Offered);
            }
        }
    }
}
