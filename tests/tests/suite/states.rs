//! What workers keep from task to task: built before the task that needs it, without blaming it, and sent home at the end.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{
    BrokenReason, Builder, ExitContext, Pool, RestartPolicy, StateContext, TaskError, WorkerState,
    WorkerStatus, task,
};
use pool_tests::{Scene, expect_healthy, innocent, is_signal, process, sevens, wait_for_file, wait_until};

/// Says to a worker where its [`Mood`] is.
const DIR: &str = "POOL_TESTS_MOOD";

/// Decides how a [`Moody`] state behaves: files in a directory that the workers are told of.
struct Mood(tempfile::TempDir);

impl Mood {
    fn new(init: &str) -> Self {
        let mood = Self(tempfile::tempdir().unwrap());
        mood.set(init);
        mood
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn set(&self, init: &str) {
        fs::write(self.path().join("init"), init).unwrap();
    }

    fn at_exit(&self, exit: &str) {
        fs::write(self.path().join("exit"), exit).unwrap();
    }

    /// Lets a slow state go on.
    fn release(&self) {
        fs::write(self.path().join("released"), "").unwrap();
    }

    fn builder(&self, scene: &Scene) -> Builder {
        scene.builder().env(DIR, self.path())
    }

    /// The process of each `init` so far.
    fn inits(&self) -> Vec<u32> {
        let log = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        log.lines().map(|line| line.parse().unwrap()).collect()
    }
}

/// How long a state takes to build that takes time.
const TAKES: Duration = Duration::from_millis(800);

/// How long a worker may take to exit, where it takes about that long.
const EXIT: Duration = Duration::from_millis(40);

/// A state that does what its [`Mood`] says, and counts what it is used for.
struct Moody {
    dir: PathBuf,
    uses: u64,
}

impl WorkerState for Moody {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let dir = PathBuf::from(std::env::var_os(DIR).ok_or("no mood")?);
        let mut log = fs::File::options().create(true).append(true).open(dir.join("log"))?;
        // One write, so that lines of several workers do not mix.
        log.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        match fs::read_to_string(dir.join("init"))?.as_str() {
            "fine" => {}
            "fails" => return Err("no such model".into()),
            "panics" => panic!("the model is of last year"),
            // SAFETY: the worker has one thread, so the child may do whatever its parent does.
            "forks" => assert!(unsafe { libc::fork() } >= 0, "no child"),
            "dies" => kill_itself(),
            "dies when released" => {
                wait_for_file(&dir.join("released"));
                kill_itself()
            }
            "dies once" if fs::remove_file(dir.join("not yet")).is_ok() => kill_itself(),
            "hangs once" if fs::remove_file(dir.join("not yet")).is_ok() => hang(),
            "dies once" | "hangs once" => {}
            "hangs" => hang(),
            "takes time" => std::thread::sleep(TAKES),
            "is slow" => wait_for_file(&dir.join("released")),
            other => return Err(format!("no mood: {other}").into()),
        }
        Ok(Self { dir, uses: 0 })
    }

    fn exit(self, cx: &mut ExitContext) {
        match fs::read_to_string(self.dir.join("exit")).as_deref() {
            Ok("panics") => panic!("the model is lost"),
            Ok("hangs") => hang(),
            Ok("takes its time") => {
                std::thread::sleep(EXIT + Duration::from_micros(u64::from(std::process::id() % 16) * 50))
            }
            Ok("leaves too much") => {
                let error = cx.leave(&vec![0_u8; 65 << 10]).unwrap_err();
                cx.leave(&error.to_string()).unwrap();
            }
            _ => cx.leave(&self.uses).unwrap(),
        }
    }
}

