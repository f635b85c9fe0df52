//! Worker processes that are replaced while all is well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use pool_core::{Builder, Pool, WorkerEvent, WorkerStatus};
use pool_tests::{Leash, Part, Scene, expect_death, pid_for, play, process, right, wait_until};

use crate::programs::stock;

fn recycling(scene: &Scene, tasks: u64) -> Builder {
    scene.builder().worker(stock()).max_tasks_per_worker(tasks)
}

/// How many tasks each process has run.
fn count(pids: impl IntoIterator<Item = u32>) -> BTreeMap<u32, u64> {
    let mut counts = BTreeMap::new();
    pids.into_iter().for_each(|pid| *counts.entry(pid).or_default() += 1);
    counts
}

/// None has run more than `most`, and all but those that were left over in the end have run exactly so many.
#[track_caller]
fn expect_exactly(most: u64, left_over: usize, counts: &BTreeMap<u32, u64>) {
    assert!(counts.values().all(|count| *count <= most), "{counts:?}");
    let fewer = counts.values().filter(|count| **count < most).count();
    assert!(fewer <= left_over, "{fewer} have run fewer than {most}: {counts:?}");
}

/// The pool has nothing to do, and runs what it is given. Its workers may be replaced at any moment.
#[track_caller]
fn expect_useful(pool: &Pool) {
    assert_eq!(pool.stats().pending, 0);
    let results = pool.map(|n| play(n, Part::Innocent), 0..50).unwrap();
    assert_eq!(results, (0..50).map(right).collect::<Vec<_>>());
}

#[test]
fn no_process_runs_more_tasks_than_it_may_and_while_work_lasts_exactly_so_many() {
    let scene = Scene::new();
    for workers in [1, 3] {
        let pool = recycling(&scene, 5).workers(workers).build().unwrap();
        let submitted: Vec<_> = (0..60).map(|n| pool.apply_async(pid_for(n))).collect();
        let counts = count(submitted.into_iter().map(|handle| handle.get().unwrap()));
        // The last ones, and those that had been given tasks that an idle one took over.
        expect_exactly(5, workers + 1, &counts);
        let chunks = pool.batch().chunk_size(7).map(pid_for, 0..60).unwrap();
        expect_exactly(5, 2 * (workers + 1), &count(chunks));
        assert!(pool.stats().retired.tasks >= 12, "{:?}", pool.stats());
        assert_eq!(pool.stats().deaths.total(), 0);
        expect_useful(&pool);
    }
}

#[test]
fn one_worker_runs_its_tasks_in_processes_of_exactly_as_many() {
    let scene = Scene::new();
    let pool = recycling(&scene, 4).workers(1).build().unwrap();
    let pids = pool.map(pid_for, 0..40).unwrap();
    let counts = count(pids.iter().copied());
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [4; 10], "{counts:?}");
    assert!(pids.chunks(4).all(|of_one| of_one.iter().all(|pid| *pid == of_one[0])), "{pids:?}");
}

#[test]
fn a_successor_is_ready_before_the_old_process_has_finished_and_waits_for_its_end() {
    let scene = Scene::new();
    let leash = Leash::new();
    let pool = recycling(&scene, 1).workers(1).build().unwrap();
    let first = pool.apply_async(leash.task(1));
    wait_until("the successor is ready", || {
        pool.workers().iter().any(|worker| worker.status == WorkerStatus::Spare)
    });
    let second = pool.apply_async(leash.task(2));
    wait_until("the first task runs", || leash.has_begun(1));
    assert!(!leash.has_begun(2), "one worker, one task at a time");
    leash.release(2);
    leash.release(1);
    assert_ne!(first.get().unwrap(), second.get().unwrap());
    expect_useful(&pool);
}

#[test]
fn without_overlap_the_old_process_is_gone_before_its_successor_starts() {
    let scene = Scene::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let told = Arc::clone(&told);
        move |event: &WorkerEvent| told.lock().unwrap().push(event.clone())
    };
    let builder = recycling(&scene, 1).workers(1).recycle_overlap(false).on_worker_event(hook);
    let pool = builder.build().unwrap();
    let mut before = None;
    for n in 0..10 {
        let pid = pool.apply(pid_for(n)).unwrap();
        if let Some(before) = before.replace(pid) {
            assert_ne!(before, pid);
            assert!(!process::is_alive(before), "{before} is still there beside {pid}");
        }
    }
    pool.join();
    let (mut there, mut spawned) = (0, 0);
    for event in told.lock().unwrap().iter() {
        match event {
            WorkerEvent::Spawned { .. } => (there, spawned) = (there + 1, spawned + 1),
            WorkerEvent::Exited { .. } | WorkerEvent::Died(_) => there -= 1,
            _ => {}
        }
        assert!(there <= 1, "{spawned} have been started, and {there} are there");
    }
    assert!(spawned >= 10, "{spawned}");
}

#[test]
fn recycling_interrupts_and_loses_no_task() {
    let scene = Scene::new();
    for overlap in [true, false] {
        let builder = recycling(&scene, 9).workers(3).recycle_jitter(5).recycle_overlap(overlap);
        let pool = builder.build().unwrap();
        let part = |n| if n % 10 == 0 { Part::Sleep(2) } else { Part::Innocent };
        let results = pool.map(|n| play(n, part(n)), 0..1000).unwrap();
        assert_eq!(results, (0..1000).map(right).collect::<Vec<_>>());
        let stats = pool.stats();
        assert_eq!((stats.deaths.total(), stats.failed, stats.requeued), (0, 0, 0), "{stats:?}");
        assert!(stats.retired.tasks > 100, "{stats:?}");
    }
}

#[test]
fn deaths_and_recycling_at_once() {
    let scene = Scene::new();
    let pool = recycling(&scene, 3).workers(2).spares(1).build().unwrap();
    let handles: Vec<_> = (0..200)
        .map(|n| pool.apply_async(play(n, if n % 7 == 0 { Part::Segv } else { Part::Innocent })))
        .collect();
    for (n, handle) in (0..).zip(handles) {
        match n % 7 {
            0 => drop(expect_death(handle.get())),
            _ => assert_eq!(handle.get().unwrap(), right(n)),
        }
    }
    assert!(pool.stats().retired.tasks > 0);
    expect_useful(&pool);
}

#[test]
fn a_pool_that_is_closed_while_it_recycles_ends_all_its_tasks_and_leaves_nothing() {
    let scene = Scene::new();
    let pool: Pool = recycling(&scene, 1).workers(2).build().unwrap();
    let handles: Vec<_> = (0..30).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
    pool.join();
    for (n, handle) in (0..).zip(handles) {
        assert_eq!(handle.get().unwrap(), right(n));
    }
    // A successor that had not started when the last task ended may have been killed.
    let deaths = pool.stats().deaths;
    assert_eq!(deaths.total(), deaths.terminated, "{deaths:?}");
    drop(pool);
    scene.expect_nothing_left();
}
