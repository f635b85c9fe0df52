//! How much is submitted, and who waits for what: a bounded queue, and several handles at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use pool_core::{
    Completed, Elapsed, Pool, QueueFull, TaskError, TaskHandle, WorkerExe, as_completed, wait_all,
    wait_all_timeout, wait_any, wait_any_timeout,
};
use pool_tests::{Answer, Part, Scene, expect_healthy, play, right, running, wait_until};
use pool_worker::drill;

use crate::programs::{hostile, stock};

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for a thread that does not wait to say so.
const A_MOMENT: Duration = Duration::from_millis(50);

/// Tasks that go on until they are cancelled.
fn hold(pool: &Pool, count: u64) -> Vec<TaskHandle<Answer>> {
    (0..count).map(|n| pool.apply_async(play(n, Part::Cooperate(60_000)))).collect()
}

// A bounded queue

#[test]
fn a_full_queue_makes_submitters_wait_and_try_refuses_and_gives_the_call_back() {
    let scene = Scene::new();
    let pool = scene.builder().workers(2).queue_limit(3).worker(stock()).build().unwrap();
    let held = hold(&pool, 5);
    let QueueFull(call) = pool.try_apply_async(play(7, Part::Innocent)).unwrap_err();
    assert_eq!(call.task_name(), "pool_tests::part::play");
    let (tell, told) = channel();
    thread::scope(|scope| {
        let (pool, tell_too) = (&pool, tell.clone());
        scope.spawn(move || {
            let handle = pool.apply_async(play(8, Part::Innocent));
            tell_too.send(handle.get()).unwrap();
        });
        scope.spawn(move || tell.send(pool.apply(play(8, Part::Innocent))).unwrap());
        assert!(told.recv_timeout(A_MOMENT).is_err(), "they wait");
        assert_eq!(pool.stats().submitted, 5);
        held.iter().for_each(TaskHandle::cancel);
        for _ in 0..2 {
            assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), right(8));
        }
    });
    let again = pool.try_apply_async(call).unwrap();
    assert_eq!(again.get().unwrap(), right(7));
    expect_healthy(&pool);
}

#[test]
fn however_many_threads_submit_no_more_wait_than_may() {
    let scene = Scene::new();
    let pool = scene.builder().workers(2).queue_limit(6).worker(stock()).build().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(pool.stats().pending);
            }
            most
        });
        let submitters: Vec<_> = (0..4_u64)
            .map(|thread| {
                let pool = &pool;
                scope.spawn(move || {
                    let numbers = thread * 1000..thread * 1000 + 500;
                    // One of them dies now and then; places of the dead are places, too.
                    let part = |n| if n % 100 == 50 { Part::Segv } else { Part::Innocent };
                    let handles: Vec<_> =
                        numbers.clone().map(|n| pool.apply_async(play(n, part(n)))).collect();
                    numbers.zip(handles).for_each(|(n, handle)| match handle.get() {
                        Ok(answer) => assert_eq!(answer, right(n)),
                        Err(error) => assert!(n % 100 == 50, "{n}: {error}"),
                    });
                })
            })
            .collect();
        submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
        over.store(true, Ordering::Relaxed);
        let most = sampler.join().unwrap();
        assert!(most <= 8, "{most} were pending");
    });
    expect_healthy(&pool);
}

#[test]
fn with_none_waiting_a_task_is_taken_only_if_a_worker_is_free() {
    let scene = Scene::new();
    let pool = scene.builder().workers(2).queue_limit(0).worker(stock()).build().unwrap();
    let mut held = hold(&pool, 2);
    assert!(pool.try_apply_async(play(1, Part::Innocent)).is_err());
    held.pop().unwrap().cancel();
    assert_eq!(pool.try_apply_async(play(1, Part::Innocent)).unwrap().get().unwrap(), right(1));
    held.pop().unwrap().cancel();
    for n in 0..200 {
        assert_eq!(pool.apply(play(n, Part::Innocent)).unwrap(), right(n));
    }
    expect_healthy(&pool);
}

#[test]
fn what_is_refused_takes_no_place() {
    let scene = Scene::new();
    let pool =
        scene.builder().workers(1).queue_limit(0).frame_limit(1 << 16).worker(stock()).build().unwrap();
    for _ in 0..3 {
        let refused = pool.try_apply_async(drill::length(&[0; 1 << 17])).unwrap();
        assert!(matches!(refused.get(), Err(TaskError::Encode { .. })));
    }
    assert_eq!(pool.try_apply_async(drill::add(1, 2)).unwrap().get().unwrap(), 3);
    pool.close();
    for _ in 0..3 {
        let closed = pool.try_apply_async(drill::add(1, 2)).unwrap();
        assert!(matches!(closed.get(), Err(TaskError::PoolClosed)));
    }
}

