//! Batches whose pieces go to the workers in turns: whoever dies, comes late or has too much to do.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use pool_core::{Batch, Call, OnFailure, Pool, TaskContext, TaskError, task};
use pool_tests::{Scene, expect_healthy, wait_for_file, wait_until};
use serde::{Deserialize, Serialize};

const WORKERS: u64 = 3;

/// Where an item ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ran {
    item: u64,
    worker: u64,
    pid: u32,
}

/// What an item does besides telling where it ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Does {
    Nothing,
    Sleep(u64),
    Die,
    DieAtFirst,
    WaitFor(PathBuf),
}

#[task]
fn whereabouts(item: u64, does: Does, #[context] cx: &TaskContext) -> Ran {
    match does {
        Does::Nothing => {}
        Does::Sleep(millis) => thread::sleep(Duration::from_millis(millis)),
        Does::DieAtFirst if cx.attempt() > 1 => {}
        Does::Die | Does::DieAtFirst => std::process::abort(),
        Does::WaitFor(file) => wait_for_file(&file),
    }
    Ran { item, worker: cx.worker_index() as u64, pid: std::process::id() }
}

/// As many for one worker as for the others, which take much less.
fn uneven(item: u64) -> Call<Ran> {
    whereabouts(item, if item.is_multiple_of(WORKERS) { Does::Sleep(1) } else { Does::Nothing })
}

#[track_caller]
fn expect_turns(ran: &[Ran], piece: u64, workers: u64) {
    let astray = ran.iter().find(|ran| ran.worker != ran.item / piece % workers);
    assert!(astray.is_none(), "pieces of {piece}, {workers} workers: {astray:?}");
}

