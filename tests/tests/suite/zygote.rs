//! Workers that are forked by a zygote are workers like others, and the zygote may die at any time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{DeathCause, Pool, StartMethod, TaskError};
use pool_tests::{
    Part, Scene, expect_death, expect_healthy, is_signal, play, process, right, wait_until, zygote,
};
use pool_worker::drill;

use crate::programs::{host, hostile, no_init, stock, stock_path, threaded};

/// A pool whose workers have all been forked, and its zygote.
fn forked(scene: &Scene, workers: usize) -> (Pool, u32) {
    let pool = scene.builder().workers(workers).start(StartMethod::Zygote).worker(stock()).build().unwrap();
    let zygote = zygote::replace_workers(&pool);
    (pool, zygote)
}

/// The only worker.
fn worker(pool: &Pool) -> u32 {
    zygote::workers(pool)[0]
}

/// What can be seen of a process from outside that should not depend on how it was started.
fn features(pid: u32) -> BTreeMap<&'static str, String> {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap();
    let text = |file: &str| String::from_utf8(read(file)).unwrap();
    let status = |key: &str| {
        let line = text("status").lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        line.split_ascii_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().map(|fd| {
        let fd = fd.unwrap();
        let to = fs::read_link(fd.path()).unwrap().display().to_string();
        let number: u32 = fd.file_name().to_str().unwrap().parse().unwrap();
        (number, to.split(':').next().unwrap().to_owned())
    });
    // The variable that says to a process what it is has another value; it is what the process was started with.
    let environment: Vec<_> = read("environ")
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.starts_with(b"POOL_WORKER_BOOT="))
        .map(|entry| String::from_utf8_lossy(entry).into_owned())
        .collect();
    BTreeMap::from([
        ("descriptors", format!("{:?}", fds.collect::<BTreeMap<_, _>>())),
        ("parent", status("PPid")),
        ("threads", status("Threads")),
        ("blocked", status("SigBlk")),
        ("ignored", status("SigIgn")),
        ("caught", status("SigCgt")),
        ("limits", text("limits")),
        ("oom score", text("oom_score_adj")),
        ("name", text("comm")),
        ("title", text("cmdline").trim_end_matches('\0').to_owned()),
        ("environment", format!("{environment:?}")),
        ("directory", fs::read_link(format!("/proc/{pid}/cwd")).unwrap().display().to_string()),
        ("program", fs::read_link(format!("/proc/{pid}/exe")).unwrap().display().to_string()),
        ("leads its group", (process::group(pid) == Some(pid)).to_string()),
        ("memory files", text("maps").lines().filter(|line| line.contains("/memfd:")).count().to_string()),
    ])
}

#[test]
fn a_forked_worker_looks_like_a_spawned_one() {
    let scene = Scene::new();
    // Without close-on-exec, as C libraries open theirs.
    // SAFETY: a valid name; the descriptor is new, and owned by nobody else.
    let leak = unsafe { OwnedFd::from_raw_fd(libc::open(c"/etc/hostname".as_ptr(), libc::O_RDONLY)) };
    let dir = tempfile::tempdir().unwrap();
    let builder = scene.builder().workers(2).worker(stock()).env("POOL_TESTS_SET", "yes").env_remove("PATH");
    let builder = builder.current_dir(dir.path());
    let looks = |start: StartMethod| {
        let pool = builder.clone().start(start).build().unwrap();
        if start == StartMethod::Zygote {
            zygote::replace_workers(&pool);
        }
        expect_healthy(&pool);
        zygote::workers(&pool).into_iter().map(features).collect::<Vec<_>>()
    };
    let (spawned, forked) = (looks(StartMethod::Spawn), looks(StartMethod::Zygote));
    assert_eq!(spawned, forked);
    assert!(spawned[0]["title"].ends_with(": worker 0") && spawned[1]["title"].ends_with(": worker 1"));
    drop(leak);
}

