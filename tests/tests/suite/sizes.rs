//! Nothing and very much: numbers of tasks, lengths of arguments and results, and inputs that end badly.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{SharedBytes, TaskError, task};
use pool_tests::{Mode, Part, Scene, Trial, expect_healthy, play, process, right, wait_until};
use pool_worker::drill;

use crate::programs::stock;

const MIB: u64 = 1 << 20;

/// What `make_bytes` returns.
fn made(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

#[test]
fn no_task_and_one_task() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    assert!(pool.map(drill::echo_u64, []).unwrap().is_empty());
    assert!(pool.map_settled(drill::echo_u64, []).is_empty());
    assert_eq!(pool.map(drill::echo_u64, [7]).unwrap(), [7]);
    assert_eq!(pool.map_settled(drill::echo_u64, [7]).pop().unwrap().unwrap(), 7);
    assert_eq!(pool.apply(drill::echo_u64(7)).unwrap(), 7);
    expect_healthy(&pool);
}

#[test]
fn two_hundred_thousand_tiny_tasks() {
    const TASKS: u64 = 200_000;
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let sums = pool.map(|n| drill::add(n, 1), 0..TASKS).unwrap();
    assert_eq!(sums.len() as u64, TASKS);
    assert!((1..).zip(sums).all(|(n, sum)| sum == n));
    assert_eq!(pool.stats().succeeded, TASKS);
    expect_healthy(&pool);
}

#[test]
fn fifty_thousand_handles_at_once() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handles: Vec<_> = (0..50_000).map(|n| pool.apply_async(drill::echo_u64(n))).collect();
    assert!((0..).zip(handles).all(|(n, handle)| handle.get().unwrap() == n));
    expect_healthy(&pool);
}

#[test]
fn an_input_is_pulled_only_as_results_come_in() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let pulled = Cell::new(0_u64);
    let endless = (0_u64..).inspect(|n| pulled.set(*n));
    let part = |n| if n == 5000 { Part::Exit(1) } else { Part::Innocent };
    let error = pool.map(|n| play(n, part(n)), endless).unwrap_err();
    assert_eq!(error.index, 5000);
    assert!((5000..50_000).contains(&pulled.get()), "an endless input was pulled to {}", pulled.get());
    expect_healthy(&pool);
}

#[test]
fn arguments_and_results_of_every_length() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let edges = [48 << 10, 64 << 10, 128 << 10, 256 << 10, MIB];
    let around = edges.into_iter().flat_map(|edge| [edge - 17, edge - 16, edge - 1, edge, edge + 1]);
    let lengths: Vec<u64> =
        [0, 1, 127, 128, 4095, 4096, 4097].into_iter().chain(around).chain([16 * MIB]).collect();
    let data = made(16 * MIB);
    for &len in &lengths {
        let data = &data[..len as usize];
        assert_eq!(pool.apply(drill::length(data)).unwrap(), len);
        assert!(pool.apply(drill::make_bytes(len)).unwrap() == data, "a result of {len} bytes");
        assert!(pool.apply(drill::echo_bytes(data.to_vec())).unwrap() == data, "{len} bytes to and fro");
    }
    // Large and small ones mixed, on both ways at once.
    let lengths: Vec<u64> = lengths.iter().copied().filter(|len| *len <= MIB).collect();
    let mixed: Vec<u64> = (0..300).map(|n| lengths[n * 7 % lengths.len()]).collect();
    let echoes =
        pool.map(|len| drill::echo_bytes(data[..len as usize].to_vec()), mixed.iter().copied()).unwrap();
    assert!(echoes.iter().zip(&mixed).all(|(echo, len)| *echo == data[..*len as usize]));
    expect_healthy(&pool);
}

