//! Pools that grow and shrink.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{BuildError, Pool, TaskError};
use pool_tests::{
    Leash, Part, Scene, expect_death, expect_healthy, is_signal, pid_for, play, process, right, running,
    wait_until,
};

use crate::idle::all_sleeps;
use crate::programs::stock;

/// Waits until so many workers are ready and no others are there.
#[track_caller]
fn expect_size(pool: &Pool, size: usize) {
    wait_until(&format!("there are {size} workers"), || {
        pool.workers().len() == size && pool.stats().workers_ready == size
    });
}

#[test]
fn a_pool_grows_and_shrinks_under_load_without_losing_a_task() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    thread::scope(|scope| {
        let mapped = scope.spawn(|| pool.map(|n| play(n, Part::Sleep(n % 3)), 0..1500));
        for size in [5, 1, 3, 2, 6, 1, 1, 4, 2].into_iter().cycle() {
            pool.resize(size).unwrap();
            // As many tasks as it takes to be under way again.
            let goal = pool.stats().succeeded + 20;
            wait_until("the map goes on", || pool.stats().succeeded >= goal || mapped.is_finished());
            if mapped.is_finished() {
                break;
            }
        }
        assert_eq!(mapped.join().unwrap().unwrap(), (0..1500).map(right).collect::<Vec<_>>());
    });
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.deaths.signalled, stats.deaths.exited), (0, 0, 0), "{stats:?}");
    assert!(stats.retired.resized > 0, "{stats:?}");
    pool.resize(2).unwrap();
    expect_size(&pool, 2);
    expect_healthy(&pool);
}

#[test]
fn shrinking_waits_for_tasks_that_run_and_gives_the_rest_to_others() {
    let scene = Scene::new();
    let leash = Leash::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let long = [1, 2].map(|n| pool.apply_async(leash.task(n)));
    wait_until("both run", || leash.has_begun(1) && leash.has_begun(2));
    let rest: Vec<_> = (0..10).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
    pool.resize(1).unwrap();
    leash.release(1);
    leash.release(2);
    let pids: BTreeSet<u32> = long.into_iter().map(|handle| handle.get().unwrap()).collect();
    assert_eq!(pids.len(), 2, "neither was interrupted");
    for (n, handle) in (0..).zip(rest) {
        assert_eq!(handle.get().unwrap(), right(n));
    }
    expect_size(&pool, 1);
    assert_eq!(pool.stats().deaths.total(), 0);
}

#[test]
fn no_more_tasks_run_at_once_than_there_are_workers_after_a_shrink() {
    let scene = Scene::new();
    let leash = Leash::new();
    let pool = scene.builder().worker(stock()).workers(2).build().unwrap();
    let first = [1, 2].map(|n| pool.apply_async(leash.task(n)));
    wait_until("both run", || leash.has_begun(1) && leash.has_begun(2));
    pool.resize(1).unwrap();
    pool.resize(2).unwrap();
    let third = pool.apply_async(leash.task(3));
    wait_until("a third worker is ready", || {
        pool.workers().iter().filter(|it| it.pid.is_some()).count() == 3
    });
    wait_until("it has nothing to do", || {
        pool.workers().iter().any(|worker| worker.status == pool_core::WorkerStatus::Spare)
    });
    assert_eq!((running(&pool), leash.has_begun(3)), (2, false));
    (1..=3).for_each(|n| leash.release(n));
    first.into_iter().chain([third]).for_each(|handle| _ = handle.get().unwrap());
    expect_size(&pool, 2);
}

#[test]
fn many_threads_resize_at_once() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (pool, over) = (&pool, &over);
            scope.spawn(move || {
                for size in (1..=4).cycle().skip(thread) {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    pool.resize(size).unwrap();
                    pool.apply(play(size as u64, Part::Innocent)).unwrap();
                }
            });
        }
        let results = pool.map(|n| play(n, Part::Innocent), 0..3000);
        over.store(true, Ordering::Relaxed);
        assert_eq!(results.unwrap(), (0..3000).map(right).collect::<Vec<_>>());
    });
    pool.resize(3).unwrap();
    expect_size(&pool, 3);
    expect_healthy(&pool);
}

#[test]
fn workers_come_when_they_are_needed_and_go_when_they_are_idle() {
    let scene = Scene::new();
    let leash = Leash::new();
    let builder = scene.builder().worker(stock()).workers(3).min_workers(1);
    let pool = builder.idle_timeout(Duration::from_millis(50)).build().unwrap();
    expect_size(&pool, 1);
    let handles = [1, 2, 3].map(|n| pool.apply_async(leash.task(n)));
    wait_until("all three run at once", || (1..=3).all(|n| leash.has_begun(n)));
    (1..=3).for_each(|n| leash.release(n));
    handles.into_iter().for_each(|handle| _ = handle.get().unwrap());
    expect_size(&pool, 1);
    let stats = pool.stats();
    assert_eq!((stats.retired.idle, stats.deaths.total()), (2, 0), "{stats:?}");
    let results = pool.map(|n| play(n, Part::Innocent), 0..1000).unwrap();
    assert_eq!(results, (0..1000).map(right).collect::<Vec<_>>());
    expect_size(&pool, 1);
}

