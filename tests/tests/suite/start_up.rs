//! Worker executables that are missing, wrong, or replaced, and workers that cannot start.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{
    BrokenReason, BuildError, Death, DeathCause, Pool, RestartPolicy, StartMethod, TaskError, WorkerExe,
};
use pool_tests::{
    Part, Scene, expect_healthy, innocent, is_signal, play, process, sevens, start_method, victim, wait_until,
};
use pool_worker::drill;

use crate::programs::{Once, bare, hostile, no_init, stock_path, threaded};

fn build(scene: &Scene, path: impl Into<PathBuf>) -> Result<Pool, BuildError> {
    scene.builder().worker(WorkerExe::path(path)).build()
}

/// Why the pool gave up, when asked to run a task.
#[track_caller]
fn broken(pool: &Pool) -> BrokenReason {
    match pool.apply(play(1, Part::Innocent)) {
        Err(TaskError::PoolBroken(reason)) => (*reason).clone(),
        other => panic!("{other:?}"),
    }
}

/// The deaths that broke the pool, none of which was a start.
#[track_caller]
fn failed_starts(reason: BrokenReason) -> Vec<Death> {
    match reason {
        BrokenReason::TooManyDeaths { deaths, .. } => {
            let is_start = |death: &Death| matches!(death.cause, DeathCause::StartFailed { .. });
            assert!(!deaths.is_empty() && deaths.iter().all(is_start), "{deaths:?}");
            deaths
        }
        other => panic!("{other:?}"),
    }
}

fn executable(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn an_executable_that_cannot_be_one_is_refused_when_the_pool_is_built() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    fs::copy(stock_path(), &plain).unwrap();
    fs::set_permissions(&plain, Permissions::from_mode(0o644)).unwrap();
    for (path, why) in [
        (dir.path().join("missing"), "No such file"),
        (plain, "ermission denied"),
        (dir.path().to_owned(), "not a file"),
        ("no-such-worker".into(), "`PATH` is not searched"),
    ] {
        match build(&scene, &path) {
            Err(error @ BuildError::Executable { .. }) => {
                let message = error.to_string();
                assert!(message.contains(&path.display().to_string()) && message.contains(why), "{message}");
            }
            other => panic!("{}: {other:?}", path.display()),
        }
    }
}

#[test]
fn an_executable_that_is_deleted_or_replaced_on_disk_changes_nothing_for_a_running_pool() {
    for replace in [false, true] {
        let scene = Scene::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker");
        fs::copy(stock_path(), &path).unwrap();
        let pool = build(&scene, &path).unwrap();
        expect_healthy(&pool);
        fs::remove_file(&path).unwrap();
        if replace {
            executable(&path, "#!/bin/false\n");
        }
        for round in 1..=3 {
            let before: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
            before.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
            wait_until("the deaths are counted", || pool.stats().deaths.signalled == 2 * round);
            expect_healthy(&pool);
        }
    }
}

#[test]
fn programs_that_are_no_workers_break_the_pool_and_it_says_why() {
    for program in ["/bin/true", "/bin/cat"] {
        let scene = Scene::new();
        let pool = build(&scene, program).unwrap();
        let deaths = failed_starts(broken(&pool));
        let report = deaths[0].to_string();
        assert!(report.contains("pool_core::init()"), "{report}");
        assert!(report.contains(&format!("did not start: {program} exited with status")), "{report}");
        assert!(pool.stats().spawned <= 12, "{:?}", pool.stats());
    }
}

