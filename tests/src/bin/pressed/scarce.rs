//! No more memory to share, and errors of spawning that are not a matter of limits.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use pool_core::{BrokenReason, Builder, Pool, StartMethod, TaskError};
use pool_tests::{Mode, Part, Trial, expect_healthy, play as act, right, wait_until};
use pool_worker::drill;

use crate::shortage::{NO_MEMFD, NO_MEMORY, NO_SPAWN};
use crate::{builder, say};

/// One worker dies and cannot be replaced, until it can.
fn limp(pool: &Pool, refuse: impl Fn(bool)) {
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    refuse(true);
    assert!(matches!(pool.apply(act(1, Part::Segv)), Err(TaskError::WorkerDied(_))));
    let spawned = pool.stats().spawned;
    // More often than is forgiven where nobody else is of use.
    wait_until("spawns have failed and were tried again", || pool.stats().spawned >= spawned + 10);
    let trial = Trial { victim: || act(9, Part::Innocent), innocent: |n| act(n, Part::Innocent) };
    for mode in Mode::ALL {
        assert_eq!(trial.run(pool, mode, right).expect("one worker is left"), right(9));
    }
    refuse(false);
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    expect_healthy(pool);
}

/// What a pool breaks with that cannot start any worker.
fn broken(builder: &Builder, refuse: impl Fn(bool)) -> String {
    let pool = builder.clone().min_workers(0).build().expect("a pool");
    refuse(true);
    let error = pool.apply(act(1, Part::Innocent));
    refuse(false);
    match error {
        Err(TaskError::PoolBroken(reason)) => match &*reason {
            BrokenReason::TooManyDeaths { deaths, .. } => deaths[0].cause.to_string(),
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    }
}

pub(crate) fn no_shared_memory(worker: &Path) {
    let places: [(&str, &AtomicBool); 2] = [("mmap", &NO_MEMORY), ("memfd_create", &NO_MEMFD)];
    for (name, place) in places {
        let refuse = |refuse| place.store(refuse, Ordering::SeqCst);
        let pool = builder(worker).build().expect("a pool");
        limp(&pool, refuse);
        // Large arguments and results have a slower way to go, or an error of their own.
        let data = vec![7_u8; 3 << 20];
        refuse(true);
        let echo = pool.apply(drill::echo_bytes(data.clone()));
        refuse(false);
        match echo {
            Ok(echo) => say(&format!("{name}: large data arrive: {}", echo == data)),
            Err(TaskError::NoResources { message, .. }) => say(&format!("{name}: told {message}")),
            other => panic!("{name}: {other:?}"),
        }
        assert!(pool.apply(drill::echo_bytes(data.clone())).expect("there is memory again") == data);
        expect_healthy(&pool);
        assert_eq!(pool.stats().deaths.total() - pool.stats().deaths.start_failed, 1, "{:?}", pool.stats());
        say(&format!("{name}: {}", broken(&builder(worker), refuse)));
    }
}

pub(crate) fn no_processes(worker: &Path) {
    // A zygote would not ask this program.
    let builder = builder(worker).start(StartMethod::Spawn);
    for errno in [libc::EAGAIN, libc::ENOMEM] {
        let refuse = |refuse| NO_SPAWN.store(if refuse { i64::from(errno) } else { 0 }, Ordering::SeqCst);
        limp(&builder.clone().build().expect("a pool"), refuse);
        say(&broken(&builder, refuse));
    }
}