#[test]
fn with_a_least_of_none_an_unused_pool_has_no_process() {
    let scene = Scene::new();
    let builder = scene.builder().worker(stock()).workers(2).min_workers(0);
    let pool = builder.idle_timeout(Duration::from_millis(20)).build().unwrap();
    assert_eq!((pool.workers().len(), pool.stats().spawned), (0, 0));
    for n in 0..3 {
        assert_eq!(pool.apply(play(n, Part::Innocent)).unwrap(), right(n));
        expect_size(&pool, 0);
    }
    let died = expect_death(pool.apply(play(1, Part::Segv)));
    assert!(is_signal(&died.cause, libc::SIGSEGV));
    assert_eq!(
        pool.map(|n| play(n, Part::Innocent), 0..100).unwrap(),
        (0..100).map(right).collect::<Vec<_>>()
    );
    pool.join();
    drop(pool);
    // One that was never used ends at once.
    scene.builder().worker(stock()).min_workers(0).build().unwrap().join();
    scene.expect_nothing_left();
}

#[test]
fn an_idle_pool_at_its_least_does_not_wake_up() {
    let scene = Scene::new();
    let builder = scene.builder().name("idle").worker(stock()).workers(3).min_workers(2);
    let pool = builder.idle_timeout(Duration::from_millis(100)).max_tasks_per_worker(10_000).build().unwrap();
    pool.map(|n| play(n, Part::Sleep(1)), 0..100).unwrap();
    expect_size(&pool, 2);
    let mut before = all_sleeps(&pool);
    wait_until("the last wake-ups of the work are over", || {
        // Longer than anything that is still looked at once: the others' idle time, and the closed pipes of who has gone.
        thread::sleep(Duration::from_millis(700));
        let now = all_sleeps(&pool);
        std::mem::replace(&mut before, now.clone()) == now
    });
    // Time passing is the subject here: a pool that polls would wake up several times meanwhile.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(all_sleeps(&pool), before);
    drop(pool);
    scene.expect_nothing_left();
}

#[test]
fn a_death_during_a_resize() {
    let scene = Scene::new();
    let leash = Leash::new();
    let pool = scene.builder().worker(stock()).workers(3).build().unwrap();
    expect_size(&pool, 3);
    let handles = [1, 2, 3].map(|n| pool.apply_async(leash.task(n)));
    wait_until("all run", || (1..=3).all(|n| leash.has_begun(n)));
    pool.resize(1).unwrap();
    let pids: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    pids.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
    for handle in handles {
        assert!(is_signal(&expect_death(handle.get()).cause, libc::SIGKILL));
    }
    expect_size(&pool, 1);
    pool.resize(2).unwrap();
    expect_size(&pool, 2);
    expect_healthy(&pool);
}

#[test]
fn workers_beyond_the_first_ones_work_as_those_do() {
    let scene = Scene::new();
    let leash = Leash::new();
    let pool = scene.builder().worker(stock()).workers(1).build().unwrap();
    pool.resize(4).unwrap();
    let handles: Vec<_> = (1..=4).map(|n| pool.apply_async(leash.task(n))).collect();
    wait_until("all four run at once", || (1..=4).all(|n| leash.has_begun(n)));
    // One that hangs is killed, and its place filled.
    let late = pool.apply_async(play(1, Part::Hang).timeout(Duration::from_millis(50)));
    (1..=4).for_each(|n| leash.release(n));
    let pids: BTreeSet<u32> = handles.into_iter().map(|handle| handle.get().unwrap()).collect();
    assert_eq!(pids.len(), 4);
    assert!(matches!(late.get(), Err(TaskError::TimedOut { .. })));
    expect_size(&pool, 4);
    let all: BTreeSet<u32> = pool.map(pid_for, 0..5000).unwrap().into_iter().collect();
    assert!(all.len() <= 4, "{all:?}");
    expect_healthy(&pool);
}

#[test]
fn a_pool_at_its_end_keeps_its_size() {
    let scene = Scene::new();
    let closed = scene.builder().worker(stock()).build().unwrap();
    closed.join();
    closed.resize(4).unwrap();
    assert_eq!(closed.stats().spawned, 2);
    let terminated = scene.builder().worker(stock()).build().unwrap();
    terminated.terminate();
    terminated.resize(4).unwrap();
    assert!(matches!(terminated.apply(play(1, Part::Innocent)), Err(TaskError::PoolClosed)));
    // One that is closing grows as long as tasks wait.
    let leash = Leash::new();
    let closing = scene.builder().worker(stock()).workers(1).build().unwrap();
    let handles = [1, 2].map(|n| closing.apply_async(leash.task(n)));
    closing.close();
    closing.resize(2).unwrap();
    wait_until("both run", || leash.has_begun(1) && leash.has_begun(2));
    [1, 2].into_iter().for_each(|n| leash.release(n));
    handles.into_iter().for_each(|handle| _ = handle.get().unwrap());
    closing.join();
    drop((closed, terminated, closing));
    scene.expect_nothing_left();
}

#[test]
fn wrong_sizes_are_refused() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    assert!(matches!(pool.resize(0), Err(BuildError::NoWorkers)));
    assert!(matches!(pool.resize(usize::MAX), Err(BuildError::Setting { setting: "resize", .. })));
    expect_size(&pool, 2);
    let more = scene.builder().worker(stock()).workers(2).min_workers(3).build();
    assert!(matches!(more, Err(BuildError::Setting { setting: "min_workers", .. })), "{more:?}");
}
