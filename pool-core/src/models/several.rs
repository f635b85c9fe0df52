//! Waiting for several tasks at once: tallies and inboxes.

use std::sync::Arc;

use super::stage::{Stage, explore, submit_item};
use crate::inbox::Inbox;
use crate::outcome::Results;
use crate::sync::thread;
use crate::{as_completed, wait_any};

#[test]
fn the_first_of_two_is_told() {
    explore(2, || {
        let stage = Stage::new(1, None);
        let handles = Arc::new([stage.submit(7), stage.submit(8)]);
        let cancels = Arc::clone(&handles);
        let cancels = thread::spawn(move || cancels[1].cancel());
        assert_eq!(wait_any(&*handles), Some(1));
        cancels.join().unwrap();
    });
}

#[test]
fn each_of_two_is_told_once() {
    explore(1, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(2), stage.reactor());
        let mut results: Vec<_> = as_completed([stage.submit(7), stage.submit(8)])
            .map(|(number, result)| (number, result.expect("it has a result")))
            .collect();
        results.sort_unstable();
        assert_eq!(results, [(0, 7), (1, 8)]);
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
        assert!(!stage.shared.lead.watched.any());
    });
}

/// Nobody leads either of them.
#[test]
fn a_task_of_one_pool_is_told_to_who_waits_for_two() {
    explore(1, || {
        let (mut busy, idle) = (Stage::new(1, None), Stage::new(1, None));
        let (worker, reactor) = (busy.worker(1), busy.reactor());
        let handles = [idle.submit(8), busy.submit(7)];
        assert_eq!(wait_any(&handles), Some(1));
        worker.join().unwrap();
        busy.over();
        reactor.join().unwrap();
        assert!(!busy.shared.lead.watched.any() && !idle.shared.lead.watched.any());
    });
}

/// What is in the inbox.
fn take(inbox: &Inbox) -> Vec<u8> {
    let byte = |landed: crate::inbox::Landed| match landed.outcome {
        Ok(Results::One(reply)) => reply.encoded().read(|bytes| Ok(std::mem::take(bytes)[0])).unwrap(),
        other => panic!("{other:?}"),
    };
    inbox.take(Vec::new()).into_iter().map(byte).collect()
}

/// Both items of a batch land, for a leader and for a follower.
#[test]
fn a_batch_gets_what_it_wants() {
    for leads in [true, false] {
        explore(1, move || {
            let mut stage = Stage::new(1, None);
            let (worker, reactor) = (stage.worker(2), stage.reactor());
            let leader = if leads { None } else { stage.shared.try_lead() };
            let inbox = Arc::new(Inbox::new());
            for item in [7, 8] {
                submit_item(&stage.shared, &inbox, item);
            }
            inbox.want(2);
            stage.shared.wait_for(&*inbox, None);
            assert_eq!(take(&inbox), [7, 8]);
            drop(leader);
            worker.join().unwrap();
            stage.over();
            reactor.join().unwrap();
            assert!(!stage.shared.lead.watched.any());
        });
    }
}