#[test]
fn both_ways_to_and_from_a_worker_are_full_at_once() {
    // A few that are larger than everything, and many that are not large enough for memory of their own.
    for (len, count) in [(16 * MIB, 4), (60_000, 300)] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
        let large = made(len);
        // Results that fill the one way, while arguments wait on the other.
        let results: Vec<_> = (0..count).map(|_| pool.apply_async(drill::make_bytes(len))).collect();
        let arguments: Vec<_> = (0..count).map(|_| pool.apply_async(drill::length(&large))).collect();
        let both: Vec<_> =
            (0..count / 2).map(|_| pool.apply_async(drill::echo_bytes(large.clone()))).collect();
        assert!(results.into_iter().all(|handle| handle.get().unwrap() == large));
        assert!(arguments.into_iter().all(|handle| handle.get().unwrap() == len));
        assert!(both.into_iter().all(|handle| handle.get().unwrap() == large));
        expect_healthy(&pool);
    }
}

#[test]
fn a_busy_worker_that_reads_nothing_blocks_nobody_else() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    let hanging = pool.apply_async(drill::hang());
    wait_until("it hangs", || pool.workers().iter().any(|worker| worker.task.is_some()));
    // 64 MB, some of which may be given to the worker that hangs, where they wait until they are taken back.
    for (len, count) in [(MIB, 64), (60_000, 1000)] {
        let large = made(len);
        let start = Instant::now();
        let lengths = pool.map(|_| drill::length(&large), 0..count).unwrap();
        assert!(lengths.iter().all(|found| *found == len));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
    hanging.cancel();
    expect_healthy(&pool);
}

#[test]
fn a_worker_that_dies_with_a_full_pipe_has_its_arguments_sent_again() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let large = made(4 * MIB);
        let trial = Trial {
            victim: || drill::length(&large).name("victim"),
            innocent: |n| drill::length(&large[..(n * MIB / 40) as usize]),
        };
        let crash = pool.apply_async(play(0, Part::After(30, Box::new(Part::Segv))));
        assert_eq!(trial.run(&pool, mode, |n| n * MIB / 40).unwrap(), 4 * MIB);
        assert!(crash.get().is_err());
        expect_healthy(&pool);
    }
}

/// Large results stay where the worker has put them until somebody wants them.
#[test]
fn large_results_survive_the_death_of_their_worker_and_tasks_that_overwrite_what_they_can() {
    for scribble in [false, true] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
        let lengths: Vec<u64> = (0..12).map(|n| 50_000 + n * 40_000).collect();
        let handles: Vec<_> = lengths.iter().map(|len| pool.apply_async(drill::make_bytes(*len))).collect();
        assert!(handles.iter().all(|handle| handle.wait_timeout(Duration::from_secs(20))));
        if scribble {
            // What is to be said of this one is said elsewhere.
            drop(pool.apply(drill::scribble_board(true)));
        } else {
            let pid = pool.workers()[0].pid.expect("it is idle");
            process::send(pid, Signal::SIGKILL);
            wait_until("it is buried", || pool.stats().deaths.total() == 1);
        }
        for (len, handle) in lengths.iter().zip(handles) {
            assert!(handle.get().unwrap() == made(*len), "a result of {len} bytes, scribbled: {scribble}");
        }
        expect_healthy(&pool);
    }
}

#[test]
fn workers_that_are_killed_while_large_data_go_to_and_fro_lose_the_tasks_that_they_ran() {
    const KILLS: u64 = 8;
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let data = made(3 * MIB);
    let len = |n: u64| (n * 7919 % 300_000) as usize;
    let results = std::thread::scope(|scope| {
        scope.spawn(|| {
            for kill in 1..=KILLS {
                wait_until("the map has got on", || pool.stats().succeeded >= kill * 100);
                let mut pid = None;
                wait_until("somebody is alive", || {
                    let pids: Vec<_> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
                    pid = pids.into_iter().find(|pid| process::is_alive(*pid));
                    pid.is_some()
                });
                let pid = pid.expect("it was waited for");
                process::send(pid, Signal::SIGKILL);
                wait_until("it is gone", || !process::is_alive(pid));
            }
        });
        pool.map_settled(|n| drill::echo_bytes(data[n as usize..n as usize + len(n)].to_vec()), 0..1500)
    });
    let mut lost = 0;
    for (n, result) in (0..).zip(results) {
        match result {
            Ok(echo) => assert!(echo == data[n as usize..n as usize + len(n)], "{n}"),
            Err(TaskError::WorkerDied(_)) => lost += 1,
            Err(other) => panic!("{n}: {other:?}"),
        }
    }
    assert!(lost <= KILLS, "{KILLS} workers were killed, {lost} tasks lost");
    expect_healthy(&pool);
}

