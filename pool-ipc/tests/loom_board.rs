//! The claim board under loom, which runs every order of its steps that the memory model allows.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p pool-ipc --release --test loom_board
//! ```
//!
//! The code is that of the real board, with loom's atomics and two slots.
//!
//! # That these tests can fail
//!
//! Each of these changes has been made, and was found:
//!
//! | change | found by |
//! |---|---|
//! | `Board::finish` as a store | `a_late_finish_…` |
//! | `Board::claim` as a load and a store | `a_ticket_…`, `of_a_span_…` |
//! | `Board::observe` without its second look at the slot | `the_time_…` |

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use pool_ipc::{Board, SLOTS, Slot};

#[test]
fn a_ticket_is_claimed_or_taken_back_and_never_both() {
    loom::model(|| {
        let board = Board::model();
        board.offer(1);
        let worker = board.clone();
        let claimed = thread::spawn(move || worker.claim(1, 7));
        let taken = board.take_back(1);
        assert_ne!(claimed.join().unwrap(), taken);
    });
}

#[test]
fn of_a_span_the_worker_has_the_beginning_and_the_supervisor_the_end() {
    loom::model(|| {
        let board = Board::model();
        board.offer_all(1, 2);
        let worker = board.clone();
        let claims = thread::spawn(move || [worker.claim(1, 7), worker.claim(2, 8)]);
        let taken = board.take_back_span(1, 2);
        let expected = match taken {
            0 => [true, true],
            1 => [true, false],
            _ => [false, false],
        };
        assert_eq!(claims.join().unwrap(), expected, "{taken} were taken");
    });
}

/// The worker is away between result and finish, for as long as the supervisor likes. (Without the second flag loom, which has no
/// total order of the changes of a word, lets a swap that came first be seen last.)
#[test]
fn a_late_finish_leaves_the_next_ticket_of_the_slot_alone() {
    loom::model(|| {
        let (board, next) = (Board::model(), 1 + SLOTS as u64);
        let [published, offered] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let wait = |flag: &AtomicBool| {
            while !flag.load(Ordering::Acquire) {
                thread::yield_now();
            }
        };
        board.offer(1);
        let (worker, result, next_one) = (board.clone(), Arc::clone(&published), Arc::clone(&offered));
        let running = thread::spawn(move || {
            assert!(worker.claim(1, 7));
            result.store(true, Ordering::Release);
            wait(&next_one);
            worker.finish(1);
            assert!(worker.claim(next, 8), "{}", worker.describe(next));
        });
        wait(&published);
        board.offer(next);
        offered.store(true, Ordering::Release);
        running.join().unwrap();
        assert_eq!(board.observe(next), Slot::Claimed { since_ns: 8 });
    });
}

#[test]
fn the_time_that_is_seen_is_that_of_the_ticket() {
    loom::model(|| {
        let board = Board::model();
        board.offer_all(1, 2);
        let worker = board.clone();
        let running = thread::spawn(move || {
            for (ticket, now) in [(1, 10), (2, 20)] {
                assert!(worker.claim(ticket, now));
                worker.finish(ticket);
            }
        });
        for (ticket, expected) in [(1, 10), (2, 20)] {
            if let Slot::Claimed { since_ns } = board.observe(ticket) {
                assert_eq!(since_ns, expected, "of ticket {ticket}");
            }
        }
        running.join().unwrap();
    });
}
