//! Workers that use more memory than they may.

use std::time::Duration;

use pool_core::{DeathCause, TaskError, task};
use pool_tests::{Mode, Scene, Trial, expect_death, expect_healthy, innocent, sevens, wait_until};

use crate::programs::stock;
use pool_worker::drill;

const MIB: u64 = 1 << 20;

/// Memory that is allowed: far above what a worker has anyway.
const LIMIT: u64 = 200 * MIB;

/// Touches memory without end, until the worker is killed.
#[task]
fn grow() -> Vec<u8> {
    let mut blocks = Vec::new();
    loop {
        blocks.push(std::hint::black_box(vec![0xA5_u8; 1 << 20]));
        // Slow enough that the machine of the test has the memory.
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_task_that_exceeds_the_memory_limit_is_killed_and_nobody_else() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().memory_limit(LIMIT).build().unwrap();
        let death = expect_death(Trial { victim: grow, innocent }.run(&pool, mode, sevens));
        match &death.cause {
            DeathCause::MemoryLimit { rss, limit, .. } => assert!(*limit == LIMIT && *rss > LIMIT, "{death}"),
            other => panic!("{mode:?}: {other}"),
        }
        assert!(death.task.as_ref().is_some_and(|task| task.ends_with("::grow")), "{death}");
        assert!(death.peak_rss.is_some_and(|peak| peak > LIMIT), "{death}");
        expect_healthy(&pool);
        let deaths = pool.stats().deaths;
        assert_eq!((deaths.memory_limit, deaths.out_of_memory), (1, 0), "{mode:?}: {deaths:?}");
    }
}

#[test]
fn retries_are_for_this_as_for_any_death() {
    let scene = Scene::new();
    let pool = scene.builder().memory_limit(LIMIT).build().unwrap();
    match pool.apply(grow().retries(1)) {
        Err(TaskError::Poisoned { deaths, .. }) => {
            let by_limit = |death: &pool_core::Death| matches!(death.cause, DeathCause::MemoryLimit { .. });
            assert!(deaths.len() == 2 && deaths.iter().all(by_limit), "{deaths:?}");
        }
        other => panic!("{other:?}"),
    }
    expect_healthy(&pool);
}

#[test]
fn what_a_task_leaves_behind_is_found_after_its_end() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(1).memory_limit(LIMIT).build().unwrap();
    let leaked = 2 * LIMIT;
    // It may be over before it is looked at, or not.
    match pool.apply(drill::leak(leaked)) {
        Ok(bytes) => assert_eq!(bytes, leaked),
        Err(error) => assert!(matches!(error, TaskError::WorkerDied(_)), "{error}"),
    }
    wait_until("the worker is killed", || pool.stats().deaths.memory_limit == 1);
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), 1);
}

#[test]
fn a_worker_that_has_rested_is_looked_at_again() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).memory_limit(LIMIT).build().unwrap();
    for _ in 0..2 {
        assert_eq!(pool.apply(innocent(3)).unwrap(), sevens(3));
        // Time passing is the subject here: it is looked at for the last time a tenth of a second after its work.
        std::thread::sleep(Duration::from_millis(300));
    }
    let death = expect_death(pool.apply(grow()));
    assert!(matches!(death.cause, DeathCause::MemoryLimit { .. }), "{death}");
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), 1);
}

#[test]
fn a_worker_that_leaks_is_replaced_after_its_task_and_no_task_is_lost() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(1).recycle_above(LIMIT).build().unwrap();
    let leaked = 2 * LIMIT;
    for recycled in 1..=2 {
        assert_eq!(pool.apply(drill::leak(leaked)).unwrap(), leaked);
        wait_until("the worker is replaced", || pool.stats().retired.memory == recycled);
        expect_healthy(&pool);
    }
    let stats = pool.stats();
    assert_eq!((stats.deaths.total(), stats.failed, stats.retired.tasks), (0, 0, 0), "{stats:?}");
}

#[test]
fn memory_that_is_shared_does_not_count() {
    let scene = Scene::new();
    let pool = scene.builder().memory_limit(LIMIT).build().unwrap();
    // Results of twice the limit, in shared memory until they are read.
    let len = 50 * MIB;
    let results = pool.map(drill::make_bytes, vec![len; 8]).unwrap();
    assert!(results.iter().all(|result| result.len() as u64 == len));
    assert_eq!(pool.stats().deaths.total(), 0);
}

#[test]
fn workers_that_leak_in_turn_are_replaced_in_the_midst_of_a_map() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).recycle_above(LIMIT).build().unwrap();
    // Each leaves a quarter of the limit behind.
    let leaks = pool.map(drill::leak, vec![LIMIT / 4; 24]).unwrap();
    assert_eq!(leaks, [LIMIT / 4; 24]);
    wait_until("workers have been replaced", || pool.stats().retired.memory > 0);
    assert_eq!(pool.map(|n| drill::add(n, n), 0..300).unwrap(), (0..300).map(|n| n + n).collect::<Vec<_>>());
    let stats = pool.stats();
    assert_eq!((stats.deaths.total(), stats.failed, stats.retried), (0, 0, 0), "{stats:?}");
    let private = |pid: u32| {
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
        let pages: Vec<u64> = statm.split(' ').take(3).map(|field| field.parse().unwrap()).collect();
        (pages[1] - pages[2]) * 4096
    };
    wait_until("no worker is larger than it may be", || {
        pool.workers().iter().filter_map(|worker| worker.pid).all(|pid| private(pid) <= LIMIT)
    });
}

#[test]
fn a_task_that_has_begun_is_not_interrupted_by_recycling() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(1).recycle_above(LIMIT).build().unwrap();
    pool.apply(drill::leak(2 * LIMIT)).unwrap();
    wait_until("the worker has been replaced", || pool.stats().retired.memory == 1);
    let first = pool.apply(drill::pid()).unwrap();
    let results = pool.map(|n| if n == 0 { drill::leak(2 * LIMIT) } else { drill::add(n, 1) }, 0..50);
    let expected: Vec<u64> = (0..50).map(|n| if n == 0 { 2 * LIMIT } else { n + 1 }).collect();
    assert_eq!(results.unwrap(), expected);
    wait_until("it has been replaced again", || pool.stats().retired.memory == 2);
    assert_ne!(pool.apply(drill::pid()).unwrap(), first);
    assert_eq!((pool.stats().deaths.total(), pool.stats().failed), (0, 0));
}
