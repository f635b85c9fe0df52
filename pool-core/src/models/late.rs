//! Bells that are to ring late: whoever comes to wait for a task is told of its end, though its worker goes on with others.

use std::future::{Future, IntoFuture};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::handles::alarm;
use super::stage::{Stage, explore};
use crate::supervisor::shared::Shared;
use crate::sync::thread;
use crate::{TaskHandle, wait_any};

/// Has a task end while its worker has another one, and nobody reads results but the reactor; returns when `wait` has seen it.
fn ends_early(wait: impl Fn(&Arc<Shared>, TaskHandle<u8>) + Send + Sync + 'static) {
    explore(1, move || {
        let mut stage = Stage::new(1, None);
        let reactor = stage.reactor();
        let (first, second) = (stage.submit(7), stage.submit(8));
        let (worker, steps) = stage.worker_in_steps(2);
        steps.allow();
        wait(&stage.shared, first);
        steps.allow();
        assert!(matches!(second.get(), Ok(8)));
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
        assert!(!stage.shared.lead.watched.any());
    });
}

#[test]
fn a_leader_is_told() {
    ends_early(|_, handle| assert!(matches!(handle.get(), Ok(7))));
}

#[test]
fn a_follower_is_told() {
    ends_early(|shared, handle| {
        let leader = shared.try_lead();
        assert!(matches!(handle.get(), Ok(7)));
        drop(leader);
    });
}

#[test]
fn a_tally_is_told() {
    ends_early(|shared, handle| {
        let leader = shared.try_lead();
        assert_eq!(wait_any(&[handle]), Some(0));
        drop(leader);
    });
}

#[test]
fn a_callback_is_called() {
    ends_early(|_, handle| {
        let caller = thread::current();
        handle.on_complete(move |_| caller.unpark());
        thread::park();
    });
}

#[test]
fn a_future_is_woken() {
    ends_early(|_, handle| {
        let (mut future, waker) = (Box::pin(handle.into_future()), Waker::from(alarm()));
        while let Poll::Pending = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            thread::park();
        }
    });
}