#[test]
fn deaths_in_tasks_are_reported_exactly_and_nobody_else_is_harmed() {
    let scene = Scene::new();
    let (pool, zygote) = forked(&scene, 2);
    for _ in 0..5 {
        for (part, signal) in [
            (Part::Segv, Some(libc::SIGSEGV)),
            (Part::Raise(libc::SIGKILL), Some(libc::SIGKILL)),
            (Part::Abort, Some(libc::SIGABRT)),
            (Part::Exit(7), None),
            (Part::StackOverflow, Some(libc::SIGABRT)),
        ] {
            let innocents: Vec<_> = (0..20).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
            let death = expect_death(pool.apply(play(1, Part::Say("last words".to_owned(), Box::new(part)))));
            assert!(death.stderr_tail.starts_with("last words"), "{death}");
            match signal {
                Some(signal) => assert!(is_signal(&death.cause, signal), "{death}"),
                None => assert_eq!(death.cause, DeathCause::Exited(7)),
            }
            for (n, innocent) in (0..).zip(innocents) {
                assert_eq!(innocent.get().unwrap(), right(n));
            }
        }
    }
    let error = pool.apply(play(1, Part::Panic("oh".to_owned()))).unwrap_err();
    assert!(matches!(&error, TaskError::Panicked { message, .. } if message == "oh"), "{error:?}");
    assert!(zygote::workers(&pool).into_iter().all(zygote::is_forked));
    assert_eq!(zygote::pids(), [zygote]);
}

#[test]
fn time_limits_cancellation_and_grandchildren_work_in_forked_workers() {
    let scene = Scene::new();
    let (pool, _) = forked(&scene, 2);
    let hanging = play(1, Part::Hang).timeout(Duration::from_millis(50));
    assert!(matches!(pool.apply(hanging), Err(TaskError::TimedOut { .. })));
    let running = pool.apply_async(play(1, Part::Hang));
    wait_until("it runs", || pool.workers().iter().any(|worker| worker.task.is_some()));
    running.cancel();
    assert!(matches!(running.get(), Err(TaskError::Cancelled)));
    let child = pool.apply(drill::grandchild(600, "return".to_owned())).unwrap();
    assert!(process::is_alive(child));
    for pid in zygote::workers(&pool) {
        process::send(pid, Signal::SIGKILL);
    }
    wait_until("the grandchild dies with its worker", || !process::is_alive(child));
    expect_healthy(&pool);
}

#[test]
fn forked_workers_are_processes_of_their_own() {
    let scene = Scene::new();
    let (pool, zygote) = forked(&scene, 1);
    let first = worker(&pool);
    assert_eq!(pool.apply(drill::pid()).unwrap(), first);
    assert_eq!((1..=3).map(|_| pool.apply(drill::count()).unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    // A child that a task forks is noticed, though the worker is itself a forked child.
    pool.apply(drill::fork_and_return()).unwrap();
    assert_eq!(pool.apply(drill::count()).unwrap(), 4);
    let large = vec![5; 1 << 20];
    assert_eq!(pool.apply(drill::echo_bytes(large.clone())).unwrap(), large);
    expect_death(pool.apply(play(1, Part::Segv)));
    assert_eq!(pool.apply(drill::count()).unwrap(), 1, "its state is built anew");
    let second = worker(&pool);
    assert!(zygote::is_forked(second) && second != first);
    // It builds pools of its own.
    assert_eq!(pool.apply(drill::nested(2, 8)).unwrap().len(), 8);
    assert_eq!(process::parent(zygote), Some(std::process::id()));
}

#[test]
fn when_the_zygote_is_killed_workers_are_spawned_until_there_is_another_one() {
    let scene = Scene::new();
    let (pool, mut zygote) = forked(&scene, 1);
    for _ in 0..5 {
        process::send(zygote, Signal::SIGKILL);
        wait_until("it is reaped", || process::state(zygote).is_none());
        expect_healthy(&pool);
        expect_death(pool.apply(play(1, Part::Segv)));
        expect_healthy(&pool);
        assert!(!zygote::is_forked(worker(&pool)));
        zygote = zygote::replace_workers(&pool);
    }
}

#[test]
fn a_zygote_that_is_killed_at_any_moment_costs_no_task() {
    let scene = Scene::new();
    let (pool, _) = forked(&scene, 2);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut deaths = 0;
            for _ in 0..20 {
                // Right behind a death, when a worker is wanted; it sleeps when it is ready.
                wait_until("there is a zygote to be killed", || {
                    let now = pool.stats().deaths.total();
                    let ready = |pid: &u32| process::state(*pid) == Some('S');
                    let Some(pid) = zygote::pids().into_iter().find(ready).filter(|_| now >= deaths + 4)
                    else {
                        return false;
                    };
                    deaths = now;
                    process::send(pid, Signal::SIGKILL);
                    true
                });
            }
        });
        // Also when it has failed.
        while !killer.is_finished() {
            let innocents: Vec<_> = (0..10).map(|n| pool.apply_async(play(n, Part::Innocent))).collect();
            expect_death(pool.apply(play(1, Part::Segv)));
            for (n, innocent) in (0..).zip(innocents) {
                assert_eq!(innocent.get().unwrap(), right(n));
            }
        }
    });
    // Another worker is wanted before there is another zygote.
    expect_death(pool.apply(play(1, Part::Segv)));
    zygote::replace_workers(&pool);
    expect_healthy(&pool);
}

