//! Who waits changes: leaders that leave, deadlines, what others settle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::stage::{Stage, explore, submit};
use crate::outcome::Watched;
use crate::supervisor::lead::Wait;
use crate::sync::{AtomicBool, World, thread};

const LIMIT: Duration = Duration::from_secs(1);

/// Something that has no lock: the fences of leader and kick are all there is.
struct Flag(AtomicBool);

impl Wait for Flag {
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn is_bulk(&self) -> bool {
        false
    }

    fn follow(&self, _: &Watched, _: impl FnOnce(), _: Option<Instant>) {
        unreachable!("nobody else leads");
    }
}

#[test]
fn a_kick_reaches_a_leader_that_falls_asleep() {
    explore(4, || {
        let stage = Stage::new(1, None);
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let (shared, set) = (Arc::clone(&stage.shared), Arc::clone(&flag));
        let kicks = thread::spawn(move || {
            set.0.store(true, Ordering::Relaxed);
            shared.lead.kick();
        });
        stage.shared.wait_for(&*flag, None);
        kicks.join().unwrap();
    });
}

#[test]
fn a_cancelled_task_ends_for_its_leader() {
    explore(3, || {
        let stage = Stage::new(1, None);
        let handle = Arc::new(stage.submit(7));
        let waits = Arc::clone(&handle);
        let waits = thread::spawn(move || waits.wait());
        handle.cancel();
        waits.join().unwrap();
        assert!(handle.has_ended());
    });
}

/// The lead is taken by somebody who waits for nothing that comes.
#[test]
fn a_cancelled_task_ends_for_a_follower() {
    explore(3, || {
        let stage = Stage::new(1, None);
        let leader = stage.shared.try_lead();
        let handle = Arc::new(stage.submit(7));
        let waits = Arc::clone(&handle);
        let waits = thread::spawn(move || waits.wait());
        handle.cancel();
        waits.join().unwrap();
        drop(leader);
        assert!(!stage.shared.lead.watched.any());
    });
}

/// Nobody leads after the leader's time is up: the reactor reads the result for the follower, or the follower leads.
#[test]
fn a_leader_whose_time_is_up_hands_over() {
    explore(1, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(1), stage.reactor());
        let handle = Arc::new(stage.submit(7));
        let waits = Arc::clone(&handle);
        let waits = thread::spawn(move || {
            // Its time is up sooner or later.
            let _ = waits.wait_timeout(LIMIT);
        });
        World::current().pass(LIMIT);
        handle.wait();
        assert!(handle.has_ended());
        waits.join().unwrap();
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
        assert!(!stage.shared.lead.watched.any());
    });
}

/// Whoever waits longer is told, whatever the other one does when its time is up.
#[test]
fn a_follower_whose_time_is_up_leaves_the_others_watched() {
    explore(2, || {
        let stage = Stage::new(1, None);
        let leader = stage.shared.try_lead();
        let handle = Arc::new(stage.submit(7));
        let waits = [Some(LIMIT), None].map(|limit| {
            let handle = Arc::clone(&handle);
            thread::spawn(move || match limit {
                Some(limit) => _ = handle.wait_timeout(limit),
                None => handle.wait(),
            })
        });
        World::current().pass(LIMIT);
        handle.cancel();
        waits.into_iter().for_each(|thread| thread.join().unwrap());
        drop(leader);
        assert!(!stage.shared.lead.watched.any());
    });
}

/// A task is submitted while the reactor is muted, by somebody who does not wait for it.
#[test]
fn a_task_that_comes_while_a_leader_leaves_is_not_forgotten() {
    explore(1, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(2), stage.reactor());
        let shared = Arc::clone(&stage.shared);
        let other = thread::spawn(move || submit(&shared, 8));
        assert!(matches!(stage.submit(7).get(), Ok(7)));
        let other = other.join().unwrap();
        worker.join().unwrap();
        assert!(matches!(other.get(), Ok(8)));
        stage.over();
        reactor.join().unwrap();
    });
}
