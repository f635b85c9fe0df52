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
    for garbage in [0, u64::MAX, 0xA5A5_A5A5_A5A5_A5A5, 7 << 2 | CLAIMED, 6 << 2 | TAKEN, 8 << 2 | TAKEN] {
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