#[test]
fn a_zygote_that_is_stopped_is_given_up_and_the_pool_goes_on() {
    let scene = Scene::new();
    let (pool, zygote) = forked(&scene, 1);
    process::send(zygote, Signal::SIGSTOP);
    wait_until("it is stopped", || process::state(zygote) == Some('T'));
    expect_death(pool.apply(play(1, Part::Segv)));
    expect_healthy(&pool);
    assert!(!zygote::is_forked(worker(&pool)));
    assert!(process::state(zygote).is_none(), "it was killed and reaped");
    zygote::replace_workers(&pool);
}

#[test]
fn a_zygote_with_threads_refuses_and_workers_are_spawned() {
    let scene = Scene::new();
    let pool = scene.builder().start(StartMethod::Zygote).worker(threaded()).build().unwrap();
    for _ in 0..5 {
        expect_death(pool.apply(play(1, Part::Segv)));
        expect_healthy(&pool);
    }
    wait_until("there is no zygote any more", || {
        // What it said is heard when a worker is wanted.
        expect_death(pool.apply(play(1, Part::Segv)));
        zygote::pids().is_empty()
    });
    assert!(!zygote::workers(&pool).into_iter().any(zygote::is_forked));
}

#[test]
fn programs_that_make_no_zygote_do_no_more_harm_than_otherwise() {
    for program in [hostile("twice"), pool_core::WorkerExe::path(no_init())] {
        let scene = Scene::new();
        let pool = scene.builder().start(StartMethod::Zygote).worker(program).build().unwrap();
        drop(pool.apply(pool_tests::victim(3)));
        drop(pool);
        scene.expect_nothing_left();
    }
    // One that waits for ever for what nobody sends.
    let scene = Scene::new();
    let pool = scene.builder().start(StartMethod::Zygote).worker(pool_core::WorkerExe::path("/bin/cat"));
    assert!(matches!(pool.build().unwrap().apply(drill::pid()), Err(TaskError::PoolBroken(_))));
}

#[test]
fn an_executable_that_is_deleted_on_disk_still_forks() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker");
    fs::copy(stock_path(), &path).unwrap();
    let exe = pool_core::WorkerExe::path(&path);
    let pool = scene.builder().start(StartMethod::Zygote).worker(exe).build().unwrap();
    fs::remove_file(&path).unwrap();
    zygote::replace_workers(&pool);
    expect_healthy(&pool);
}

#[test]
fn no_process_is_left_when_the_supervisor_is_killed() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let scene = Scene::new();
        let (key, value) = scene.mark().split_once('=').unwrap();
        let mut command = Command::new(host());
        command.arg("forked").arg(stock_path()).env(key, value).stdout(Stdio::piped());
        let mut host = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pids: Vec<u32> = line.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), 6, "four workers, a grandchild and the zygote: {line}");
        assert!(pids.iter().all(|pid| process::is_alive(*pid)));
        assert!(pids[..4].iter().all(|pid| zygote::is_forked(*pid)));
        process::send(host.id(), signal);
        host.wait().unwrap();
        for pid in pids {
            wait_until("it is gone with its supervisor", || !process::is_alive(pid));
        }
    }
}

#[test]
fn no_process_is_left_when_the_pool_ends_at_any_moment() {
    let scene = Scene::new();
    for terminate in [false, true] {
        for millis in 0..15 {
            let builder = scene.builder().workers(2).start(StartMethod::Zygote).worker(stock());
            let pool = builder.build().unwrap();
            let dying: Vec<_> = (0..4).map(|n| pool.apply_async(play(n, Part::Segv))).collect();
            // Time is the subject here: the end comes while the zygote starts, forks, or waits.
            std::thread::sleep(Duration::from_millis(millis));
            if terminate {
                pool.terminate();
            }
            drop(pool);
            assert_eq!(zygote::pids(), [0; 0], "it is gone when the pool is");
            drop(dying);
        }
    }
    scene.expect_nothing_left();
}
