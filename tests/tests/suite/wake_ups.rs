//! Nobody sleeps longer than there is reason to: threads that wait lead and follow, workers ring, and no bell is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{Builder, Pool, TaskError, TaskHandle};
use pool_tests::{
    Answer, Part, Player, Scene, block_on, cause_of, expect_healthy, is_signal, play, play_all, process,
    right, running, wait_until,
};
use pool_worker::drill;

use crate::programs::stock;

/// Longer than any wait in these tests takes, and shorter than what would hide a lost wake-up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pool that does not look after its workers by the clock while the test runs, so that a lost wake-up is not made good.
fn unattended(scene: &Scene) -> Builder {
    scene.builder().worker(stock()).start_timeout(Duration::from_secs(300))
}

/// A call that goes on until it is cancelled.
fn endless() -> pool_core::Call<Answer> {
    play(0, Part::Cooperate(300_000))
}

/// Runs `work` while another thread of this program waits for a task that does not end: that thread leads, and is asleep
/// soon. `wait` is how it waits.
fn beside_a_leader<T>(pool: &Pool, wait: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let leader = scope.spawn(wait);
        wait_until("the leader's task runs", || running(pool) == 1);
        let result = work();
        assert!(!leader.is_finished(), "its task does not end by itself");
        // Its task is the only one.
        let pid = pool.workers().iter().find(|worker| worker.task.is_some()).and_then(|worker| worker.pid);
        process::send(pid.expect("it still runs"), Signal::SIGKILL);
        result
    })
}

#[track_caller]
fn check_all_ways_of_waiting(pool: &Pool, n: u64) {
    // The first that waits follows; the others find its result there.
    assert_eq!(pool.apply(drill::echo_u64(n)).unwrap(), n, "apply");
    assert_eq!(pool.apply_async(drill::echo_u64(n)).get().unwrap(), n, "get");
    let handle = pool.apply_async(drill::echo_u64(n));
    assert!(handle.wait_timeout(PATIENCE), "wait_timeout");
    let handle = pool.apply_async(drill::echo_u64(n));
    poll(&handle);
    assert_eq!(handle.get().unwrap(), n, "is_finished");
    assert_eq!(block_on(pool.apply_async(drill::echo_u64(n))).unwrap(), n, "await");
    let (tell, told) = channel();
    pool.apply_async(drill::echo_u64(n)).on_complete(move |result| tell.send(result).unwrap());
    assert_eq!(told.recv_timeout(PATIENCE).expect("on_complete").unwrap(), n);
    let numbers: Vec<u64> = (n..n + 1 + n % 700).collect();
    assert_eq!(pool.map(drill::echo_u64, numbers.iter().copied()).unwrap(), numbers, "map");
    let settled = pool.map_settled(drill::echo_u64, numbers.iter().copied());
    assert!(settled.into_iter().zip(&numbers).all(|(result, n)| result.unwrap() == *n), "map_settled");
    let handles: Vec<_> = numbers.iter().map(|n| pool.apply_async(drill::echo_u64(*n))).collect();
    assert!(handles.into_iter().zip(&numbers).all(|(handle, n)| handle.get().unwrap() == *n), "handles");
}

/// Asks again and again, and nothing else.
#[track_caller]
fn poll<R>(handle: &TaskHandle<R>) {
    let deadline = Instant::now() + PATIENCE;
    while !handle.is_finished() {
        assert!(Instant::now() < deadline, "polled for {PATIENCE:?} in vain");
        thread::yield_now();
    }
}

#[test]
fn while_one_thread_waits_for_a_long_task_others_get_their_results_at_once() {
    type Way = fn(&Pool);
    let ways: [(&str, Way); 4] = [
        ("get", |pool| drop(pool.apply_async(endless()).get())),
        ("apply", |pool| drop(pool.apply(endless()))),
        ("wait_timeout", |pool| assert!(pool.apply_async(endless()).wait_timeout(Duration::from_secs(300)))),
        // It waits for many, and is woken late by single ones.
        ("map_settled", |pool| drop(pool.map_settled(|_| endless(), 0..1))),
    ];
    for (way, wait) in ways {
        let scene = Scene::new();
        let pool = unattended(&scene).build().unwrap();
        expect_healthy(&pool);
        let start = Instant::now();
        beside_a_leader(
            &pool,
            || wait(&pool),
            || (0..30).for_each(|round| check_all_ways_of_waiting(&pool, round * 37)),
        );
        assert!(start.elapsed() < PATIENCE, "{way}: {:?}", start.elapsed());
        expect_healthy(&pool);
    }
}