#[test]
fn batches_are_not_held_up_by_the_limit_and_hold_nobody_up() {
    let scene = Scene::new();
    let pool = scene.builder().workers(2).queue_limit(0).worker(stock()).build().unwrap();
    let held = hold(&pool, 1);
    let results = pool.map(|n| play(n, Part::Innocent), 0..1000).unwrap();
    assert!((0..).zip(results).all(|(n, answer)| answer == right(n)));
    thread::scope(|scope| {
        let map = scope.spawn(|| pool.map(|n| play(n, Part::Sleep(1)), 0..50));
        wait_until("the map is under way", || pool.stats().submitted > 1001);
        assert_eq!(pool.try_apply_async(play(1, Part::Innocent)).unwrap().get().unwrap(), right(1));
        assert_eq!(map.join().unwrap().unwrap().len(), 50);
    });
    held.iter().for_each(TaskHandle::cancel);
    expect_healthy(&pool);
}

#[test]
fn a_blocked_submitter_is_freed_by_the_end_of_the_pool() {
    for terminate in [false, true] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).queue_limit(0).worker(stock()).build().unwrap();
        let held = hold(&pool, 1);
        wait_until("it runs", || running(&pool) == 1);
        let pool = &pool;
        thread::scope(|scope| {
            let submitters: Vec<_> =
                (0..3).map(|n| scope.spawn(move || pool.apply(play(n, Part::Innocent)))).collect();
            if terminate {
                pool.terminate()
            } else {
                pool.close()
            }
            for submitter in submitters {
                let refused = submitter.join().unwrap();
                assert!(matches!(refused, Err(TaskError::PoolClosed)), "{terminate}: {refused:?}");
            }
        });
        held.iter().for_each(TaskHandle::cancel);
    }
    let scene = Scene::new();
    let pool =
        scene.builder().workers(1).queue_limit(0).worker(WorkerExe::path("/bin/false")).build().unwrap();
    for n in 0..5 {
        let broken = pool.apply_async(play(n, Part::Innocent)).get();
        assert!(matches!(broken, Err(TaskError::PoolBroken(_))), "{broken:?}");
    }
}

/// The pool is as large as the queue is long, and breaks while somebody waits.
#[test]
fn a_blocked_submitter_is_freed_by_a_pool_that_breaks() {
    let scene = Scene::new();
    // What has a place waits for a worker that never says hello.
    let builder = scene.builder().workers(1).queue_limit(0).worker(hostile("hang-early"));
    let pool = builder.start_timeout(Duration::from_millis(500)).build().unwrap();
    let first = pool.apply_async(play(1, Part::Innocent));
    assert!(pool.try_apply_async(play(2, Part::Innocent)).is_err(), "the next one has to wait");
    let refused = pool.apply(play(2, Part::Innocent));
    assert!(matches!(refused, Err(TaskError::PoolBroken(_))), "{refused:?}");
    assert!(matches!(first.get(), Err(TaskError::PoolBroken(_))));
}

#[test]
fn a_blocked_submitter_goes_on_when_the_pool_grows() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).queue_limit(0).worker(stock()).build().unwrap();
    let held = hold(&pool, 1);
    wait_until("it runs", || running(&pool) == 1);
    let (tell, told) = channel();
    thread::scope(|scope| {
        let pool = &pool;
        scope.spawn(move || tell.send(pool.apply(play(8, Part::Innocent))).unwrap());
        assert!(told.recv_timeout(A_MOMENT).is_err(), "it waits");
        pool.resize(2).unwrap();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), right(8));
    });
    assert!(!held[0].is_finished(), "no place was left");
    held.iter().for_each(TaskHandle::cancel);
}

#[test]
fn callbacks_may_submit_at_the_limit_and_panic_and_drop_the_pool() {
    let scene = Scene::new();
    let pool = Arc::new(scene.builder().workers(2).queue_limit(1).worker(stock()).build().unwrap());
    let (tell, told) = channel();
    for n in 0..40_u64 {
        let (again, tell) = (Arc::downgrade(&pool), tell.clone());
        pool.apply_async(play(n, Part::Innocent)).on_complete(move |result| {
            assert_eq!(result.unwrap(), right(n));
            let Some(pool) = again.upgrade() else { return };
            // The callbacks of all wait behind this one, and none of them is needed for there to be a place.
            let next = pool.apply_async(play(n + 1, Part::Innocent));
            drop(pool);
            tell.send((n, next.get().unwrap())).unwrap();
            assert!(n % 10 != 3, "a callback that panics, on purpose");
        });
    }
    for _ in 0..40 {
        let (n, answer) = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(answer, right(n + 1));
    }
    expect_healthy(&pool);
    // Full, and the last to have the pool is a callback.
    let mut held = hold(&pool, 2);
    let first = held.pop().unwrap();
    wait_until("nobody else has it", || Arc::strong_count(&pool) == 1);
    let clone = Pool::clone(&pool);
    first.on_complete(move |_| drop(clone));
    drop(pool);
    first.cancel();
    assert!(matches!(held.pop().unwrap().get(), Err(TaskError::PoolClosed)));
    drop(first);
}

