//! Handles of single tasks, with all of the pool behind them.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::stage::{Stage, explore, submit};
use crate::error::TaskError;
use crate::handle::TaskHandle;
use crate::supervisor::event::Event;
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
pub(super) struct Alarm {
    thread: Thread,
    rung: AtomicUsize,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

pub(super) fn alarm() -> Arc<Alarm> {
    Arc::new(Alarm { thread: thread::current(), rung: AtomicUsize::new(0) })
}

#[test]
fn a_future_is_woken() {
    explore(2, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(1), stage.reactor());
        let alarm = alarm();
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

/// A future is dropped while its task ends: whoever comes first, nothing is left to be woken.
#[test]
fn a_future_that_is_dropped_is_forgotten() {
    explore(3, || {
        let stage = Stage::new(1, None);
        let mut future = Box::pin(stage.submit(7).into_future());
        let waker = Waker::from(alarm());
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let shared = Arc::clone(&stage.shared);
        let ends = thread::spawn(move || shared.with(|engine, now| engine.machine.on(now, Event::Terminate)));
        drop(future);
        ends.join().unwrap();
        let watched = &stage.shared.lead.watched;
        assert!(!watched.any() && !watched.any_foreign());
    });
}

/// Waits for another task when it is woken.
struct Waits(TaskHandle<u8>);

impl Wake for Waits {
    fn wake(self: Arc<Self>) {
        self.0.wait();
    }
}

/// It is woken by the leader, who has the lead meanwhile.
#[test]
fn a_waker_may_wait_for_the_pool() {
    explore(1, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(2), stage.reactor());
        let (first, second) = (stage.submit(7), stage.submit(8));
        let waits = Arc::new(Waits(second));
        let waker = Waker::from(Arc::clone(&waits));
        if first.cell().poll(&waker, &stage.shared.lead.watched).is_pending() {
            stage.shared.heed();
        }
        drop(waker);
        assert!(matches!(first.get(), Ok(7)));
        waits.0.wait();
        assert!(waits.0.has_ended());
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
    });
}

#[test]
fn a_callback_that_comes_with_the_end_is_called() {
    explore(3, || {
        let stage = Stage::new(1, None);
        let handle = Arc::new(stage.submit(7));
        let cancelled = Arc::clone(&handle);
        let cancels = thread::spawn(move || cancelled.cancel());
        let caller = thread::current();
        handle.on_complete(move |result| {
            assert!(matches!(result, Err(TaskError::Cancelled)));
            caller.unpark();
        });
        thread::park();
        cancels.join().unwrap();
        assert!(!stage.shared.lead.watched.any());
    });
}

#[test]
fn a_callback_is_called() {
    explore(1, || {
        let mut stage = Stage::new(1, None);
        let (worker, reactor) = (stage.worker(1), stage.reactor());
        let (handle, caller) = (stage.submit(7), thread::current());
        handle.on_complete(move |result| {
            assert!(matches!(result, Ok(7)));
            caller.unpark();
        });
        thread::park();
        worker.join().unwrap();
        stage.over();
        reactor.join().unwrap();
    });
}