#[test]
fn what_was_watched_before_somebody_leads_is_announced_all_the_same() {
    let scene = Scene::new();
    let pool = unattended(&scene).build().unwrap();
    expect_healthy(&pool);
    for n in 0..20 {
        let (tell, told) = channel();
        pool.apply_async(play(n, Part::Sleep(30))).on_complete(move |result| tell.send(result).unwrap());
        let waiting = thread::spawn({
            let handle = pool.apply_async(play(n, Part::Sleep(40)));
            move || block_on(handle)
        });
        // It gives the lead up again, and takes it for a task that goes on for longer than theirs.
        assert_eq!(pool.apply_async(play(n, Part::Sleep(5))).get().unwrap(), right(n));
        let handle = pool.apply_async(endless());
        thread::scope(|scope| {
            let leader = scope.spawn(|| handle.wait_timeout(Duration::from_secs(300)));
            assert_eq!(told.recv_timeout(PATIENCE).expect("it is called back").unwrap(), right(n));
            assert_eq!(waiting.join().unwrap().unwrap(), right(n));
            assert!(!leader.is_finished());
            handle.cancel();
        });
    }
    expect_healthy(&pool);
}

#[test]
fn a_leader_whose_wait_expires_leaves_nobody_asleep() {
    let scene = Scene::new();
    let pool = unattended(&scene).workers(3).build().unwrap();
    expect_healthy(&pool);
    for n in 0..40 {
        let (tell, told) = channel();
        let endless = pool.apply_async(endless());
        thread::scope(|scope| {
            let leader = scope.spawn(|| {
                let start = Instant::now();
                assert!(!endless.wait_timeout(Duration::from_millis(10)));
                start.elapsed()
            });
            // They follow it, and their tasks end before, while and after it gives up.
            let followers: Vec<_> = (0..5)
                .map(|follower| {
                    let pool = &pool;
                    scope.spawn(move || pool.apply(play(n, Part::Sleep(3 * follower + n % 4))))
                })
                .collect();
            pool.apply_async(play(n, Part::Sleep(14))).on_complete(move |result| tell.send(result).unwrap());
            let took = leader.join().unwrap();
            assert!(took >= Duration::from_millis(10) && took < PATIENCE, "{took:?}");
            for follower in followers {
                assert_eq!(follower.join().unwrap().unwrap(), right(n));
            }
        });
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), right(n));
        endless.cancel();
    }
    expect_healthy(&pool);
}

#[test]
fn a_wait_of_no_length_returns_and_so_do_many_short_ones() {
    let scene = Scene::new();
    let pool = unattended(&scene).build().unwrap();
    let handle = pool.apply_async(play(1, Part::Sleep(200)));
    let start = Instant::now();
    for _ in 0..1000 {
        let _ = handle.wait_timeout(Duration::ZERO);
    }
    let mut waits = 0_u32;
    while !handle.wait_timeout(Duration::from_micros(50)) {
        waits += 1;
    }
    assert!(waits > 0 && start.elapsed() < PATIENCE, "{waits} waits");
    assert_eq!(handle.get().unwrap(), right(1));
    expect_healthy(&pool);
}

#[test]
fn a_leader_is_woken_when_its_task_is_cancelled_by_another_thread() {
    let scene = Scene::new();
    let pool = unattended(&scene).cancel_grace(Duration::ZERO).build().unwrap();
    for round in 0..60_u64 {
        let handle = pool.apply_async(play(round, Part::Hang));
        thread::scope(|scope| {
            let leader = scope.spawn(|| handle.wait_timeout(PATIENCE));
            wait_until("it runs", || running(&pool) == 1);
            // Spinning still, or asleep already.
            thread::sleep(Duration::from_micros(round % 6 * 40));
            handle.cancel();
            assert!(leader.join().unwrap(), "round {round}");
        });
        assert!(matches!(handle.get(), Err(TaskError::Cancelled)));
    }
    expect_healthy(&pool);
}

#[test]
fn a_leader_is_woken_by_the_death_and_by_the_time_limit_of_what_it_waits_for() {
    let scene = Scene::new();
    let pool = unattended(&scene).build().unwrap();
    for round in 0..10 {
        thread::scope(|scope| {
            let leader = scope.spawn(|| pool.apply(play(round, Part::Hang)));
            wait_until("it runs", || running(&pool) == 1);
            let pid =
                pool.workers().iter().find(|worker| worker.task.is_some()).and_then(|worker| worker.pid);
            process::send(pid.expect("it runs"), Signal::SIGKILL);
            let error = leader.join().unwrap().unwrap_err();
            assert!(is_signal(cause_of(&error), libc::SIGKILL), "{error}");
        });
        let late = pool.apply(play(round, Part::Hang).timeout(Duration::from_millis(20)));
        assert!(matches!(late, Err(TaskError::TimedOut { .. })), "{late:?}");
    }
    expect_healthy(&pool);
}

