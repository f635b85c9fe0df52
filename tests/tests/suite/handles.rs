//! Handles: awaited, dropped, called back, shared; and the ends of a pool.

use std::future::{Future, IntoFuture};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use pool_core::{Pool, TaskError};
use pool_tests::{
    Part, Scene, block_on, expect_death, expect_healthy, is_signal, play, right, running, wait_until,
};
use pool_worker::drill;

use crate::programs::stock;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_handle_can_be_awaited_in_any_executor() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    assert_eq!(block_on(pool.apply_async(play(1, Part::Sleep(30)))).unwrap(), right(1));
    let done = pool.apply_async(play(2, Part::Innocent));
    assert!(done.wait_timeout(PATIENCE));
    assert_eq!(block_on(done).unwrap(), right(2));
    let death = expect_death(block_on(pool.apply_async(play(3, Part::After(30, Box::new(Part::Segv))))));
    assert!(is_signal(&death.cause, libc::SIGSEGV));
    let late = pool.apply_async(play(4, Part::Hang).timeout(Duration::from_millis(100)));
    assert!(matches!(block_on(late), Err(TaskError::TimedOut { .. })));
    // Many at once, awaited in the wrong order, by an async block.
    let handles: Vec<_> = (0..100).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
    let sum = block_on(async move {
        let mut seen = 0;
        for (n, handle) in (0..100).zip(handles).collect::<Vec<_>>().into_iter().rev() {
            assert_eq!(handle.await.unwrap(), right(n));
            seen += 1;
        }
        seen
    });
    assert_eq!(sum, 100);
    expect_healthy(&pool);
}

#[test]
fn a_future_wakes_the_executor_that_polled_it_last() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let mut future = pin!(pool.apply_async(play(1, Part::Sleep(100))).into_future());
    let nobody = Waker::noop();
    assert!(future.as_mut().poll(&mut Context::from_waker(nobody)).is_pending());
    assert_eq!(block_on(future).unwrap(), right(1));
    expect_healthy(&pool);
}

#[test]
fn a_future_whose_pool_is_dropped_ends() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handle = pool.apply_async(play(1, Part::Hang));
    let waiting = thread::spawn(move || block_on(handle));
    wait_until("it runs", || running(&pool) == 1);
    drop(pool);
    assert!(matches!(waiting.join().unwrap(), Err(TaskError::PoolClosed)));
}

#[test]
fn a_task_whose_handle_is_dropped_goes_on() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    for n in 0..100 {
        drop(pool.apply_async(play(n, Part::Innocent)));
        if n % 10 == 0 {
            drop(pool.apply_async(play(n, Part::Segv)));
        }
    }
    wait_until("all have ended", || pool.stats().pending == 0);
    let stats = pool.stats();
    assert_eq!((stats.succeeded, stats.failed), (100, 10));
    expect_healthy(&pool);
}

#[test]
fn waiting_for_a_handle_has_a_limit_and_changes_nothing() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handle = pool.apply_async(play(1, Part::Sleep(300)));
    let start = Instant::now();
    assert!(!handle.wait_timeout(Duration::from_millis(20)));
    assert!(start.elapsed() >= Duration::from_millis(20) && !handle.is_finished());
    assert!(handle.wait_timeout(Duration::MAX) && handle.is_finished());
    assert_eq!(handle.get().unwrap(), right(1));
    expect_healthy(&pool);
}

#[test]
fn handles_are_numbered_in_the_order_of_submission_and_know_their_task() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handles: Vec<_> = (0..20).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
    assert!(handles.windows(2).all(|pair| pair[0].id() < pair[1].id()));
    assert!(handles.iter().all(|handle| handle.task_name() == "pool_tests::part::play"));
    assert!(handles.into_iter().all(|handle| handle.get().is_ok()));
    expect_healthy(&pool);
}

// Callbacks