fn kill_itself() -> ! {
    process::send(std::process::id(), Signal::SIGKILL);
    hang()
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// How many times this worker has run it, from 1.
#[task]
fn count(#[state] moody: &mut Moody) -> u64 {
    moody.uses += 1;
    moody.uses
}

/// Panics while it has the state.
#[task]
fn panic_with_it(#[state] moody: &mut Moody) {
    panic!("in use for the {}th time", moody.uses)
}

#[test]
fn a_worker_that_builds_a_state_says_so() {
    let scene = Scene::new();
    let mood = Mood::new("is slow");
    let builders = [mood.builder(&scene).workers(1), mood.builder(&scene).workers(1).state::<Moody>()];
    for builder in builders {
        let pool = builder.build().unwrap();
        let status = || pool.workers()[0].status;
        let counted = pool.apply_async(count());
        wait_until("the state is built", || status() == WorkerStatus::Preparing);
        assert!(!counted.is_finished());
        mood.release();
        assert_eq!(counted.get().unwrap(), 1);
        wait_until("it has been built", || status() == WorkerStatus::Idle);
        fs::remove_file(mood.path().join("released")).unwrap();
    }
}

/// What broke the pool, in every one of these outcomes.
#[track_caller]
fn broken<R: std::fmt::Debug>(
    outcomes: Vec<Result<R, TaskError>>,
) -> (String, String, Vec<pool_core::Death>) {
    let mut found = None;
    for outcome in outcomes {
        match outcome {
            Err(TaskError::PoolBroken(reason)) => match &*reason {
                BrokenReason::StateFailed { state, why, deaths, .. } => {
                    found = Some((state.clone(), why.clone(), deaths.clone()));
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
    found.expect("there are outcomes")
}

#[track_caller]
fn expect_broken(pool: &Pool) {
    assert!(matches!(pool.apply(innocent(1)), Err(TaskError::PoolBroken(_))));
}

#[test]
fn a_state_is_built_before_its_first_task_whose_limit_does_not_count_it() {
    let (scene, mood) = (Scene::new(), Mood::new("is slow"));
    let pool = mood.builder(&scene).workers(1).build().unwrap();
    let limit = Duration::from_millis(200);
    let handle = pool.apply_async(count().timeout(limit));
    let behind = pool.apply_async(innocent(3).timeout(limit));
    wait_until("the state is being built", || mood.inits().len() == 1);
    // Time passing is the subject here.
    std::thread::sleep(3 * limit);
    mood.release();
    assert_eq!(handle.get().unwrap(), 1);
    assert_eq!(behind.get().unwrap(), sevens(3));
    assert_eq!(pool.map(|_| count(), 0..100).unwrap(), (2..=101).collect::<Vec<_>>());
    let stats = pool.stats();
    assert_eq!((stats.timed_out, stats.failed, stats.deaths.total()), (0, 0, 0), "{stats:?}");
    assert_eq!(mood.inits().len(), 1);
    expect_healthy(&pool);
}

#[test]
fn the_child_of_an_init_that_forks_is_no_second_worker() {
    let scene = Scene::new();
    let mood = Mood::new("forks");
    for builder in [mood.builder(&scene).workers(1), mood.builder(&scene).workers(1).state::<Moody>()] {
        let pool = builder.build().unwrap();
        assert_eq!(
            (1..=50).map(|_| pool.apply(count()).unwrap()).collect::<Vec<_>>(),
            Vec::from_iter(1..=50)
        );
        expect_healthy(&pool);
        assert_eq!(pool.stats().deaths.total(), 0);
    }
}

#[test]
fn a_build_may_take_longer_than_a_claim() {
    let (scene, mood) = (Scene::new(), Mood::new("is slow"));
    let claim = Duration::from_secs(1);
    let pool = mood.builder(&scene).workers(1).start_timeout(claim).build().unwrap();
    let handle = pool.apply_async(count());
    wait_until("the state is being built", || mood.inits().len() == 1);
    // Time passing is the subject here.
    std::thread::sleep(2 * claim);
    mood.release();
    assert_eq!(handle.get().unwrap(), 1);
    assert_eq!(pool.stats().deaths.total(), 0);
}

#[test]
fn a_task_that_is_cancelled_while_its_state_is_built_ends_at_once_and_the_state_stays() {
    let (scene, mood) = (Scene::new(), Mood::new("is slow"));
    let pool = mood.builder(&scene).workers(1).build().unwrap();
    let handle = pool.apply_async(count());
    wait_until("the state is being built", || mood.inits().len() == 1);
    handle.cancel();
    assert!(matches!(handle.get(), Err(TaskError::Cancelled)));
    let next = pool.apply_async(count());
    mood.release();
    assert_eq!(next.get().unwrap(), 1);
    assert_eq!((mood.inits().len(), pool.stats().deaths.total()), (1, 0));
}

#[test]
fn an_init_that_fails_or_panics_breaks_the_pool_at_once_with_its_cause() {
    for (init, cause) in [("fails", "no such model"), ("panics", "the model is of last year")] {
        for replaced in [false, true] {
            let (scene, mood) = (Scene::new(), Mood::new(if replaced { "fine" } else { init }));
            let pool = mood.builder(&scene).build().unwrap();
            if replaced {
                pool.map(|_| count(), 0..100).unwrap();
                wait_until("every worker is ready", || pool.stats().workers_ready == 2);
                mood.set(init);
                pool.workers().iter().for_each(|worker| process::send(worker.pid.unwrap(), Signal::SIGKILL));
                wait_until("the deaths are counted", || pool.stats().deaths.signalled == 2);
            }
            let before = mood.inits().len();
            let handles: Vec<_> = (0..20).map(|_| pool.apply_async(count())).collect();
            let (state, why, deaths) = broken(handles.into_iter().map(|handle| handle.get()).collect());
            assert!(state.ends_with("states::Moody") && why.contains(cause), "{state}: {why}");
            assert!(deaths.is_empty(), "{deaths:?}");
            assert!(init == "fails" || why.contains("states.rs:"), "a panic has a place: {why}");
            let tried = mood.inits().len() - before;
            assert!((1..=2).contains(&tried), "it was tried {tried} times");
            expect_broken(&pool);
            let error = pool.map(|_| count(), 0..10).unwrap_err().to_string();
            assert!(error.contains("states::Moody` could not be built") && error.contains(cause), "{error}");
        }
    }
}

#[test]
fn an_init_that_dies_blames_no_task() {
    let (scene, mood) = (Scene::new(), Mood::new("dies once"));
    fs::write(mood.path().join("not yet"), "").unwrap();
    let pool = mood.builder(&scene).build().unwrap();
    let results = pool.map_settled(|_| count(), 0..100);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    wait_until("the death is counted", || pool.stats().deaths.signalled == 1);
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.retried, stats.deaths.total()), (0, 0, 1), "{stats:?}");
    expect_healthy(&pool);
}

#[test]
fn an_init_that_always_dies_breaks_the_pool_beside_tasks_that_succeed() {
    let (scene, mood) = (Scene::new(), Mood::new("dies when released"));
    let restart = RestartPolicy {
        max_restarts: 3,
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(5),
        ..RestartPolicy::default()
    };
    let pool = mood.builder(&scene).restart(restart).build().unwrap();
    expect_healthy(&pool);
    let handle = pool.apply_async(count());
    wait_until("the state is being built", || mood.inits().len() == 1);
    assert_eq!(pool.map(innocent, 0..20).unwrap().len(), 20, "other tasks go on meanwhile");
    mood.release();
    while !handle.is_finished() {
        // Whatever becomes of these: the pool breaks at some point.
        drop(pool.map_settled(innocent, 0..20));
    }
    let (_, why, deaths) = broken(vec![handle.get()]);
    assert!(why.contains("4 workers in a row"), "{why}");
    assert_eq!(deaths.len(), 4);
    for death in deaths {
        assert!(is_signal(&death.cause, libc::SIGKILL) && death.task.is_none(), "{death}");
    }
    assert_eq!(mood.inits().len(), 4);
}

#[test]
fn an_init_that_hangs_is_ended_at_its_timeout() {
    let limit = Duration::from_millis(300);
    // Never built: there is nothing to wait for.
    let (scene, mood) = (Scene::new(), Mood::new("hangs"));
    let pool = mood.builder(&scene).init_timeout(limit).build().unwrap();
    let start = Instant::now();
    let (_, why, deaths) = broken(vec![pool.apply(count())]);
    assert!(why.contains("300ms (init_timeout)") && deaths.is_empty(), "{why}");
    assert!(start.elapsed() >= limit && start.elapsed() < Duration::from_secs(20));
    drop(pool);
    drop(scene);

    // Built before: another worker may do better.
    let (scene, mood) = (Scene::new(), Mood::new("hangs once"));
    let pool = mood.builder(&scene).workers(1).init_timeout(limit).build().unwrap();
    assert_eq!(pool.apply(count()).unwrap(), 1);
    fs::write(mood.path().join("not yet"), "").unwrap();
    let before = pool.workers()[0].pid.unwrap();
    process::send(before, Signal::SIGKILL);
    wait_until("the death is counted", || pool.stats().deaths.signalled == 1);
    assert_eq!(pool.apply(count()).unwrap(), 1);
    let stats = pool.stats();
    assert_eq!((stats.failed, stats.retried, stats.deaths.start_failed), (0, 0, 1), "{stats:?}");
    assert_eq!(mood.inits().len(), 3);
}

#[test]
fn after_ten_good_builds_a_state_may_still_fail_die_or_hang() {
    let restart = RestartPolicy {
        max_restarts: 2,
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(5),
        ..RestartPolicy::default()
    };
    for (init, cause, lost) in [
        ("fails", "no such model", 0),
        ("panics", "the model is of last year", 0),
        ("dies", "3 workers in a row", 3),
        ("hangs", "3 workers in a row", 3),
    ] {
        let (scene, mood) = (Scene::new(), Mood::new("fine"));
        // Every task has a process of its own, and none of them dies.
        let builder = mood.builder(&scene).workers(1).max_tasks_per_worker(1).restart(restart);
        // A build may have less time than a start or a claim.
        let builder = builder.start_timeout(Duration::from_secs(600)).init_timeout(Duration::from_secs(1));
        let pool = builder.build().unwrap();
        assert_eq!(pool.map(|_| count(), 0..10).unwrap(), [1; 10]);
        mood.set(init);
        let (state, why, deaths) = broken((0..5).map(|_| pool.apply(count())).collect());
        assert!(state.ends_with("states::Moody") && why.contains(cause), "{init}: {why}");
        assert_eq!((deaths.len(), mood.inits().len()), (lost, 10 + lost.max(1)), "{init}: {deaths:?}");
        assert!(deaths.iter().all(|death| death.task.is_none()), "{init}: {deaths:?}");
        assert_eq!(pool.stats().succeeded, 10);
    }
}

#[test]
fn after_a_panic_of_a_task_the_state_is_built_anew() {
    let (scene, mood) = (Scene::new(), Mood::new("fine"));
    let pool = mood.builder(&scene).workers(1).build().unwrap();
    assert_eq!(pool.map(|_| count(), 0..3).unwrap(), [1, 2, 3]);
    let error = pool.apply(panic_with_it()).unwrap_err();
    assert!(matches!(error, TaskError::Panicked { .. }), "{error}");
    assert_eq!(pool.map(|_| count(), 0..3).unwrap(), [1, 2, 3]);
    // And it may fail then.
    mood.set("fails");
    assert!(pool.apply(panic_with_it()).is_err());
    broken(vec![pool.apply(count())]);
    assert_eq!(mood.inits().len(), 3);
}

#[test]
fn states_that_are_asked_for_are_there_before_a_worker_is_ready() {
    let (scene, mood) = (Scene::new(), Mood::new("is slow"));
    let pool = mood.builder(&scene).state::<Moody>().build().unwrap();
    wait_until("every worker builds its state", || mood.inits().len() == 2);
    assert_eq!(pool.stats().workers_ready, 0);
    mood.release();
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    expect_healthy(&pool);
    pool.map(|_| count(), 0..100).unwrap();
    let pids: BTreeSet<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    assert_eq!(mood.inits().into_iter().collect::<BTreeSet<_>>(), pids);

    // A replacement has it, too.
    pids.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
    wait_until("the replacements have built theirs", || mood.inits().len() == 4);
    expect_healthy(&pool);
}

#[test]
fn a_state_that_is_asked_for_and_cannot_be_built_breaks_the_pool() {
    for (init, cause) in [("fails", "no such model"), ("panics", "last year"), ("hangs", "init_timeout")] {
        let (scene, mood) = (Scene::new(), Mood::new(init));
        // A panic and its backtrace take their time.
        let limit = if init == "hangs" { Duration::from_millis(300) } else { Duration::from_secs(60) };
        let pool = mood.builder(&scene).state::<Moody>().init_timeout(limit).build().unwrap();
        let (state, why, _) = broken(vec![pool.apply(innocent(1))]);
        assert!(state.ends_with("states::Moody") && why.contains(cause), "{init}: {why}");
        assert!(mood.inits().len() <= 2);
    }
    let (scene, mood) = (Scene::new(), Mood::new("dies"));
    let restart = RestartPolicy {
        max_restarts: 2,
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(5),
        ..RestartPolicy::default()
    };
    let pool = mood.builder(&scene).workers(1).state::<Moody>().restart(restart).build().unwrap();
    let (_, _, deaths) = broken(vec![pool.apply(innocent(1))]);
    assert_eq!(deaths.len(), 3);
    assert!(deaths.iter().all(|death| is_signal(&death.cause, libc::SIGKILL)), "{deaths:?}");
}

/// A state that no task needs.
struct Unused;

impl WorkerState for Unused {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self)
    }
}

#[test]
fn a_state_that_the_workers_do_not_know_breaks_the_pool() {
    let scene = Scene::new();
    let pool = scene.builder().state::<Unused>().build().unwrap();
    let (state, why, _) = broken(vec![pool.apply(innocent(1))]);
    assert!(state.ends_with("states::Unused") && why.contains("#[state]"), "{state}: {why}");
}

#[test]
fn exit_values_are_collected_from_all_workers_that_retire() {
    let (scene, mood) = (Scene::new(), Mood::new("fine"));
    let pool = mood.builder(&scene).workers(3).build().unwrap();
    assert!(pool.exit_values::<Moody, u64>().is_empty());
    pool.map(|_| count(), 0..1000).unwrap();
    pool.join();
    let values = pool.exit_values::<Moody, u64>();
    assert_eq!(values.iter().map(|exit| exit.value.as_ref().unwrap()).sum::<u64>(), 1000, "{values:?}");
    let pids: BTreeSet<u32> = values.iter().map(|exit| exit.pid).collect();
    assert_eq!(pids, mood.inits().into_iter().collect());
    let workers: BTreeSet<u32> = values.iter().map(|exit| exit.worker.get()).collect();
    assert_eq!((workers.len(), values.len()), (pids.len(), pids.len()));
    assert!(workers.into_iter().all(|worker| worker < 3));

    // As another type, and of another state.
    let wrong = pool.exit_values::<Moody, (u64, String, u64)>();
    assert!(!wrong.is_empty() && wrong.iter().all(|exit| exit.value.is_err()), "{wrong:?}");
    assert!(pool.exit_values::<Unused, u64>().is_empty());
    // They can be asked for again.
    assert_eq!(pool.exit_values::<Moody, u64>(), values);
}

#[test]
fn a_worker_that_builds_a_state_while_the_pool_closes_finishes_it_and_exits_in_order() {
    let (scene, mood) = (Scene::new(), Mood::new("takes time"));
    let pool = mood.builder(&scene).workers(1).exit_timeout(TAKES / 8).build().unwrap();
    let handle = pool.apply_async(count());
    wait_until("the state is being built", || mood.inits().len() == 1);
    handle.cancel();
    pool.join();
    let stats = pool.stats();
    assert_eq!((stats.deaths.total(), stats.retired.closed), (0, 1), "{stats:?}");
    let values = pool.exit_values::<Moody, u64>();
    assert_eq!(values.iter().map(|exit| exit.value.clone().unwrap()).collect::<Vec<_>>(), [0]);
}

#[test]
fn workers_that_are_killed_leave_nothing() {
    let (scene, mood) = (Scene::new(), Mood::new("fine"));
    let pool = mood.builder(&scene).workers(1).build().unwrap();
    assert_eq!(pool.apply(count()).unwrap(), 1);
    process::send(pool.workers()[0].pid.unwrap(), Signal::SIGKILL);
    wait_until("the death is counted", || pool.stats().deaths.signalled == 1);
    assert_eq!(pool.map(|_| count(), 0..5).unwrap(), [1, 2, 3, 4, 5]);
    pool.join();
    let values = pool.exit_values::<Moody, u64>();
    assert_eq!(values.iter().map(|exit| exit.value.clone().unwrap()).collect::<Vec<_>>(), [5]);
}

#[test]
fn an_exit_that_panics_or_hangs_or_leaves_too_much_does_no_harm() {
    for exit in ["panics", "hangs", "leaves too much"] {
        let (scene, mood) = (Scene::new(), Mood::new("fine"));
        mood.at_exit(exit);
        // A panic and its backtrace take their time.
        let limit = if exit == "hangs" { Duration::from_millis(300) } else { Duration::from_secs(60) };
        let pool = mood.builder(&scene).workers(1).exit_timeout(limit).build().unwrap();
        assert_eq!(pool.apply(count()).unwrap(), 1);
        pool.join();
        let values = pool.exit_values::<Moody, String>();
        let deaths = pool.stats().deaths;
        match exit {
            "hangs" => {
                assert!(values.is_empty(), "{values:?}");
                wait_until("the kill is counted", || pool.stats().deaths.terminated == 1);
                continue;
            }
            "panics" => {
                assert!(values[0].value.as_ref().unwrap_err().contains("the model is lost"), "{values:?}")
            }
            _ => assert!(values[0].value.as_ref().unwrap().contains("over the limit"), "{values:?}"),
        }
        assert_eq!((values.len(), deaths.total()), (1, 0), "{deaths:?}");
    }
}

/// The supervisor may find that a worker has exited in the moment in which it kills it.
#[test]
fn a_worker_that_exits_as_its_time_is_up_is_no_death_or_was_killed() {
    let scene = Scene::new();
    for _ in 0..12 {
        let mood = Mood::new("fine");
        mood.at_exit("takes its time");
        let pool = mood.builder(&scene).state::<Moody>().workers(8).exit_timeout(EXIT).build().unwrap();
        wait_until("all are ready", || pool.stats().workers_ready == 8);
        pool.join();
        let deaths = pool.stats().deaths;
        assert_eq!(deaths.terminated, deaths.total(), "{deaths:?}");
    }
}

#[test]
fn a_worker_that_dies_while_it_exits_leaves_what_it_had_left() {
    let (scene, mood) = (Scene::new(), Mood::new("fine"));
    let pool = mood.builder(&scene).workers(1).build().unwrap();
    assert_eq!(pool.apply(die_at_exit(7)).unwrap(), ());
    assert_eq!(pool.apply(count()).unwrap(), 1);
    pool.join();
    // The youngest state exits first.
    assert_eq!(pool.exit_values::<Moody, u64>()[0].value, Ok(1));
    assert!(pool.exit_values::<Mortal, u32>().is_empty());
    let deaths = pool.stats().deaths;
    assert_eq!((deaths.exited, deaths.total()), (1, 1), "{deaths:?}");
}

/// A state that ends its worker when it is to exit.
struct Mortal(i32);

impl WorkerState for Mortal {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self(0))
    }

    fn exit(self, cx: &mut ExitContext) {
        cx.leave(&self.0).unwrap();
        std::process::exit(self.0)
    }
}

/// Has the worker exit with this status when it retires.
#[task]
fn die_at_exit(status: i32, #[state] mortal: &mut Mortal) {
    mortal.0 = status;
}
