//! Handles as futures, in the runtimes that programs use, and in the smallest executor.

use std::future::IntoFuture;
use std::time::Duration;

use pool_core::TaskError;
use pool_tests::{
    Part, Scene, block_on, expect_death, expect_healthy, is_signal, note_cancellation, play, right, running,
    wait_until,
};
use pool_worker::drill;

use crate::programs::stock;

/// What every runtime is asked: a result, results that come late, a death, a limit, and many at once.
async fn ask(pool: &pool_core::Pool) {
    assert_eq!(pool.apply_async(play(1, Part::Sleep(20))).await.unwrap(), right(1));
    let handles: Vec<_> = (0..200).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
    for (n, handle) in (0..).zip(handles).collect::<Vec<_>>().into_iter().rev() {
        assert_eq!(handle.await.unwrap(), right(n));
    }
    let death = expect_death(pool.apply_async(play(3, Part::After(10, Box::new(Part::Segv)))).await);
    assert!(is_signal(&death.cause, 11));
    let late = pool.apply_async(play(4, Part::Hang).timeout(Duration::from_millis(50)));
    assert!(matches!(late.await, Err(TaskError::TimedOut { .. })));
}

#[test]
fn handles_are_awaited_in_tokio() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let current = tokio::runtime::Builder::new_current_thread().build().unwrap();
    current.block_on(ask(&pool));
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let tasks = [(); 3].map(|()| {
        let pool = pool.clone();
        threads.spawn(async move { ask(&pool).await })
    });
    threads.block_on(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    drop((current, threads));
    expect_healthy(&pool);
}

#[test]
fn handles_are_awaited_in_smol() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let executor = smol::LocalExecutor::new();
    let tasks = [(); 3].map(|()| executor.spawn(ask(&pool)));
    smol::future::block_on(executor.run(async {
        for task in tasks {
            task.await;
        }
    }));
    expect_healthy(&pool);
}

#[test]
fn handles_are_awaited_in_the_executor_of_futures_and_in_the_smallest() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    futures::executor::block_on(async {
        futures::join!(ask(&pool), ask(&pool), ask(&pool));
    });
    block_on(ask(&pool));
    expect_healthy(&pool);
}

#[test]
fn select_drops_the_slower_future_and_cancels_nothing() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let file = tempfile::tempdir().unwrap();
    let [started, noted] = ["started", "noted"].map(|name| file.path().join(name));
    runtime.block_on(async {
        let slow = pool.apply_async(play(1, Part::Sleep(200)));
        tokio::select! {
            answer = pool.apply_async(play(2, Part::Innocent)) => assert_eq!(answer.unwrap(), right(2)),
            answer = slow => panic!("{answer:?} came first"),
        }
        let slow = pool.apply_async(play(3, Part::Sleep(100))).into_future();
        assert!(tokio::time::timeout(Duration::from_millis(5), slow).await.is_err());
    });
    // Both go on to their end.
    wait_until("all have ended", || pool.stats().pending == 0);
    assert_eq!((pool.stats().succeeded, pool.stats().cancelled), (3, 0));

    // Unless it is asked for: then the task is told, and the worker lives on.
    runtime.block_on(async {
        let call = note_cancellation(started.clone(), noted.clone());
        let future = pool.apply_async(call).cancel_on_drop().into_future();
        tokio::select! {
            result = future => panic!("{result:?} came first"),
            () = async { while !started.exists() { tokio::task::yield_now().await } } => {}
        }
    });
    wait_until("the task has noticed", || noted.exists());
    assert_eq!(pool.stats().cancelled, 1);
    assert_eq!(pool.stats().deaths.total(), 0);
    drop(runtime);
    expect_healthy(&pool);
}

#[test]
fn what_is_cancelled_on_drop_is_not_cancelled_when_it_has_ended() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    assert_eq!(block_on(pool.apply_async(play(1, Part::Innocent)).cancel_on_drop()).unwrap(), right(1));
    assert_eq!(pool.apply_async(play(2, Part::Innocent)).cancel_on_drop().get().unwrap(), right(2));
    let done = pool.apply_async(play(3, Part::Innocent)).cancel_on_drop().cancel_on_drop();
    done.wait();
    drop(done);
    assert_eq!(pool.stats().cancelled, 0);
    // A handle, too, and one whose task still waits.
    let held = [(); 2].map(|()| pool.apply_async(drill::hang()).cancel_on_drop());
    wait_until("they run", || running(&pool) == 2);
    drop(pool.apply_async(play(4, Part::Innocent)).cancel_on_drop());
    assert_eq!(pool.stats().cancelled, 1);
    drop(held);
    assert_eq!(pool.stats().cancelled, 3);
    expect_healthy(&pool);
}

#[test]
fn ten_thousand_futures_are_joined() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let futures: Vec<_> = (0..10_000).map(|n| pool.apply_async(drill::echo_u64(n)).into_future()).collect();
    let results = futures::executor::block_on(futures::future::join_all(futures));
    assert!((0..).zip(results).all(|(n, result)| result.unwrap() == n));
    expect_healthy(&pool);
}

#[test]
fn a_future_outlives_the_runtime_that_polled_it_and_the_pool() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let mut future = Box::pin(pool.apply_async(play(1, Part::Sleep(100))).into_future());
    let mut lost = Box::pin(pool.apply_async(drill::hang()).into_future());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let limit = Duration::from_millis(5);
        assert!(tokio::time::timeout(limit, &mut future).await.is_err());
        assert!(tokio::time::timeout(limit, &mut lost).await.is_err());
    });
    // Its waker stays behind in the cell, and wakes nobody.
    drop(runtime);
    assert_eq!(smol::future::block_on(future).unwrap(), right(1));
    drop(pool);
    assert!(matches!(futures::executor::block_on(lost), Err(TaskError::PoolClosed)));
}
