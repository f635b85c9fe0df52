//! Who waits for whom: single tasks beside long batches, batches beside each other, and priorities.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pool_core::Pool;
use pool_tests::{Scene, exit_once_there, expect_death, expect_healthy, wait_until};
use pool_worker::drill;

use crate::programs::stock;

/// Says that whoever feeds a batch may stop, also when a test fails.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_million_items_do_not_starve_a_single_task() {
    const ITEMS: u64 = 1_000_000;
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(2).build().unwrap();
    let is_over = AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        scope.spawn(|| {
            let _enough = Enough(&is_over);
            let sums = pool.map(|n| drill::add(n, 1), 0..ITEMS).unwrap();
            assert!((1..).zip(sums).all(|(n, sum)| sum == n));
        });
        wait_until("the batch is under way", || pool.stats().succeeded > 1000);
        let mut answered = 0;
        while answered < 20 && !is_over.load(Ordering::Relaxed) {
            assert_eq!(pool.apply(drill::echo_u64(answered)).unwrap(), answered);
            answered += 1;
        }
        answered
    });
    assert_eq!(answered, 20, "so few single tasks had ended when the million had");
    expect_healthy(&pool);
}

#[test]
fn a_single_task_does_not_wait_for_what_a_long_batch_has_in_flight() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(2).build().unwrap();
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let _enough = Enough(&enough);
        let feed = (0_u64..).take_while(|_| !enough.load(Ordering::Relaxed));
        scope.spawn(|| pool.map(|_| drill::sleep_ms(5), feed));
        wait_until("the batch is under way", || pool.stats().succeeded > 20);
        for n in 0..10 {
            let before = pool.stats().succeeded;
            assert_eq!(pool.apply(drill::echo_u64(n)).unwrap(), n);
            let overtaken = pool.stats().succeeded - before;
            assert!(overtaken < 100, "{overtaken} tasks of the batch ended before a single one");
        }
        pool.terminate();
    });
}

/// Runs a long batch of items of 2 ms, and beside it one of 20 items of 40 ms; returns how many of the first ended meanwhile.
fn beside(pool: &Pool) -> u64 {
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let _enough = Enough(&enough);
        let feed = (0_u64..).take_while(|_| !enough.load(Ordering::Relaxed));
        scope.spawn(|| pool.map(|_| drill::sleep_ms(2), feed));
        wait_until("the batch is under way", || pool.stats().succeeded > 50);
        let before = pool.stats().succeeded;
        pool.map(|_| drill::sleep_ms(40), 0..20).unwrap();
        let beside = pool.stats().succeeded - before - 20;
        pool.terminate();
        beside
    })
}

#[test]
fn two_batches_share_the_workers_time_whatever_their_items_take() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(2).build().unwrap();
    let beside = beside(&pool);
    // 20 items of 40 ms take as long as 400 of 2 ms.
    assert!((100..1600).contains(&beside), "{beside} short items ended beside 20 long ones");
}

#[test]
fn higher_priorities_go_first_and_lower_ones_still_end() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(1).build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    // Who runs the others is a new process, which counts them in the order in which it runs them.
    let blocker = pool.apply_async(exit_once_there(gate.clone()).priority(i8::MAX));
    let submit = |priority| -> Vec<_> {
        (0..5).map(|_| pool.apply_async(drill::count().priority(priority))).collect()
    };
    let [low, high] = [submit(-1), submit(3)];
    let normal: Vec<_> = (0..5).map(|_| pool.apply_async(drill::count())).collect();
    let [first, last] = thread::scope(|scope| {
        let first = scope.spawn(|| pool.batch().priority(9).map(|_| drill::count(), 0..3));
        // What a call says comes before what its batch says.
        let last = scope.spawn(|| pool.batch().priority(9).map(|_| drill::count().priority(-2), 0..3));
        wait_until("everything waits", || pool.stats().pending == 1 + 15 + 6);
        std::fs::write(&gate, "").unwrap();
        [first, last].map(|batch| batch.join().unwrap().unwrap())
    });
    expect_death(blocker.get());
    let order: Vec<u64> =
        [high, normal, low].into_iter().flatten().map(|handle| handle.get().unwrap()).collect();
    assert_eq!((first, order, last), (vec![1, 2, 3], (4..=18).collect(), vec![19, 20, 21]));
    expect_healthy(&pool);
}

#[test]
fn a_hundred_maps_at_once() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(2).build().unwrap();
    thread::scope(|scope| {
        for map in 0..100_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let sums = pool.map(|n| drill::add(n, map), 0..200).unwrap();
                assert!((map..).zip(sums).all(|(right, sum)| sum == right));
            });
        }
    });
    expect_healthy(&pool);
}