#[test]
fn callbacks_get_results_and_errors_and_those_that_come_late_are_called_too() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let (tell, told) = channel();
    for (n, part) in [(1, Part::Innocent), (2, Part::Segv), (3, Part::Panic("no".to_owned()))] {
        let tell = tell.clone();
        pool.apply_async(play(n, part)).on_complete(move |result| tell.send((n, result)).unwrap());
    }
    let mut results: Vec<_> = (0..3).map(|_| told.recv_timeout(PATIENCE).unwrap()).collect();
    results.sort_by_key(|(n, _)| *n);
    assert!(matches!(&results[0].1, Ok(answer) if *answer == right(1)));
    assert!(matches!(&results[1].1, Err(TaskError::WorkerDied(_))));
    assert!(matches!(&results[2].1, Err(TaskError::Panicked { .. })));
    let done = pool.apply_async(play(4, Part::Innocent));
    assert!(done.wait_timeout(PATIENCE));
    // Two callbacks on one handle, and `get` after them.
    for _ in 0..2 {
        let tell = tell.clone();
        done.on_complete(move |result| tell.send((4, result)).unwrap());
    }
    for _ in 0..2 {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().1.unwrap(), right(4));
    }
    assert_eq!(done.get().unwrap(), right(4));
    expect_healthy(&pool);
}

#[test]
fn a_callback_may_panic() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let (tell, told) = channel();
    pool.apply_async(play(1, Part::Innocent)).on_complete(|_| panic!("a callback that panics, on purpose"));
    pool.apply_async(play(2, Part::Innocent)).on_complete(move |result| tell.send(result).unwrap());
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), right(2));
    expect_healthy(&pool);
}

#[test]
fn a_callback_may_submit_when_a_worker_has_died() {
    let scene = Scene::new();
    let pool = Arc::new(scene.builder().worker(stock()).build().unwrap());
    let (tell, told) = channel();
    // A chain of tasks, each submitted by the callback of the one before it, every other one a death.
    fn next(pool: &Arc<Pool>, n: u64, tell: std::sync::mpsc::Sender<u64>) {
        let part = if n.is_multiple_of(2) { Part::Segv } else { Part::Innocent };
        let again = Arc::downgrade(pool);
        pool.apply_async(play(n, part)).on_complete(move |result| {
            assert_eq!(result.is_err(), n.is_multiple_of(2));
            match again.upgrade() {
                Some(pool) if n < 20 => next(&pool, n + 1, tell),
                _ => tell.send(n).unwrap(),
            }
        });
    }
    next(&pool, 1, tell);
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 20);
    expect_healthy(&pool);
    // A callback may have been the last to let go of it.
    wait_until("nobody else has the pool", || Arc::strong_count(&pool) == 1);
}

#[test]
fn a_callback_may_drop_or_terminate_the_pool() {
    for terminate in [false, true] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let hanging = pool.apply_async(play(1, Part::Hang));
        let (tell, told) = channel();
        let handle = pool.apply_async(play(2, Part::After(50, Box::new(Part::Segv))));
        handle.on_complete(move |result| {
            if terminate {
                pool.terminate();
            }
            drop(pool);
            tell.send(result.is_err()).unwrap();
        });
        assert!(told.recv_timeout(PATIENCE).unwrap());
        assert!(matches!(hanging.get(), Err(TaskError::PoolClosed)));
        drop(handle);
        scene.expect_nothing_left();
    }
}

#[test]
fn callbacks_run_when_the_pool_is_dropped() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let (tell, told) = channel();
    for n in 0..20 {
        let tell = tell.clone();
        pool.apply_async(play(n, Part::Hang)).on_complete(move |result| tell.send(result).unwrap());
    }
    drop(pool);
    for _ in 0..20 {
        assert!(matches!(told.recv_timeout(PATIENCE).unwrap(), Err(TaskError::PoolClosed)));
    }
}

// Threads

