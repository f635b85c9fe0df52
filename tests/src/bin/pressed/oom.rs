//! The kernel's OOM killer.

use std::fs;
use std::path::Path;

use pool_core::{DeathCause, WorkerExe, WorkerLimits};
use pool_tests::{Scene, Trial, expect_death, in_every_mode};
use pool_worker::drill;

use crate::say;

/// More than there is anywhere.
const ALL: u64 = 1 << 50;

pub(crate) fn play(worker: &Path, cgroup: &Path) {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string()).expect("this process may move");
    let trial = Trial { victim: || drill::out_of_memory(ALL), innocent: drill::echo_u64 };
    in_every_mode(
        |scene: &Scene| scene.builder().worker(WorkerExe::path(worker)),
        &trial,
        |n| n,
        |mode, pool, outcome| {
            let death = expect_death(outcome);
            let DeathCause::OutOfMemory { evidence, .. } = &death.cause else { panic!("{mode:?}: {death}") };
            assert!(evidence.starts_with("oom_kill in /sys/fs/cgroup/"), "{evidence}");
            assert!(death.task.as_ref().is_some_and(|task| task.ends_with("::out_of_memory")), "{death}");
            assert!(death.peak_rss.is_some_and(|peak| peak > 50 << 20), "{death}");
            let deaths = pool.stats().deaths;
            assert_eq!((deaths.out_of_memory, deaths.signalled), (1, 0), "{mode:?}: {deaths:?}");
            say(&format!("{mode:?} out of memory"));
        },
    );
    // A limit of the worker's own that is far away.
    {
        let scene = Scene::new();
        let limits = WorkerLimits::new().total_memory(ALL);
        let pool = scene.builder().worker(WorkerExe::path(worker)).limits(limits).build().expect("a pool");
        let death = expect_death(pool.apply(drill::out_of_memory(ALL)));
        assert!(matches!(death.cause, DeathCause::OutOfMemory { .. }), "{death}");
        say("within a limit of its own out of memory");
    }
    // A SIGKILL that nobody explains is still one, next to those that are explained.
    let scene = Scene::new();
    let pool = scene.builder().worker(WorkerExe::path(worker)).build().expect("a pool");
    let death = expect_death(pool.apply(drill::raise(libc::SIGKILL)));
    say(&format!("killed by hand: {}", death.cause));
}