#[test]
fn pieces_go_to_the_workers_in_turns_in_every_call() {
    let scene = Scene::new();
    let pool = scene.builder().workers(WORKERS as usize).build().unwrap();
    type Runs = fn(Batch<'_>) -> Vec<Ran>;
    let calls: [Runs; 5] = [
        |batch| batch.map(uneven, 0..120).unwrap(),
        |batch| batch.map_unordered(uneven, 0..120).unwrap(),
        |batch| batch.imap(uneven, 0..120).collect::<Result<_, _>>().unwrap(),
        |batch| batch.imap_unordered(uneven, 0..120).collect::<Result<_, _>>().unwrap(),
        |batch| batch.map_settled(uneven, 0..120).into_iter().collect::<Result<_, _>>().unwrap(),
    ];
    let mut pids: Vec<u32> = Vec::new();
    for call in calls {
        for chunk in [0, 1, 7, 50] {
            let mut ran = call(pool.batch().order_tasks(true).chunk_size(chunk));
            ran.sort_by_key(|ran| ran.item);
            assert!(ran.iter().map(|ran| ran.item).eq(0..120));
            expect_turns(&ran, (chunk as u64).max(1), WORKERS);
            pids.extend(ran.iter().map(|ran| ran.pid));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len() as u64, WORKERS);
    // Otherwise the idle take what comes next.
    let free = pool.map(uneven, 0..600).unwrap();
    assert!(free.iter().any(|ran| ran.worker != ran.item % WORKERS), "the test shows nothing");
    expect_healthy(&pool);
}

#[test]
fn nobody_takes_over_what_is_for_a_worker_that_is_busy() {
    let scene = Scene::new();
    let pool = scene.builder().workers(2).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let end = dir.path().join("end");
    let call = |item| whereabouts(item, if item == 0 { Does::WaitFor(end.clone()) } else { Does::Nothing });
    let mut runs = pool.batch().order_tasks(true).max_in_flight(100).imap_unordered(call, 0..100);
    let others: Vec<Ran> = runs.by_ref().take(50).map(Result::unwrap).collect();
    assert!(others.iter().all(|ran| ran.item % 2 == 1), "{others:?}");
    assert!(runs.next_timeout(Duration::from_millis(50)).is_err(), "the rest waits behind the first");
    std::fs::write(&end, []).unwrap();
    let rest: Vec<Ran> = runs.by_ref().map(Result::unwrap).collect();
    assert_eq!(rest.len(), 50);
    expect_turns(&[others, rest].concat(), 1, 2);
    drop(runs);
    expect_healthy(&pool);
}

#[test]
fn replacements_get_what_was_for_the_dead() {
    let scene = Scene::new();
    let pool = scene.builder().workers(WORKERS as usize).build().unwrap();
    let dies = |item: u64| item % 7 == 3;
    let call = |item| whereabouts(item, if dies(item) { Does::Die } else { Does::Nothing });
    for chunk in [1, 5] {
        let mut ran = Vec::new();
        for (item, result) in
            (0..).zip(pool.batch().order_tasks(true).chunk_size(chunk).map_settled(call, 0..90))
        {
            match result {
                Ok(of) => ran.push(of),
                Err(TaskError::WorkerDied(_)) if dies(item) => {}
                Err(error) => panic!("item {item}: {error}"),
            }
        }
        assert_eq!(ran.len(), (0..90).filter(|item| !dies(*item)).count());
        expect_turns(&ran, chunk as u64, WORKERS);
    }
    expect_healthy(&pool);
}

#[test]
fn retries_stay_with_the_worker() {
    let scene = Scene::new();
    let pool = scene.builder().workers(WORKERS as usize).build().unwrap();
    let call =
        |item: u64| whereabouts(item, if item.is_multiple_of(5) { Does::DieAtFirst } else { Does::Nothing });
    let batch = pool.batch().order_tasks(true).retries(1);
    let ran = batch.map(call, 0..40).unwrap();
    assert!(ran.iter().map(|ran| ran.item).eq(0..40));
    expect_turns(&ran, 1, WORKERS);
    assert_eq!(pool.stats().retried, 8);
    expect_healthy(&pool);
}

#[track_caller]
fn expect_size(pool: &Pool, size: usize) {
    wait_until(&format!("there are {size} workers"), || {
        pool.workers().len() == size && pool.stats().workers_ready == size
    });
}

#[test]
fn turns_follow_the_size_of_the_pool() {
    let scene = Scene::new();
    let pool = scene.builder().workers(4).build().unwrap();
    expect_size(&pool, 4);
    let call = |item| whereabouts(item, Does::Nothing);
    let mut runs = pool.batch().order_tasks(true).max_in_flight(1).imap(call, 0..36);
    for size in [4, 2, 3] {
        pool.resize(size).unwrap();
        expect_size(&pool, size);
        let ran: Vec<Ran> = runs.by_ref().take(12).map(Result::unwrap).collect();
        expect_turns(&ran, 1, size as u64);
    }
    assert!(runs.next().is_none());
    drop(runs);
    expect_healthy(&pool);
}

#[test]
fn nothing_is_lost_when_the_size_changes_in_between() {
    let scene = Scene::new();
    let pool = scene.builder().workers(4).build().unwrap();
    thread::scope(|scope| {
        let batch = pool.batch().order_tasks(true).retries(3).on_failure(OnFailure::Isolate);
        let call =
            |item| whereabouts(item, if item % 40 == 11 { Does::DieAtFirst } else { Does::Sleep(item % 3) });
        let mapped = scope.spawn(move || batch.map(call, 0..600));
        for size in [2, 5, 1, 3, 4].into_iter().cycle() {
            pool.resize(size).unwrap();
            let goal = pool.stats().succeeded + 20;
            wait_until("the map goes on", || pool.stats().succeeded >= goal || mapped.is_finished());
            if mapped.is_finished() {
                break;
            }
        }
        let ran = mapped.join().unwrap().unwrap();
        assert!(ran.iter().map(|ran| ran.item).eq(0..600));
    });
    pool.resize(2).unwrap();
    expect_size(&pool, 2);
    expect_healthy(&pool);
}

#[test]
fn an_elastic_pool_starts_whom_it_needs() {
    let scene = Scene::new();
    let builder = scene.builder().workers(WORKERS as usize).min_workers(1);
    let pool = builder.idle_timeout(Duration::from_secs(3600)).build().unwrap();
    let ran = pool.batch().order_tasks(true).map(uneven, 0..60).unwrap();
    expect_turns(&ran, 1, WORKERS);
    expect_healthy(&pool);
}
