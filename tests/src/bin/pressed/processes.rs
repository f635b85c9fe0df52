//! No more processes.

use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pool_core::{BuildError, StartMethod, TaskError};
use pool_tests::{Mode, Part, Trial, expect_healthy, is_signal, play as act, right, wait_until};

use crate::{builder, say};

fn limit(processes: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NPROC).expect("a limit");
    setrlimit(Resource::RLIMIT_NPROC, processes.min(hard), hard).expect("a lower limit");
}

pub(crate) fn play(worker: &Path) {
    // A zygote has limits of its own.
    let builder = builder(worker).start(StartMethod::Spawn);
    let (soft, _) = getrlimit(Resource::RLIMIT_NPROC).expect("a limit");
    let pool = builder.clone().build().expect("a pool");
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    limit(1);
    match builder.clone().build() {
        Err(BuildError::Os { what, source, .. }) => say(&format!("not built: {what}: {source}")),
        other => panic!("there is no thread for it: {other:?}"),
    }
    // Neither a thread for callbacks nor a replacement can be had.
    let (tell, told) = channel();
    pool.apply_async(act(3, Part::Innocent)).on_complete(move |result| {
        tell.send(result.is_ok_and(|answer| answer == right(3))).expect("it is waited for");
    });
    say(&format!("called back {}", told.recv_timeout(Duration::from_secs(30)) == Ok(true)));
    let death = pool.apply(act(1, Part::Segv));
    let is_death =
        matches!(&death, Err(TaskError::WorkerDied(death)) if is_signal(&death.cause, libc::SIGSEGV));
    say(&format!("death: {is_death}"));
    let spawned = pool.stats().spawned;
    // More often than is forgiven where nobody else is of use.
    wait_until("spawns have failed and were tried again", || pool.stats().spawned >= spawned + 10);
    let trial = Trial { victim: || act(9, Part::Innocent), innocent: |n| act(n, Part::Innocent) };
    for mode in Mode::ALL {
        assert_eq!(trial.run(&pool, mode, right).expect("one worker is left"), right(9));
    }
    say("one worker does the work");
    limit(soft);
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    expect_healthy(&pool);
    say("full size again");

    // Where there has never been one, the pool gives up, and says why.
    let pool = builder.min_workers(0).build().expect("a pool");
    limit(1);
    let error = pool.apply(act(1, Part::Innocent)).expect_err("there is no worker");
    say(&format!("{error}"));
    limit(soft);
}