#[test]
fn a_text_file_that_is_marked_executable_breaks_the_pool_at_once() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    executable(&path, "this is no program\n");
    let pool = build(&scene, &path).unwrap();
    match broken(&pool) {
        BrokenReason::CannotStart { executable, why, .. } => {
            assert!(executable == path.display().to_string() && !why.is_empty(), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_script_may_start_the_worker() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrapper");
    executable(&path, &format!("#!/bin/sh\nexec {} \"$@\"\n", stock_path().display()));
    let pool = build(&scene, &path).unwrap();
    expect_healthy(&pool);
}

#[test]
fn what_a_worker_opens_before_init_stays_open_for_its_threads() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(threaded()).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    let opened = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let opened: Vec<_> = opened.map(|entry| fs::read_link(entry.path()).unwrap_or_default()).collect();
    assert!(opened.iter().any(|path| path == Path::new("/dev/full")), "{opened:?}");
}

#[test]
fn a_program_that_has_forgotten_init_is_told_so_and_starts_nothing() {
    let scene = Scene::new();
    let output = Command::new(no_init()).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let message = String::from_utf8_lossy(&output.stdout);
    assert!(message.contains("pool_core::init() has not been called"), "{message}");

    // As a worker it starts no further ones, and the pool that started it gives up.
    let pool = build(&scene, no_init()).unwrap();
    let deaths = failed_starts(broken(&pool));
    assert!(deaths[0].to_string().contains("is `pool_core::init()` the first line of its main()"));
    assert!(pool.stats().spawned <= 12, "{:?}", pool.stats());
    wait_until("no process is left", || process::marked(scene.mark()).is_empty());
}

#[test]
fn tasks_that_are_not_linked_into_the_worker_fail_one_by_one() {
    let scene = Scene::new();
    let pool = scene.builder().worker(bare()).build().unwrap();
    let results = pool.map_settled(|n| play(n, Part::Innocent), 0..50);
    assert_eq!(results.len(), 50);
    for result in results {
        match result {
            Err(error @ TaskError::UnknownTask { .. }) => {
                let message = error.to_string();
                let parts = ["bare-worker", "pool_tests::part::play", "use that_crate as _;"];
                assert!(parts.iter().all(|part| message.contains(part)), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let error = pool.map(|n| play(n, Part::Innocent), 0..50).unwrap_err();
    assert!(error.index == 0 && matches!(error.error, TaskError::UnknownTask { .. }), "{error}");
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    let stats = pool.stats();
    assert_eq!((stats.deaths.total(), stats.pending), (0, 0), "{stats:?}");
}

#[test]
fn a_start_that_hangs_once_is_killed_at_the_start_timeout_and_nobody_is_blamed() {
    let (scene, once) = (Scene::new(), Once::new());
    let patience = Duration::from_millis(1500);
    let pool = scene.builder().worker(once.hostile("hang-early")).start_timeout(patience).build().unwrap();
    let results = pool.map(innocent, 0..100).unwrap();
    assert_eq!(results, (0..100).map(sevens).collect::<Vec<_>>());
    wait_until("the hanging start is killed", || pool.stats().deaths.start_failed == 1);
    expect_healthy(&pool);
    assert!(once.was_played());
}

#[test]
fn starts_that_all_hang_break_the_pool_at_the_start_timeout() {
    let scene = Scene::new();
    let patience = Duration::from_millis(500);
    let start = Instant::now();
    let pool = scene.builder().worker(hostile("hang-early")).start_timeout(patience).build().unwrap();
    match broken(&pool) {
        BrokenReason::CannotStart { why, .. } => {
            assert!(why.contains("500ms") && why.contains("start_timeout"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() >= patience && start.elapsed() < Duration::from_secs(20));
    assert_eq!(pool.stats().spawned, 2);
}

#[test]
fn starts_that_fail_after_good_ones_break_the_pool_only_when_somebody_waits() {
    if start_method() == StartMethod::Zygote {
        // The zygote is a good start, and what it forks does not start again.
        return;
    }
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wrapper");
    let switch = dir.path().join("bad");
    let worker = stock_path().display().to_string();
    executable(&path, &format!("#!/bin/sh\n[ -e {} ] && exit 5\nexec {worker}\n", switch.display()));
    let restart = RestartPolicy {
        max_restarts: 2,
        first_delay: Duration::from_millis(1),
        max_delay: Duration::from_millis(5),
        ..RestartPolicy::default()
    };
    let pool = scene.builder().worker(WorkerExe::path(&path)).restart(restart).build().unwrap();
    expect_healthy(&pool);
    let before: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    fs::write(&switch, "").unwrap();
    let death = pool_tests::expect_death(pool.apply(play(1, Part::Segv)));
    assert!(is_signal(&death.cause, libc::SIGSEGV), "a good start is not blamed: {death}");
    let survivor = before.into_iter().find(|pid| *pid != death.pid).expect("one of two is left");
    process::send(survivor, Signal::SIGKILL);
    match broken(&pool) {
        // One of them may have been killed while idle, by us.
        BrokenReason::TooManyDeaths { deaths, .. } => {
            assert_eq!(deaths.len(), 3);
            assert!(
                deaths[1..].iter().all(|death| death.to_string().contains("exited with status 5")),
                "{deaths:?}"
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pool_with_no_workers_or_wrong_settings_is_refused() {
    let scene = Scene::new();
    assert!(matches!(scene.builder().workers(0).build(), Err(BuildError::NoWorkers)));
    let wrong = [
        ("workers", scene.builder().workers(usize::MAX)),
        ("name", scene.builder().name("")),
        ("name", scene.builder().name("a\0b")),
        ("name", scene.builder().name("a".repeat(4097))),
        ("worker", scene.builder().worker(WorkerExe::current().arg("--quiet").arg("a\0b"))),
        ("env", scene.builder().env("A=B", "c")),
        ("current_dir", scene.builder().current_dir("/nonexistent")),
        ("current_dir", scene.builder().current_dir("")),
        ("frame_limit", scene.builder().frame_limit(1)),
        ("start_timeout", scene.builder().start_timeout(Duration::ZERO)),
    ];
    for (name, builder) in wrong {
        match builder.build() {
            Err(BuildError::Setting { setting, why, .. }) => assert!(setting == name && !why.is_empty()),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(scene.builder().name("a".repeat(4096)).build().is_ok());
}

#[test]
fn a_time_limit_does_not_count_while_the_workers_start() {
    let (scene, once) = (Scene::new(), Once::new());
    let patience = Duration::from_millis(1500);
    let pool = scene.builder().worker(once.hostile("hang-early")).start_timeout(patience).build().unwrap();
    let results = pool.map(|_| victim(3).timeout(Duration::from_millis(700)), 0..20).unwrap();
    assert_eq!(results.len(), 20);
    expect_healthy(&pool);
}