// Several handles

#[test]
fn one_waits_for_any_or_all_of_one_pool_or_several() {
    let scene = Scene::new();
    let pools: Vec<_> = (0..3).map(|_| scene.builder().worker(stock()).build().unwrap()).collect();
    for several in [false, true] {
        let pool = |n: usize| if several { &pools[n % 3] } else { &pools[0] };
        let mut handles: Vec<_> =
            (0..4).map(|n| pool(n).apply_async(play(n as u64, Part::Cooperate(60_000)))).collect();
        assert_eq!(wait_any_timeout(&handles, Duration::from_millis(20)), None);
        assert_eq!(wait_any_timeout(&handles, Duration::ZERO), None);
        assert!(!wait_all_timeout(&handles, Duration::from_millis(20)));
        handles.push(pool(5).apply_async(play(5, Part::After(30, Box::new(Part::Segv)))));
        if !several {
            // Two workers, and both are held.
            handles[0].cancel();
            assert_eq!(wait_any(&handles), Some(0));
            handles.iter().for_each(TaskHandle::cancel);
        } else {
            assert_eq!(wait_any(&handles), Some(4));
            handles[2].cancel();
            assert_eq!(wait_any(&handles), Some(2), "the lowest");
            handles.iter().for_each(TaskHandle::cancel);
        }
        wait_all(&handles);
        assert!(handles.iter().all(TaskHandle::is_finished));
        assert!(wait_all_timeout(&handles, Duration::ZERO));
        assert_eq!(wait_any(&handles), Some(0));
    }
    assert_eq!(wait_any::<u64>(&[]), None);
    assert_eq!(wait_any_timeout::<u64>(&[], PATIENCE), None);
    wait_all::<u64>(&[]);
    pools.iter().for_each(expect_healthy);
}

#[test]
fn a_wait_for_any_ends_when_a_task_ends_while_others_lead() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let long = pool.apply_async(play(0, Part::Cooperate(60_000)));
    thread::scope(|scope| {
        // One thread leads for as long as all this takes, so the others follow.
        scope.spawn(|| long.wait());
        for round in 0..50 {
            let waits: Vec<_> = (0..3)
                .map(|thread| {
                    let pool = &pool;
                    scope.spawn(move || {
                        let n = round * 10 + thread;
                        let handles = [
                            pool.apply_async(play(n, Part::Innocent)),
                            pool.apply_async(play(n, Part::Innocent)),
                        ];
                        let first = wait_any(&handles).unwrap();
                        assert!(handles[first].is_finished());
                        wait_all(&handles);
                        handles.into_iter().all(|handle| handle.get().unwrap() == right(n))
                    })
                })
                .collect();
            assert!(waits.into_iter().all(|wait| wait.join().unwrap()));
        }
        long.cancel();
    });
    expect_healthy(&pool);
}

#[test]
fn several_threads_may_wait_for_the_same_tasks() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    for round in 0..30 {
        let handles: Vec<_> = (0..2).map(|n| pool.apply_async(play(n, Part::Cooperate(60_000)))).collect();
        thread::scope(|scope| {
            let waits: Vec<_> = (0..4).map(|_| scope.spawn(|| wait_any(&handles))).collect();
            let all = scope.spawn(|| wait_all(&handles));
            let last = round % 2;
            handles[last].cancel();
            for wait in waits {
                assert_eq!(wait.join().unwrap(), Some(last));
            }
            handles[1 - last].cancel();
            all.join().unwrap();
        });
    }
    expect_healthy(&pool);
}

