//! A `/proc` that numbers processes as another PID namespace does.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pool_core::{BuildError, TaskError};
use pool_tests::{
    Mode, Part, Trial, expect_death, expect_healthy, is_signal, play as act, right, wait_until,
};
use pool_worker::drill;

use crate::{builder, say};

/// Has the next child be the first process of a PID namespace, without a `/proc` of its own.
fn leave() -> io::Result<()> {
    // SAFETY: takes flags; this process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } < 0 {
        // Somebody without privileges has them in a user namespace of their own.
        // SAFETY: as above.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

pub(crate) fn play(worker: &Path) {
    if let Err(error) = leave() {
        return say(&format!("skipped: no PID namespace of its own: {error}"));
    }
    let program = std::env::current_exe().expect("Linux tells");
    let status = Command::new(program).arg("foreign-proc-inside").arg(worker).status().expect("a child");
    assert!(status.success(), "{status}");
}

pub(crate) fn inside(worker: &Path) {
    assert_eq!(std::process::id(), 1, "it is the first one");
    for limited in [builder(worker).memory_limit(1 << 30), builder(worker).recycle_above(1 << 30)] {
        match limited.build() {
            Err(error @ BuildError::Setting { .. }) => say(&format!("not built: {error}")),
            other => panic!("{other:?}"),
        }
    }
    for mode in Mode::ALL {
        let pool = builder(worker).build().expect("a pool");
        wait_until("they are ready", || pool.stats().workers_ready == 2);
        // Somebody else's memory, if it were told.
        assert!(pool.workers().iter().all(|worker| worker.rss.is_none()), "{:?}", pool.workers());
        let trial = Trial { victim: || act(0, Part::Segv), innocent: |n| act(n, Part::Innocent) };
        let death = expect_death(trial.run(&pool, mode, right));
        assert!(is_signal(&death.cause, libc::SIGSEGV), "{death}");
        let late = pool.apply(drill::hang().timeout(Duration::from_millis(50)));
        assert!(matches!(late, Err(TaskError::TimedOut { .. })), "{mode:?}: {late:?}");
        expect_healthy(&pool);
        pool.join();
    }
    say("healthy");
}