#[test]
fn a_leader_is_woken_by_the_end_of_the_pool() {
    type End = fn(Pool);
    let ends: [(&str, End); 3] = [
        ("terminate", |pool| pool.terminate()),
        ("shutdown", |pool| assert!(!pool.shutdown(Duration::from_millis(10)))),
        // The handles do not keep it.
        ("drop", drop),
    ];
    for (end, finish) in ends {
        for in_a_map in [false, true] {
            let scene = Scene::new();
            let pool = unattended(&scene).build().unwrap();
            let waiting: Vec<_> = (0..3)
                .map(|n| {
                    let handle = pool.apply_async(play(n, Part::Hang));
                    thread::spawn(move || handle.get())
                })
                .collect();
            let map = in_a_map.then(|| {
                let pool = pool.clone();
                thread::spawn(move || pool.map_settled(|n| play(n, Part::Hang), 0..3))
            });
            wait_until("all are submitted", || pool.stats().submitted == if in_a_map { 6 } else { 3 });
            wait_until("two run", || running(&pool) == 2);
            // A clone in the map keeps the pool from being dropped.
            if in_a_map {
                pool.terminate()
            } else {
                finish(pool)
            }
            for waiting in waiting {
                let result = waiting.join().unwrap();
                assert!(matches!(result, Err(TaskError::PoolClosed)), "{end}: {result:?}");
            }
            for result in map.into_iter().flat_map(|map| map.join().unwrap()) {
                assert!(matches!(result, Err(TaskError::PoolClosed)), "{end}: {result:?}");
            }
        }
    }
}

#[test]
fn joining_beside_a_leader_ends_with_the_last_task() {
    for _ in 0..10 {
        let scene = Scene::new();
        let pool = unattended(&scene).build().unwrap();
        let handles: Vec<_> = (0..30).map(|n| pool.apply_async(play(n, Part::Sleep(n % 3)))).collect();
        let waiting = thread::spawn(|| handles.into_iter().map(TaskHandle::get).collect::<Vec<_>>());
        pool.join();
        assert!((0..).zip(waiting.join().unwrap()).all(|(n, result)| result.unwrap() == right(n)));
        assert_eq!(pool.stats().deaths.total(), 0);
    }
}

#[test]
fn nobody_leads_and_what_nobody_waits_for_ends_all_the_same() {
    let scene = Scene::new();
    let pool = unattended(&scene).build().unwrap();
    let mut submitted = 0;
    for round in 0..50_u64 {
        let tasks = 1 + round * 31 % 400;
        for n in 0..tasks {
            drop(pool.apply_async(drill::echo_u64(n)));
        }
        submitted += tasks;
        // The counters do not read what workers have written: that they add up is the workers' or the reactor's doing.
        wait_until("all have ended", || pool.stats().succeeded == submitted);
    }
    expect_healthy(&pool);
}

// Under load

/// What players do with their shared pool.
fn cast<'a>(pool: &'a Pool, deaths: bool) -> Vec<Player<'a>> {
    let number = |n: u64| drill::echo_u64(n);
    let apply =
        |name: &'static str| Player::new(name, move |n| assert_eq!(pool.apply(number(n)).unwrap(), n));
    let mut players = vec![
        apply("apply 1"),
        apply("apply 2"),
        apply("apply 3"),
        Player::new("handles", move |n| {
            let handles: Vec<_> = (n..n + n % 97).map(|n| pool.apply_async(number(n))).collect();
            assert!((n..).zip(handles).all(|(n, handle)| handle.get().unwrap() == n));
        }),
        Player::new("map", move |n| {
            let numbers: Vec<u64> = (n..n + (n >> 12) % 900).collect();
            assert_eq!(pool.map(number, numbers.iter().copied()).unwrap(), numbers);
        }),
        Player::new("map_settled", move |n| {
            let results = pool.map_settled(number, n..n + 3);
            assert!((n..).zip(results).all(|(n, result)| result.unwrap() == n));
        }),
        Player::new("await", move |n| assert_eq!(block_on(pool.apply_async(number(n))).unwrap(), n)),
        Player::new("on_complete", move |n| {
            let (tell, told) = channel();
            pool.apply_async(number(n)).on_complete(move |result| tell.send(result).unwrap());
            assert_eq!(told.recv().unwrap().unwrap(), n);
        }),
        Player::new("is_finished", move |n| {
            let handle = pool.apply_async(number(n));
            while !handle.is_finished() {
                thread::yield_now();
            }
            assert_eq!(handle.get().unwrap(), n);
        }),
        Player::new("wait_timeout", move |n| {
            let handle = pool.apply_async(play(n, Part::Sleep(n >> 12 & 1)));
            while !handle.wait_timeout(Duration::from_micros(n >> 10 & 0xFF)) {}
            assert_eq!(handle.get().unwrap(), right(n));
        }),
        Player::new("cancel", move |n| {
            let handle = pool.apply_async(number(n));
            if n >> 12 & 1 == 0 {
                thread::yield_now();
            }
            handle.cancel();
            match handle.get() {
                Ok(result) => assert_eq!(result, n),
                Err(error) => assert!(matches!(error, TaskError::Cancelled), "{error:?}"),
            }
        }),
        Player::new("cancel another's", move |n| {
            let handle = pool.apply_async(play(n, Part::Cooperate(300_000)));
            thread::scope(|scope| {
                let waiting = scope.spawn(|| handle.wait_timeout(Duration::from_secs(300)));
                handle.cancel();
                assert!(waiting.join().unwrap());
            });
            assert!(matches!(handle.get(), Err(TaskError::Cancelled)));
        }),
        Player::new("large", move |n| {
            let len = (n >> 12).wrapping_mul(40_503) % 600_000;
            assert_eq!(pool.apply(drill::make_bytes(len)).unwrap().len() as u64, len);
        }),
    ];
    if deaths {
        players.push(Player::new("deaths", move |n| {
            let error = pool.apply(play(n, Part::Raise(libc::SIGKILL))).unwrap_err();
            assert!(is_signal(cause_of(&error), libc::SIGKILL), "{error}");
        }));
    }
    players
}