#[test]
fn many_threads_may_use_one_pool() {
    let scene = Scene::new();
    let pool = scene.builder().workers(3).worker(stock()).build().unwrap();
    thread::scope(|scope| {
        for thread in 0..8_u64 {
            let pool = pool.clone();
            scope.spawn(move || {
                for round in 0..10 {
                    let base = thread * 1_000_000 + round * 1000;
                    let part = |n| if n % 50 == 17 { Part::Segv } else { Part::Innocent };
                    let check = |n, result: Result<_, TaskError>| match result {
                        Ok(answer) => assert!(answer == right(n) && n % 50 != 17),
                        Err(error) => assert!(n % 50 == 17, "{n}: {error}"),
                    };
                    let handles: Vec<_> =
                        (base..base + 60).map(|n| (n, pool.apply_async(play(n, part(n))))).collect();
                    let settled = pool.map_settled(|n| play(n, part(n)), base..base + 60);
                    settled.into_iter().zip(base..).for_each(|(result, n)| check(n, result));
                    handles.into_iter().for_each(|(n, handle)| check(n, handle.get()));
                    let map = pool.map(|n| play(n, Part::Innocent), base..base + 20).unwrap();
                    assert!((base..).zip(map).all(|(n, answer)| answer == right(n)));
                }
            });
        }
    });
    expect_healthy(&pool);
}

// The ends of a pool

#[test]
fn dropping_the_pool_with_work_in_flight_ends_every_handle() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let done = pool.apply_async(play(1, Part::Innocent));
    assert!(done.wait_timeout(PATIENCE));
    let handles: Vec<_> = (0..500).map(|n| pool.apply_async(play(n, Part::Hang))).collect();
    let map = thread::spawn({
        let pool = pool.clone();
        move || pool.map(|n| play(n, Part::Hang), 0..10)
    });
    wait_until("the map is under way", || pool.stats().submitted == 511);
    // A clone keeps the pool; it is the map's thread that has the last one.
    pool.terminate();
    drop(pool);
    for handle in handles {
        assert!(handle.is_finished() && matches!(handle.get(), Err(TaskError::PoolClosed)));
    }
    let error = map.join().unwrap().unwrap_err();
    assert!(matches!(error.error, TaskError::PoolClosed), "{error}");
    assert_eq!(done.get().unwrap(), right(1), "what was done is kept");
}

#[test]
fn shutdown_waits_for_the_tasks_and_tells_whether_it_had_to_end_them() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handles: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Sleep(2)))).collect();
    assert!(pool.shutdown(PATIENCE));
    assert!((0..).zip(handles).all(|(n, handle)| handle.get().unwrap() == right(n)));
    assert_eq!(pool.stats().deaths.total(), 0, "the workers were asked, not killed");
    drop(pool);
    scene.expect_nothing_left();

    let pool = scene.builder().worker(stock()).build().unwrap();
    let quick = pool.apply_async(play(1, Part::Innocent));
    let hanging = pool.apply_async(play(2, Part::Hang));
    let start = Instant::now();
    assert!(!pool.shutdown(Duration::from_millis(300)));
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < PATIENCE);
    assert_eq!(quick.get().unwrap(), right(1));
    assert!(matches!(hanging.get(), Err(TaskError::PoolClosed)));
    assert!(matches!(pool.apply(play(3, Part::Innocent)), Err(TaskError::PoolClosed)));
}

#[test]
fn join_waits_for_everything_however_long_it_takes_and_may_be_called_twice_and_at_once() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handles: Vec<_> = (0..20).map(|n| pool.apply_async(play(n, Part::Sleep(10)))).collect();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| pool.join());
        }
    });
    assert!(handles.iter().all(pool_core::TaskHandle::is_finished));
    pool.join();
    pool.terminate();
    assert_eq!(pool.stats().succeeded, 20);
}

#[test]
fn pools_nest_and_the_inner_ones_leave_nothing() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let echoes = pool.map(|n| drill::nested(2, n), [1, 10, 100]).unwrap();
    assert_eq!(echoes, [1, 10, 100].map(|n| (0..n).collect::<Vec<u64>>()));
    expect_healthy(&pool);
    // Killed while an inner pool is at work.
    let nested = pool.apply_async(pool_tests::nested_hang());
    let both = || pool_tests::process::marked(scene.mark()).len() >= 4;
    wait_until("the inner workers are there", both);
    drop(pool);
    assert!(matches!(nested.get(), Err(TaskError::PoolClosed)));
}
