//! Very many workers.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use pool_core::{Pool, RestartPolicy};
use pool_tests::{Mode, Part, Trial, play as act, process, right, running, wait_until};
use pool_worker::drill;

use crate::{builder, say};

const WORKERS: usize = 1000;
/// What a worker takes at most.
const DESCRIPTORS: u64 = 10;

fn expect_right(pool: &Pool, what: &str) {
    let sums = pool.map(|n| drill::add(n, 1), 0..20_000).expect("nobody is harmed");
    assert!((1..=20_000).eq(sums), "wrong sums");
    let trial = Trial { victim: || act(9, Part::Innocent), innocent: |n| act(n, Part::Innocent) };
    for mode in Mode::ALL {
        assert_eq!(trial.run(pool, mode, right).expect("nobody is harmed"), right(9));
    }
    say(what);
}

pub(crate) fn play(worker: &Path) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if hard < DESCRIPTORS * WORKERS as u64 {
        return say(&format!(
            "skipped: {WORKERS} workers need more descriptors than the {hard} that are allowed"
        ));
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("a higher limit");
    let pool = builder(worker).workers(WORKERS).build().expect("a pool");
    expect_right(&pool, "right while they start");
    wait_until("every worker is ready", || pool.stats().workers_ready == WORKERS);
    say("all are ready");
    let handles: Vec<_> = (0..WORKERS).map(|_| pool.apply_async(drill::hang())).collect();
    wait_until("all run a task at once", || running(&pool) == WORKERS);
    handles.iter().for_each(|handle| handle.cancel());
    say("all work at once");
    for worker in pool.workers().iter().step_by(10) {
        worker.pid.into_iter().for_each(|pid| process::send(pid, Signal::SIGKILL));
    }
    expect_right(&pool, "right while a hundred die");
    drop(pool);
    say(&format!("{} children left", process::children().len()));
}

/// There are descriptors for some of the workers only.
pub(crate) fn thin(worker: &Path) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 512, hard).expect("a lower limit");
    let builder = builder(worker).workers(WORKERS).restart(RestartPolicy::default());
    let pool = builder.build().expect("a pool");
    expect_right(&pool, "right");
    wait_until("spawns have failed", || pool.stats().spawned >= WORKERS as u64);
    expect_right(&pool, "right with those that there are");
    let ready = pool.stats().workers_ready;
    say(&format!("some are ready: {}", (10..WORKERS / 2).contains(&ready)));
    drop(pool);
    say(&format!("{} children left", process::children().len()));
}
