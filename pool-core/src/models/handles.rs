//! Handles of single tasks, with all of the pool behind them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::future::IntoFuture;
use std::pin::pin;
use std::future::Future;

use super::stage::{Stage, explore, submit};
use crate::sync::thread::{self, Thread};

#[test]
fn a_leader_gets_its_result() {
    explore(3, || {
        let mut stage = Stage::new(1, None);
        let worker = stage.worker(1);
        assert!(matches!(stage.submit(7).get(), Ok(7)));
        worker.join().unwrap();
    });
}

#[test]
fn two_callers_get_their_results() {
    explore(1, || {
        let mut stage = Stage::new(1, None);
        let worker = stage.worker(2);
        let shared = Arc::clone(&stage.shared);
        let other = thread::spawn(move || assert!(matches!(submit(&shared, 8).get(), Ok(8))));
        let reactor = stage.reactor();
        assert!(matches!(stage.submit(7).get(), Ok(7)));
        other.join().unwrap();
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
    });
}

/// Wakes a thread, and counts.
struct Alarm {
    thread: Thread,
    rung: AtomicUsize,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

#[test]
fn a_future_is_woken() {
    explore(2, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(1), stage.reactor());
        let alarm = Arc::new(Alarm { thread: thread::current(), rung: AtomicUsize::new(0) });
        let waker = Waker::from(Arc::clone(&alarm));
        let mut future = pin!(stage.submit(7).into_future());
        let mut polls = 0;
        let result = loop {
            polls += 1;
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => break result,
                Poll::Pending => thread::park(),
            }
        };
        assert!(matches!(result, Ok(7)) && polls <= 2);
        assert!(alarm.rung.load(Ordering::Relaxed) <= 1);
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
        assert!(!stage.shared.lead.watched.any() && !stage.shared.lead.watched.any_foreign());
    });
}

#[test]
fn a_callback_is_called_once() {
    explore(1, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(1), stage.reactor());
        let called = Arc::new(AtomicUsize::new(0));
        let handle = stage.submit(7);
        let count = Arc::clone(&called);
        let caller = thread::current();
        handle.on_complete(move |result| {
            assert!(matches!(result, Ok(7)));
            count.fetch_add(1, Ordering::Relaxed);
            caller.unpark();
        });
        thread::park();
        assert_eq!(called.load(Ordering::Relaxed), 1);
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
    });
}
