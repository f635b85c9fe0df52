//! Workers that are dead and cannot be reaped, and children of dead workers that are given to the program.
//!
//! What concerns a whole process is tried in one of its own; see `src/bin/pressed/children.rs`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use pool_core::DeathCause;
use pool_tests::{
    Mode, Part, Scene, Trial, cause_of, expect_healthy, play, process, right, skipped, wait_until,
};
use pool_worker::drill;

use crate::programs::{pressed, stock, stock_path};

/// What the program finds in one of its plays; `None` if it says that it cannot play.
#[track_caller]
fn findings(play: &str) -> Option<Vec<String>> {
    let scene = Scene::new();
    let (key, value) = scene.mark().split_once('=').unwrap();
    let output = Command::new(pressed()).arg(play).arg(stock_path()).env(key, value).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{play}: {}\n{stderr}", output.status);
    let found: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    match found.iter().find_map(|line| line.strip_prefix("skipped: ")) {
        Some(why) => {
            skipped(why);
            None
        }
        None => Some(found),
    }
}

/// A debugger that does not look at what it debugs keeps the dead from being reaped.
#[test]
fn a_worker_that_a_debugger_holds_is_dead_for_the_pool() {
    let trial = Trial {
        victim: || play(Trial::<(), ()>::VICTIM, Part::QuickExit(7)),
        innocent: |n| play(n, Part::Innocent),
    };
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        wait_until("every worker is ready", || pool.stats().workers_ready == 2);
        let pids: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
        let list = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let mut debugger = Command::new(pressed());
        debugger.args(["debugs", &list]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut debugger = debugger.spawn().unwrap();
        let (leash, mut said) = (debugger.stdin.take(), String::new());
        BufReader::new(debugger.stdout.take().unwrap()).read_line(&mut said).unwrap();
        if let Some(why) = said.strip_prefix("skipped: ") {
            drop(leash);
            debugger.wait().unwrap();
            return skipped(why);
        }
        let error = trial.run(&pool, mode, right).unwrap_err();
        assert!(matches!(cause_of(&error), DeathCause::Exited(7)), "{mode:?}: {error}");
        expect_healthy(&pool);
        let dead: Vec<u32> = pids.iter().copied().filter(|pid| process::state(*pid) == Some('Z')).collect();
        assert_eq!(dead.len(), 1, "{mode:?}: it is held");
        // One that the pool itself kills.
        let other = pids.into_iter().find(|pid| *pid != dead[0]).unwrap();
        let hangs: Vec<_> = (0..2).map(|_| pool.apply_async(drill::hang())).collect();
        wait_until("both run", || pool.workers().iter().all(|worker| worker.task.is_some()));
        hangs.into_iter().for_each(|task| task.cancel());
        wait_until("it is dead", || process::state(other) == Some('Z'));
        expect_healthy(&pool);
        // A worker that has been killed is counted when it is dead, and replaced before that.
        wait_until("both are counted", || pool.stats().deaths.cancelled == 2);
        drop(leash);
        debugger.wait().unwrap();
        wait_until("they are reaped", || [dead[0], other].iter().all(|pid| process::state(*pid).is_none()));
        drop(pool);
        scene.expect_nothing_left();
    }
}

#[test]
fn a_pool_ends_although_a_debugger_holds_its_dead() {
    let Some(found) = findings("debugged") else { return };
    let [killed, joined, again, dropped] = &found[..] else { panic!("{found:#?}") };
    for line in [killed, again] {
        assert!(line.contains("(pid PID) was killed by SIGKILL while it ran"), "{line}");
    }
    assert_eq!((&joined[..], &dropped[..]), ("join: state Some('Z')", "drop: state Some('Z')"));
}

#[test]
fn orphans_of_tasks_are_reaped_in_a_program_that_they_are_given_to() {
    assert_eq!(findings("adopts").unwrap(), ["reaped", "0 children left"]);
}

#[test]
fn where_pidfds_cannot_be_signalled_workers_are_killed_all_the_same() {
    let Some(found) = findings("no-pidfd-signals") else { return };
    let [timed_out, left] = &found[..] else { panic!("{found:#?}") };
    assert!(timed_out.contains("timed out"), "{timed_out}");
    assert_eq!(left, "0 children left");
}

#[test]
fn where_there_are_no_pidfds_the_pool_breaks_and_says_so() {
    let Some(found) = findings("no-pidfds") else { return };
    let [broken, left] = &found[..] else { panic!("{found:#?}") };
    assert!(broken.contains("the pool is broken") && broken.contains("pidfd_open(2) is refused"), "{broken}");
    assert_eq!(left, "0 children left");
}
