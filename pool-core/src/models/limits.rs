//! The gate: who submits more than there may be waits.

use std::sync::Arc;

use super::stage::{Stage, explore, submit};
use crate::sync::thread;

/// One place, and two who want it, one after another.
#[test]
fn a_place_is_given_to_who_waits_for_it() {
    explore(1, || {
        let mut stage = Stage::new(1, Some(0));
        let (worker, reactor) = (stage.worker(2), stage.reactor());
        let first = stage.submit(7);
        let second = stage.submit(8);
        assert!(matches!((first.get(), second.get()), (Ok(7), Ok(8))));
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
    });
}

/// One of those who wait leads, the other one follows.
#[test]
fn each_place_that_is_left_wakes_somebody() {
    explore(1, || {
        let stage = Stage::new(1, Some(0));
        let first = stage.submit(7);
        let others = [8, 9].map(|result| {
            let shared = Arc::clone(&stage.shared);
            thread::spawn(move || submit(&shared, result).cancel())
        });
        first.cancel();
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// Places are left by cancelling, and the fences of the gate are all there is between who leaves and who falls asleep.
#[test]
fn a_follower_at_the_gate_sees_the_place_that_is_left() {
    explore(3, || {
        let stage = Stage::new(1, Some(0));
        let leader = stage.shared.try_lead();
        let first = stage.submit(7);
        let shared = Arc::clone(&stage.shared);
        let other = thread::spawn(move || drop(submit(&shared, 8)));
        first.cancel();
        other.join().unwrap();
        drop(leader);
    });
}