#[test]
fn a_frame_over_the_limit_fails_its_task_only_and_says_which_way_it_was_to_go() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let limit = 64 << 10;
        let pool = scene.builder().worker(stock()).frame_limit(limit).build().unwrap();
        let large = vec![1; 100 << 10];
        let small = |n: u64| drill::echo_bytes(made(n));
        let check = |result: Result<Vec<u8>, TaskError>, what: &str| match result {
            Err(TaskError::Encode { task, message, .. }) => {
                assert!(task.starts_with("pool_worker::drill::values::"), "{task}");
                assert!(message.contains(what) && message.contains("frame_limit"), "{message}");
            }
            other => panic!("{mode:?}: {other:?}"),
        };
        let victim = || drill::echo_bytes(large.clone());
        check(Trial { victim, innocent: small }.run(&pool, mode, made), "arguments");
        let victim = || drill::make_bytes(100 << 10);
        check(Trial { victim, innocent: small }.run(&pool, mode, made), "result");
        expect_healthy(&pool);
        assert_eq!(pool.stats().deaths.total(), pool.stats().deaths.cancelled);
    }
}

/// Makes bytes that are not copied.
#[task]
fn shared(len: usize) -> SharedBytes {
    SharedBytes::from(vec![1; len])
}

#[test]
fn what_is_not_copied_counts_for_the_limit_of_a_result() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).frame_limit(1 << 20).build().unwrap();
    match pool.apply(shared((1 << 20) + 1)) {
        Err(TaskError::Encode { message, .. }) => assert!(message.contains("frame_limit"), "{message}"),
        other => panic!("{:?}", other.map(|bytes| bytes.len())),
    }
    assert_eq!(pool.apply(shared(1 << 19)).unwrap().len(), 1 << 19);
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), 0);
}

/// The hello of the stock worker, the report of a panic with its backtrace, and an exit value are all larger than this limit.
#[test]
fn the_least_frame_limit_is_about_arguments_and_results_alone() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(1).frame_limit(4096).build().unwrap();
    let text = "x".repeat(3000);
    for _ in 0..2 {
        match pool.apply(drill::panic(text.clone())) {
            Err(TaskError::Panicked { message, backtrace, .. }) => {
                let backtrace = backtrace.map_or(0, |backtrace| backtrace.len());
                assert!(
                    message == text && message.len() + backtrace > 4096,
                    "{backtrace} bytes of backtrace"
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pool.apply(drill::echo_bytes(vec![1; 4000])).unwrap(), vec![1; 4000]);
    let too_large = pool.apply(drill::make_bytes(4097));
    assert!(matches!(too_large, Err(TaskError::Encode { .. })), "{too_large:?}");
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), 0);
}

#[test]
fn an_input_or_a_closure_that_panics_hurts_nobody_but_its_caller() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let beside: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Sleep(1)))).collect();
    let panics = |n: u64| if n == 700 { panic!("an input that panics, on purpose") } else { n };
    let caught = [
        catch_unwind(AssertUnwindSafe(|| drop(pool.map(|n| play(n, Part::Sleep(1)), (0..2000).map(panics))))),
        catch_unwind(AssertUnwindSafe(|| {
            drop(pool.map_settled(|n| play(panics(n), Part::Sleep(1)), 0..2000))
        })),
    ];
    for caught in caught {
        let payload = caught.expect_err("it unwinds to the caller");
        assert_eq!(payload.downcast_ref(), Some(&"an input that panics, on purpose"));
    }
    for (n, handle) in (0..).zip(beside) {
        assert_eq!(handle.get().unwrap(), right(n));
    }
    wait_until("what was in flight is gone", || pool.stats().pending == 0);
    expect_healthy(&pool);
}
