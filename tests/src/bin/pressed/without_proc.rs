//! No `/proc`.

use std::io;
use std::path::Path;
use std::time::Duration;

use pool_core::{BuildError, StartMethod, TaskError, WorkerExe};
use pool_tests::{Mode, Part, Trial, expect_death, expect_healthy, is_signal, play as act, right};

use crate::{builder, say};

/// Covers `/proc`, for this process and its children alone.
fn cover() -> io::Result<()> {
    let done = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: takes flags; this process has one thread.
    let own = done(unsafe { libc::unshare(libc::CLONE_NEWNS) });
    if own.is_err() {
        // Somebody without privileges has them in a user namespace of their own.
        // SAFETY: as above.
        done(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) })?;
    }
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let (none, root) = (std::ptr::null(), c"/".as_ptr());
    // SAFETY: strings that live for the call, and null where none is needed.
    done(unsafe { libc::mount(none, root, none, private, std::ptr::null()) })?;
    let (tmpfs, proc) = (c"tmpfs".as_ptr(), c"/proc".as_ptr());
    // SAFETY: as above.
    done(unsafe { libc::mount(tmpfs, proc, tmpfs, 0, std::ptr::null()) })
}

pub(crate) fn play(worker: &Path) {
    if let Err(error) = cover() {
        return say(&format!("skipped: no mount namespace of its own: {error}"));
    }
    assert!(!Path::new("/proc/self").exists(), "it is covered");
    match builder(worker).worker(WorkerExe::current()).build() {
        Err(error @ BuildError::Executable { .. }) => say(&format!("not built: {error}")),
        other => panic!("{other:?}"),
    }
    for limited in [builder(worker).memory_limit(1 << 30), builder(worker).recycle_above(1 << 30)] {
        match limited.build() {
            Err(error @ BuildError::Setting { .. }) => say(&format!("not built: {error}")),
            other => panic!("{other:?}"),
        }
    }
    for start in [StartMethod::Spawn, StartMethod::Zygote] {
        for mode in Mode::ALL {
            let pool = builder(worker).start(start).build().expect("a pool");
            let trial = Trial { victim: || act(0, Part::Segv), innocent: |n| act(n, Part::Innocent) };
            let death = expect_death(trial.run(&pool, mode, right));
            assert!(is_signal(&death.cause, libc::SIGSEGV), "{death}");
            let late = || act(1, Part::Hang).timeout(Duration::from_millis(50));
            let trial = Trial { victim: late, innocent: |n| act(n, Part::Innocent) };
            let error = trial.run(&pool, mode, right).expect_err("it hangs");
            assert!(matches!(error, TaskError::TimedOut { .. }), "{mode:?}: {error:?}");
            expect_healthy(&pool);
            pool.join();
        }
        say(&format!("{start:?} healthy"));
    }
}
