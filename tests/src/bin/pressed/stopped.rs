//! The program is stopped while several limits run, and goes on after all of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use pool_core::{StartMethod, StateContext, WorkerExe, WorkerState, task};
use pool_tests::{held, wait_for_file, wait_until};
use pool_worker::drill;

use crate::{builder, say};

/// Says to a worker of this program where to look for the end of its start, or of the making of its state.
const DIR: &str = "POOL_TESTS_STOPPED";
/// What everything has to keep to. The test stops this program for longer.
const LIMIT: Duration = Duration::from_secs(3);

/// Makes the file `begun`, and waits until the test makes the file `end`.
fn wait_in(dir: &Path, begun: &str) {
    std::fs::write(dir.join(begun), []).expect("the test has made the directory");
    wait_for_file(&dir.join("end"));
}

/// Holds up the start of a worker, if it is to be held up.
pub(crate) fn hold_start() {
    if let Some(dir) = std::env::var_os(DIR) {
        wait_in(Path::new(&dir), "start");
    }
}

/// Where a [`Slow`] state waits.
const STATE_DIR: &str = "POOL_TESTS_STOPPED_STATE";

/// Takes as long to build as the test wants.
struct Slow;

impl WorkerState for Slow {
    fn init(_: &StateContext) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let dir = PathBuf::from(std::env::var_os(STATE_DIR).ok_or("no directory")?);
        wait_in(&dir, "state");
        Ok(Self)
    }
}

#[task]
fn with_slow_state(#[state] state: &mut Slow) {
    let Slow = state;
}

/// A worker starts, a state is built, a task runs, and a batch: each in a pool of its own.
pub(crate) fn play(worker: &Path, dir: &Path) {
    let own = || builder(worker).worker(WorkerExe::current()).start(StartMethod::Spawn).workers(1);
    let build = |builder: pool_core::Builder| builder.build().expect("a pool");
    let starts = build(own().env(DIR, dir).start_timeout(LIMIT));
    let prepares = build(own().env(STATE_DIR, dir).init_timeout(LIMIT));
    let [runs, maps] = [(); 2].map(|()| build(builder(worker).workers(1)));
    let file = |name: &str| dir.join(name);
    // Only the making of a state, a task and a batch are to be held up by what comes now.
    [&runs, &maps].iter().for_each(|pool| assert_eq!(pool.apply(drill::add(1, 1)).expect("it works"), 2));
    let started = starts.apply_async(drill::add(1, 1));
    let prepared = prepares.apply_async(with_slow_state());
    let run = runs.apply_async(held(file("task"), file("end")).timeout(LIMIT));
    // An iterator that is not asked, so that no thread waits for results and reads them.
    let mut mapped = maps.batch().deadline(LIMIT).imap(|()| held(file("batch"), file("end")), [()]);
    assert!(mapped.next_timeout(Duration::ZERO).is_err(), "it has begun just now");
    let all = ["start", "state", "task", "batch"];
    wait_until("all has begun", || all.iter().all(|name| file(name).exists()));
    say("stops");
    raise(Signal::SIGSTOP).expect("a signal that there is");
    // Who goes on is the pools' own threads alone.
    let pools = [&starts, &prepares, &runs, &maps];
    wait_until("all has ended", || pools.iter().all(|pool| pool.stats().pending == 0));
    say(&format!("start {:?}", started.get().err()));
    say(&format!("state {:?}", prepared.get().err()));
    say(&format!("task {:?}", run.get().err()));
    say(&format!("batch {:?}", mapped.next().expect("one item").err()));
    let deaths = pools.map(|pool| pool.stats().deaths.total());
    say(&format!("{deaths:?} deaths"));
}
