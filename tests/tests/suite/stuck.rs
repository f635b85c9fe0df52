//! Workers that cannot be killed: they are in a frozen control group, as if they slept in the kernel.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pool_tests::{Mode, Part, Scene, Trial, expect_healthy, play, process, right, skipped, wait_until};
use pool_worker::drill;

use crate::programs::stock;

/// A control group of the first version that can be frozen; thawed and removed when dropped.
pub(crate) struct Freezer(PathBuf);

impl Freezer {
    pub(crate) fn new(name: &str) -> io::Result<Self> {
        let group = PathBuf::from(format!("/sys/fs/cgroup/freezer/pool-tests-{}-{name}", std::process::id()));
        fs::create_dir(&group)?;
        Ok(Self(group))
    }

    fn freeze(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
        self.close();
    }

    /// Freezes one thread alone.
    pub(crate) fn freeze_thread(&self, thread: u32) {
        fs::write(self.0.join("tasks"), thread.to_string()).unwrap();
        self.close();
    }

    fn close(&self) {
        fs::write(self.0.join("freezer.state"), "FROZEN").unwrap();
        wait_until("it is frozen", || {
            fs::read_to_string(self.0.join("freezer.state")).unwrap() == "FROZEN\n"
        });
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        fs::write(self.0.join("freezer.state"), "THAWED")
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Where this fails, a test has failed before.
        let _ = self.thaw();
        wait_until("nobody is left in the group", || {
            fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().is_empty()
        });
        let _ = fs::remove_dir(&self.0);
    }
}

/// How long the tasks wait at most: after 1 s it is killed, and counts as dead 2 s later. The rest is for a machine that has other
/// things to do.
const MOST: Duration = Duration::from_secs(15);

/// A frozen worker that nobody has given anything to is given all tasks, and killed because it takes up none.
fn innocents_do_not_wait(mode: Mode) {
    const VICTIM: u64 = Trial::<(), ()>::VICTIM;
    let freezer = Freezer::new(&format!("{mode:?}")).unwrap();
    let scene = Scene::new();
    let patience = Duration::from_secs(1);
    let pool = scene.builder().workers(1).worker(stock()).start_timeout(patience).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    freezer.freeze(pid);
    let trial = Trial { victim: || play(VICTIM, Part::Innocent), innocent: |n| play(n, Part::Innocent) };
    let began = Instant::now();
    assert_eq!(trial.run(&pool, mode, right).unwrap(), right(VICTIM), "{mode:?}");
    assert!(began.elapsed() < MOST, "{mode:?}: {:?}", began.elapsed());
    assert_eq!(process::state(pid), Some('D'), "{mode:?}: nobody has waited for its death");
    let stats = pool.stats();
    assert_eq!(
        (stats.deaths.unresponsive, stats.deaths.total(), stats.retried),
        (1, 1, 0),
        "{mode:?}: {stats:?}"
    );
    expect_healthy(&pool);
    freezer.thaw().unwrap();
    wait_until("it is reaped", || process::state(pid).is_none());
    drop(pool);
    scene.expect_nothing_left();
}

#[test]
fn the_end_of_a_pool_waits_for_a_worker_that_cannot_die_and_not_for_ever() {
    let freezer = match Freezer::new("end") {
        Ok(freezer) => freezer,
        Err(error) => {
            return skipped(&format!("no control group of the first version that can be frozen: {error}"));
        }
    };
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    freezer.freeze(pid);
    let began = Instant::now();
    drop(pool);
    // 10 s, on a machine that has other things to do.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(process::state(pid), Some('D'), "it could not die");
    freezer.thaw().unwrap();
    wait_until("it is reaped", || process::state(pid).is_none());
    scene.expect_nothing_left();
}

#[test]
fn tasks_do_not_wait_for_a_worker_that_cannot_die() {
    if let Err(error) = Freezer::new("any") {
        return skipped(&format!("no control group of the first version that can be frozen: {error}"));
    }
    Mode::ALL.into_iter().for_each(innocents_do_not_wait);
}