#[test]
fn results_come_as_they_are_completed_and_each_once() {
    let scene = Scene::new();
    let pools: Vec<_> = (0..2).map(|_| scene.builder().worker(stock()).build().unwrap()).collect();
    for several in [false, true] {
        let handles = (0..400_usize).map(|n| {
            let part = match n % 50 {
                17 => Part::Segv,
                18 => Part::Panic("no".to_owned()),
                _ => Part::Innocent,
            };
            pools[if several { n % 2 } else { 0 }].apply_async(play(n as u64, part))
        });
        let mut completed = as_completed(handles);
        assert_eq!(completed.len(), 400);
        let mut seen = HashSet::new();
        for (n, result) in &mut completed {
            assert!(seen.insert(n));
            match result {
                Ok(answer) => assert_eq!(answer, right(n as u64)),
                Err(TaskError::WorkerDied(_)) => assert_eq!(n % 50, 17),
                Err(error) => assert!(n % 50 == 18, "{error}"),
            }
        }
        assert_eq!((seen.len(), completed.len()), (400, 0));
        assert!(completed.next().is_none(), "it stays at its end");
    }
    // In the order of the ends, not of the handles.
    let pool = &pools[0];
    let slow = pool.apply_async(play(0, Part::Cooperate(60_000)));
    let quick = pool.apply_async(play(1, Part::Innocent));
    let mut completed = as_completed([slow, quick]);
    assert_eq!(completed.next().map(|(index, result)| (index, result.unwrap())), Some((1, right(1))));
    assert!(matches!(completed.next_timeout(Duration::from_millis(20)), Err(Elapsed { .. })));
    pool.terminate();
    let (index, result) = completed.next_timeout(PATIENCE).unwrap().unwrap();
    assert!(index == 0 && matches!(result, Err(TaskError::PoolClosed)));
    assert_eq!(completed.next_timeout(PATIENCE).unwrap().map(|(index, _)| index), None);
    expect_healthy(&pools[1]);
}

#[test]
fn fifty_thousand_handles_are_no_more_work_than_their_number() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handles: Vec<_> = (0..50_000).map(|n| pool.apply_async(drill::echo_u64(n))).collect();
    let sum: u64 = as_completed(handles)
        .map(|(index, result)| {
            assert_eq!(result.unwrap(), index as u64);
            index as u64
        })
        .sum();
    assert_eq!(sum, (0..50_000).sum::<u64>());
    expect_healthy(&pool);
}

#[test]
fn a_group_that_is_dropped_half_way_cancels_only_what_is_to_be_cancelled() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let watch = |handle: &TaskHandle<Answer>| {
        let ended = Arc::clone(&ended);
        handle.on_complete(move |result| {
            ended.fetch_add(1, Ordering::SeqCst);
            drop(result);
        });
    };
    let take_one = |mut completed: Completed<Answer>| assert!(completed.next().is_some());
    let handles: Vec<_> = (0..20).map(|n| pool.apply_async(play(n, Part::Sleep(1)))).collect();
    handles.iter().for_each(watch);
    take_one(as_completed(handles));
    wait_until("all have ended", || ended.load(Ordering::SeqCst) == 20);
    assert_eq!(pool.stats().cancelled, 0);
    let quick = pool.apply_async(play(1, Part::Innocent));
    let slow = pool.apply_async(play(2, Part::Cooperate(60_000)));
    take_one(as_completed([quick, slow].map(TaskHandle::cancel_on_drop)));
    wait_until("the other one is cancelled", || pool.stats().cancelled == 1);
    expect_healthy(&pool);
}

#[test]
fn pools_made_on_one_thread_are_used_on_a_second_and_dropped_on_a_third() {
    let scene = Scene::new();
    let make = || scene.builder().workers(1).queue_limit(4).worker(stock()).build().unwrap();
    let pools =
        thread::scope(|scope| scope.spawn(|| (0..8).map(|_| make()).collect::<Vec<_>>()).join().unwrap());
    let (pools, handles) = thread::spawn(move || {
        let handles: Vec<_> =
            (0..16).map(|n| pools[n % 8].apply_async(play(n as u64, Part::Innocent))).collect();
        (pools, handles)
    })
    .join()
    .unwrap();
    for (n, result) in as_completed(handles) {
        assert_eq!(result.unwrap(), right(n as u64));
    }
    thread::spawn(move || drop(pools)).join().unwrap();
    scene.expect_nothing_left();
}

#[test]
fn twenty_pools_with_bounds_and_shared_bytes_live_side_by_side() {
    let scene = Scene::new();
    let builder = scene.builder().workers(1).worker(stock()).queue_limit(2).share("bytes", [7; 1 << 16]);
    let pools: Vec<_> = (0..20).map(|_| builder.clone().build().unwrap()).collect();
    thread::scope(|scope| {
        for pool in &pools {
            scope.spawn(move || {
                let handles = (0..50).map(|n| pool.apply_async(play(n, Part::Innocent)));
                let results: Vec<_> = as_completed(handles).collect();
                assert_eq!(results.len(), 50);
                assert!(results.into_iter().all(|(n, result)| result.unwrap() == right(n as u64)));
            });
        }
    });
    // All of them at once.
    let all: Vec<_> = (0..200).map(|n| pools[n % 20].apply_async(play(n as u64, Part::Innocent))).collect();
    let mut seen: Vec<_> = as_completed(all).map(|(n, result)| (n, result.unwrap())).collect();
    seen.sort_by_key(|(n, _)| *n);
    assert!(seen.into_iter().enumerate().all(|(n, found)| found == (n, right(n as u64))));
    drop(pools);
    scene.expect_nothing_left();
}