#[track_caller]
fn storm(workers: usize, deaths: bool) {
    let scene = Scene::new();
    let pool = unattended(&scene).workers(workers).build().unwrap();
    let played = play_all(&pool, Duration::from_secs(4), cast(&pool, deaths));
    // On the busiest machine everybody gets somewhere.
    assert!(played.iter().all(|(_, steps)| *steps > 0), "{played:?}");
    expect_healthy(&pool);
    if !deaths {
        let stats = pool.stats();
        assert_eq!(stats.deaths.total(), stats.deaths.cancelled, "{stats:?}");
    }
}

#[test]
fn no_wake_up_is_lost_with_one_worker() {
    storm(1, false);
}

#[test]
fn no_wake_up_is_lost_with_two_workers() {
    storm(2, false);
}

#[test]
fn no_wake_up_is_lost_with_eight_workers() {
    storm(8, false);
}

/// A worker may stand still between any two steps: it has published and not rung, or has said that it sleeps and does not.
#[test]
fn no_wake_up_is_lost_when_workers_are_stopped_and_go_on() {
    let scene = Scene::new();
    let pool = unattended(&scene).build().unwrap();
    let mut players = cast(&pool, false);
    players.push(Player::new("stop and go", |n| {
        let pids: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
        let Some(pid) = pids.get(n as usize >> 12 & 1) else { return };
        process::send(*pid, Signal::SIGSTOP);
        thread::sleep(Duration::from_micros(n >> 12 & 0x3FF));
        process::send(*pid, Signal::SIGCONT);
    }));
    play_all(&pool, Duration::from_secs(4), players);
    expect_healthy(&pool);
}

#[test]
fn no_wake_up_is_lost_when_workers_die() {
    storm(2, true);
}

/// Two threads and one worker, so that everybody is asleep most of the time and falls asleep all the time.
#[test]
fn no_wake_up_is_lost_when_all_fall_asleep_between_tasks() {
    for workers in [1, 2] {
        let scene = Scene::new();
        let pool = unattended(&scene).workers(workers).build().unwrap();
        let single = Player::new("apply", |n| assert_eq!(pool.apply(drill::echo_u64(n)).unwrap(), n));
        let unwatched = Player::new("unwatched", |n| {
            let handle = pool.apply_async(drill::echo_u64(n));
            thread::sleep(Duration::from_micros(n >> 12 & 0x7F));
            assert_eq!(handle.get().unwrap(), n);
        });
        play_all(&pool, Duration::from_millis(2500), vec![single, unwatched]);
        expect_healthy(&pool);
    }
}

/// The lead goes from hand to hand all the time.
#[test]
fn no_wake_up_is_lost_when_pools_come_and_go() {
    let scene = Scene::new();

    let made = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(3);
    thread::scope(|scope| {
        for n in 0..3 {
            let (scene, made) = (&scene, &made);
            scope.spawn(move || {
                while Instant::now() < end {
                    let pool = unattended(scene).build().unwrap();
                    let handles: Vec<_> = (0..20).map(|n| pool.apply_async(drill::echo_u64(n))).collect();
                    assert_eq!(pool.apply(drill::echo_u64(n)).unwrap(), n);
                    let waiting =
                        thread::spawn(|| handles.into_iter().map(TaskHandle::get).collect::<Vec<_>>());
                    drop(pool);
                    for (n, result) in (0..).zip(waiting.join().unwrap()) {
                        match result {
                            Ok(result) => assert_eq!(result, n),
                            Err(error) => assert!(matches!(error, TaskError::PoolClosed), "{error:?}"),
                        }
                    }
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(made.load(Ordering::Relaxed) > 3);
}
