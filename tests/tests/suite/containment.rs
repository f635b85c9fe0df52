//! Workers inherit nothing they should not have, and nothing of them is left, however their supervisor ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use pool_core::TaskError;
use pool_tests::{Part, Scene, expect_healthy, play, process, wait_until};
use pool_worker::drill;

use crate::programs::{host, stock, stock_path};

/// Starts the host program in one of its plays.
fn start(scene: &Scene, play: &str) -> Child {
    let (key, value) = scene.mark().split_once('=').unwrap();
    let mut command = Command::new(host());
    command.arg(play).arg(stock_path()).env(key, value).stdout(Stdio::piped()).spawn().unwrap()
}

#[test]
fn no_process_is_left_when_the_supervisor_is_killed() {
    for (play, signal, stopped) in [
        ("victim", Signal::SIGKILL, false),
        ("blocked", Signal::SIGKILL, false),
        ("victim", Signal::SIGKILL, true),
        ("victim", Signal::SIGTERM, false),
    ] {
        let scene = Scene::new();
        let mut host = start(&scene, play);
        let mut line = String::new();
        BufReader::new(host.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pids: Vec<u32> = line.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), 5, "four workers and a grandchild: {line}");
        assert!(pids.iter().all(|pid| process::is_alive(*pid)));
        if stopped {
            pids.iter().for_each(|pid| process::send(*pid, Signal::SIGSTOP));
        }
        process::send(host.id(), signal);
        host.wait().unwrap();
        for pid in pids {
            wait_until("it is gone with its supervisor", || !process::is_alive(pid));
        }
    }
}

#[test]
fn no_process_is_left_when_the_pool_is_dropped_or_terminated_at_any_moment() {
    for terminate in [false, true] {
        for workers in [1, 4] {
            let scene = Scene::new();
            // At once, while the workers are being started.
            let pool = scene.builder().workers(workers).worker(stock()).build().unwrap();
            if terminate {
                pool.terminate();
            }
            drop(pool);
            scene.expect_nothing_left();

            let pool = scene.builder().workers(workers).worker(stock()).build().unwrap();
            let child = pool.apply(drill::grandchild(600, "return".to_owned())).unwrap();
            let handles: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Hang))).collect();
            if terminate {
                pool.terminate();
            } else {
                drop(pool);
            }
            wait_until("the grandchild is gone", || !process::is_alive(child));
            for handle in handles {
                assert!(handle.is_finished() && matches!(handle.get(), Err(TaskError::PoolClosed)));
            }
        }
    }
}

#[test]
fn many_pools_one_after_the_other_and_at_once_leave_nothing() {
    let scene = Scene::new();
    for _ in 0..5 {
        let pools: Vec<_> = (0..4).map(|_| scene.builder().worker(stock()).build().unwrap()).collect();
        pools.iter().for_each(expect_healthy);
    }
    scene.expect_nothing_left();
}

#[test]
fn a_worker_inherits_nothing_that_it_should_not_have() {
    let scene = Scene::new();
    let output = start(&scene, "masked").wait_with_output().unwrap();
    assert!(output.status.success());
    let found = String::from_utf8(output.stdout).unwrap();
    let expected = [
        "stdin /dev/null",
        "blocked 0",
        "ignored 0",
        "core 1 1",
        "leads its group true",
        "oom score raised true",
        // stdin, two output streams, the two ends of the protocol's pipes, the socket for descriptors; nothing of the host's.
        "descriptors /dev/null pipe pipe pipe pipe pipe socket",
        "name host",
    ];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_worker_sees_the_environment_and_the_directory_that_were_set() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let pool = scene
        .builder()
        .workers(1)
        .worker(stock())
        .env("POOL_TESTS_SET", "yes")
        .env_remove("PATH")
        .current_dir(dir.path())
        .build()
        .unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let entries: Vec<_> = environment.split(|byte| *byte == 0).collect();
    assert!(entries.contains(&&b"POOL_TESTS_SET=yes"[..]));
    assert!(!entries.iter().any(|entry| entry.starts_with(b"PATH=")));
    let at = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(at, dir.path().canonicalize().unwrap());
}
