//! Workers that use more than they may: the death names the limit, and nobody else is concerned.

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{
    BuildError, Builder, DeathCause, Pool, StateContext, TaskError, WorkerLimits, WorkerState, task,
};
use pool_tests::{
    Fuse, Mode, Scene, Trial, cause_of, expect_death, expect_healthy, explode, innocent, is_signal, process,
    running, sevens, skipped, spin, touch, wait_until,
};
use pool_worker::drill;

const MIB: u64 = 1 << 20;
const CPU: Duration = Duration::from_millis(300);

/// Uses processor time without end.
#[task]
fn churn() -> Vec<u8> {
    loop {
        std::hint::black_box(0);
    }
}

/// Has `n` descriptors more open at once, or as many as there can be: how many, and the error.
#[task]
fn open_many(n: usize) -> (usize, Option<i32>) {
    let mut files = Vec::new();
    while files.len() < n {
        match std::fs::File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => return (files.len(), error.raw_os_error()),
        }
    }
    (files.len(), None)
}

/// Has so many threads at once.
#[task]
fn have_threads(n: u32) -> u32 {
    let gate = std::sync::Barrier::new(n as usize + 1);
    std::thread::scope(|scope| {
        for _ in 0..n {
            scope.spawn(|| gate.wait());
        }
        gate.wait();
    });
    n
}

/// Has a child use memory: how the child ended.
#[task]
fn child_uses(bytes: u64) -> String {
    let script = format!("head -c {bytes} /dev/zero | tail -c {bytes} | wc -c");
    let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("a shell");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn limited(scene: &Scene, limits: WorkerLimits) -> Pool {
    scene.builder().limits(limits).build().unwrap()
}

/// Builds a pool whose limits need a control group. `None` where this program cannot make one, which is said.
fn grouped(builder: Builder, controller: &str) -> Option<Pool> {
    match builder.build() {
        Ok(pool) => Some(pool),
        Err(BuildError::Setting { setting: "limits", why, .. }) => {
            assert!(
                std::env::var_os("POOL_TEST_CGROUPS").is_none(),
                "control groups can be made here: {why}"
            );
            let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
            let first = own.lines().any(|line| line.split(':').nth(1) == Some(controller));
            let is_root = process::status(std::process::id(), "Uid", 10) == Some(0);
            assert!(!(first && is_root), "nothing is in the way of root: {why}");
            skipped(&why);
            None
        }
        Err(other) => panic!("{other}"),
    }
}

/// The control groups that this process has made and that are still there.
fn groups() -> Vec<std::path::PathBuf> {
    fn look(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with("pool-worker-") && name.contains(&format!("-{}-", std::process::id())) {
                    found.push(entry.path());
                }
                look(&entry.path(), found);
            }
        }
    }
    let mut found = Vec::new();
    look(std::path::Path::new("/sys/fs/cgroup"), &mut found);
    found
}

#[test]
fn a_task_that_uses_too_much_processor_time_is_ended_in_every_mode() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = limited(&scene, WorkerLimits::new().cpu_time(CPU));
        let death = expect_death(Trial { victim: churn, innocent }.run(&pool, mode, sevens));
        assert!(
            matches!(death.cause, DeathCause::CpuLimit { limit, .. } if limit == CPU),
            "{mode:?}: {death}"
        );
        assert!(death.task.as_ref().is_some_and(|task| task.ends_with("::churn")), "{death}");
        assert!(death.ran_for.is_some_and(|time| time >= CPU / 2), "{death}");
        expect_healthy(&pool);
        let deaths = pool.stats().deaths;
        assert_eq!((deaths.cpu_limit, deaths.total()), (1, 1), "{mode:?}: {deaths:?}");
    }
}

#[test]
fn processor_time_is_that_of_one_task_and_not_of_its_worker() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).limits(WorkerLimits::new().cpu_time(CPU)).build().unwrap();
    let half = CPU.as_millis() as u64 / 2;
    for _ in 0..6 {
        assert_eq!(pool.apply(spin(1, half)).unwrap(), 1);
    }
    assert_eq!(pool.map(|_| spin(1, half / 3), 0..12).unwrap(), [1; 12]);
    assert_eq!(pool.stats().deaths.total(), 0);
}

/// Takes more processor time to build than a task may use.
struct Costly;

impl WorkerState for Costly {
    fn init(_: &StateContext) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        spin(1, 2 * CPU.as_millis() as u64).run_here()?;
        Ok(Self)
    }
}

#[task]
fn with_costly_state(#[state] state: &mut Costly) {
    let Costly = state;
}

#[test]
fn processor_time_between_tasks_counts_for_none() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).limits(WorkerLimits::new().cpu_time(CPU)).build().unwrap();
    // What it has left must not count down while the state is built.
    assert_eq!(pool.apply(spin(1, CPU.as_millis() as u64 / 2)).unwrap(), 1);
    pool.apply(with_costly_state()).unwrap();
    assert_eq!(pool.stats().deaths.total(), 0);
}

#[test]
fn processor_time_is_that_of_all_threads_and_waiting_takes_none() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).limits(WorkerLimits::new().cpu_time(CPU)).build().unwrap();
    let each = CPU.as_millis() as u64 * 2 / 3;
    let death = expect_death(pool.apply(spin(3, each)));
    assert!(matches!(death.cause, DeathCause::CpuLimit { .. }), "{death}");
    assert_eq!(pool.apply(spin(1, each)).unwrap(), 1);
    pool.apply(drill::sleep_ms(3 * CPU.as_millis() as u64)).unwrap();
    assert_eq!(pool.stats().deaths.total(), 1);
}

#[test]
fn a_signal_from_elsewhere_is_not_taken_for_the_limit() {
    let scene = Scene::new();
    let pool =
        scene.builder().workers(1).limits(WorkerLimits::new().cpu_time(Duration::from_secs(600))).build();
    let pool = pool.unwrap();
    let handle = pool.apply_async(drill::sleep_ms(600_000));
    wait_until("it runs", || running(&pool) == 1);
    process::send(pool.workers()[0].pid.unwrap(), Signal::SIGXCPU);
    let death = expect_death(handle.get());
    assert!(is_signal(&death.cause, libc::SIGXCPU), "{death}");
    expect_healthy(&pool);
}

#[test]
fn a_file_that_grows_too_large_ends_its_worker_in_every_mode() {
    let dir = tempfile::tempdir().unwrap();
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = limited(&scene, WorkerLimits::new().file_size(MIB));
        let write = |bytes| touch(dir.path().to_owned(), bytes);
        let trial = Trial { victim: || write(MIB + 1), innocent: |_| write(MIB) };
        let death = expect_death(trial.run(&pool, mode, |_| true));
        assert!(matches!(death.cause, DeathCause::FileSizeLimit { limit: MIB, .. }), "{mode:?}: {death}");
        expect_healthy(&pool);
        let deaths = pool.stats().deaths;
        assert_eq!((deaths.file_size_limit, deaths.total()), (1, 1), "{mode:?}: {deaths:?}");
    }
}

#[test]
fn arguments_and_results_that_are_larger_than_any_file_may_be_pass() {
    let scene = Scene::new();
    let pool = limited(&scene, WorkerLimits::new().file_size(0));
    for len in [1, 64 << 10, 3 * MIB, 20 * MIB] {
        assert_eq!(pool.apply(drill::make_bytes(len)).unwrap().len() as u64, len);
        let bytes = vec![3; len as usize];
        assert_eq!(pool.apply(drill::echo_bytes(bytes.clone())).unwrap(), bytes);
    }
    assert_eq!(pool.stats().deaths.total(), 0);
    expect_healthy(&pool);
}

#[test]
fn descriptors_run_out_for_the_task_and_for_nobody_else() {
    let scene = Scene::new();
    let pool = limited(&scene, WorkerLimits::new().open_files(40));
    assert_eq!(pool.apply(open_many(25)).unwrap(), (25, None));
    let (opened, error) = pool.apply(open_many(1000)).unwrap();
    assert!((25..40).contains(&opened) && error == Some(libc::EMFILE), "{opened} {error:?}");
    let bytes = vec![3; 3 << 20];
    assert_eq!(pool.apply(drill::echo_bytes(bytes.clone())).unwrap(), bytes);
    assert_eq!(pool.stats().deaths.total(), 0);
    expect_healthy(&pool);
}

#[test]
fn a_bomb_is_contained_and_nothing_of_it_is_left() {
    for fuse in [Fuse::Fork, Fuse::ForkAndLeave, Fuse::Threads] {
        let scene = Scene::new();
        let Some(pool) = grouped(scene.builder().limits(WorkerLimits::new().processes(40)), "pids") else {
            return;
        };
        let innocent = pool.apply_async(drill::sleep_ms(50));
        let death = expect_death(pool.apply(explode(fuse)));
        assert!(matches!(death.cause, DeathCause::ProcessLimit { limit: 40, .. }), "{fuse:?}: {death}");
        innocent.get().unwrap();
        expect_healthy(&pool);
        let deaths = pool.stats().deaths;
        assert_eq!((deaths.process_limit, deaths.total()), (1, 1), "{fuse:?}: {deaths:?}");
        // All that came from it has its mark, and its parent is somebody else by now.
        let workers: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
        wait_until("only the workers are left", || {
            process::marked(scene.mark())
                .into_iter()
                .filter(|pid| process::is_alive(*pid))
                .all(|pid| workers.contains(&pid) || process::parent(pid) == Some(std::process::id()))
        });
        drop(pool);
        scene.expect_nothing_left();
        wait_until("no control group is left", || groups().is_empty());
    }
}

#[test]
fn a_bomb_is_found_in_every_mode() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let Some(pool) = grouped(scene.builder().limits(WorkerLimits::new().processes(20)), "pids") else {
            return;
        };
        let trial = Trial { victim: || explode(Fuse::Threads), innocent: |n| drill::add(n, n) };
        let death = expect_death(trial.run(&pool, mode, |n| n + n));
        assert!(matches!(death.cause, DeathCause::ProcessLimit { limit: 20, .. }), "{mode:?}: {death}");
        expect_healthy(&pool);
    }
}

#[test]
fn as_many_threads_as_are_allowed_can_be_had() {
    let scene = Scene::new();
    let builder = scene.builder().workers(1).limits(WorkerLimits::new().processes(5));
    let Some(pool) = grouped(builder, "pids") else { return };
    assert_eq!(pool.apply(have_threads(5)).unwrap(), 5);
    assert_eq!(pool.stats().deaths.total(), 0);
    expect_healthy(&pool);
}

#[test]
fn grandchildren_that_have_left_their_group_die_with_the_worker() {
    let scene = Scene::new();
    let builder = scene.builder().workers(1).limits(WorkerLimits::new().processes(10));
    let Some(pool) = grouped(builder, "pids") else { return };
    let pid = pool.apply(leave_a_stranger()).unwrap();
    assert!(process::is_alive(pid));
    assert_ne!(process::group(pid), pool.workers()[0].pid, "it has left the group");
    process::send(pool.workers()[0].pid.unwrap(), Signal::SIGKILL);
    wait_until("it dies with the worker", || !process::is_alive(pid));
    expect_healthy(&pool);
}

/// Leaves a process behind in a session of its own.
#[task]
#[expect(clippy::zombie_processes, reason = "it is to be left behind")]
fn leave_a_stranger() -> u32 {
    let child =
        std::process::Command::new("setsid").args(["sleep", "600"]).spawn().expect("it is on every Linux");
    let pid = child.id();
    // It is in the group of the worker until it has called setsid.
    while process::group(pid) != Some(pid) {
        std::thread::yield_now();
    }
    pid
}

#[test]
fn the_kernel_holds_the_limit_of_all_memory() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let limit = 100 * MIB;
        let builder = scene.builder().limits(WorkerLimits::new().total_memory(limit));
        let Some(pool) = grouped(builder, "memory") else { return };
        let trial = Trial { victim: || drill::leak(3 * limit), innocent: |n| drill::add(n, n) };
        let death = expect_death(trial.run(&pool, mode, |n| n + n));
        match death.cause {
            DeathCause::MemoryLimit { rss, limit: named, .. } => {
                assert!(named == limit && rss <= limit && rss > limit / 2, "{mode:?}: {death}");
            }
            other => panic!("{mode:?}: {other}"),
        }
        expect_healthy(&pool);
        let deaths = pool.stats().deaths;
        assert_eq!((deaths.memory_limit, deaths.total()), (1, 1), "{mode:?}: {deaths:?}");
        drop(pool);
        wait_until("no control group is left", || groups().is_empty());
    }
}

#[test]
fn limits_of_processes_and_of_all_memory_hold_together() {
    let scene = Scene::new();
    let limits = WorkerLimits::new().processes(20).total_memory(100 * MIB);
    let Some(pool) = grouped(scene.builder().limits(limits), "memory") else { return };
    let death = expect_death(pool.apply(drill::leak(300 * MIB)));
    assert!(matches!(death.cause, DeathCause::MemoryLimit { .. }), "{death}");
    let death = expect_death(pool.apply(explode(Fuse::Threads)));
    assert!(matches!(death.cause, DeathCause::ProcessLimit { .. }), "{death}");
    expect_healthy(&pool);
    drop(pool);
    wait_until("no control group is left", || groups().is_empty());
}

#[test]
fn memory_of_children_counts_too() {
    let scene = Scene::new();
    let builder = scene.builder().workers(1).limits(WorkerLimits::new().total_memory(100 * MIB));
    let Some(pool) = grouped(builder, "memory") else { return };
    assert_eq!(pool.apply(child_uses(10 * MIB)).unwrap(), (10 * MIB).to_string());
    // With the second version of control groups, the worker is killed with its child.
    match pool.apply(child_uses(300 * MIB)) {
        Ok(counted) => assert_ne!(counted, (300 * MIB).to_string()),
        Err(error) => assert!(matches!(cause_of(&error), DeathCause::MemoryLimit { .. }), "{error}"),
    }
    expect_healthy(&pool);
}

#[test]
fn the_limit_of_private_memory_is_the_one_of_the_builder() {
    let scene = Scene::new();
    let limit = 200 * MIB;
    for builder in [
        scene.builder().limits(WorkerLimits::new().memory(limit)),
        scene.builder().memory_limit(9 * limit).limits(WorkerLimits::new().memory(limit)),
        scene.builder().memory_limit(limit).limits(WorkerLimits::new().open_files(500)),
    ] {
        let pool = builder.workers(1).build().unwrap();
        if pool.apply(drill::leak(2 * limit)).is_ok() {
            wait_until("it is killed afterwards", || pool.stats().deaths.total() == 1);
        }
        assert_eq!(pool.stats().deaths.memory_limit, 1);
    }
}

#[test]
fn limits_hold_together_and_for_a_retry() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let limits = WorkerLimits::new().cpu_time(CPU).file_size(MIB).open_files(64).memory(500 * MIB);
    let pool = limited(&scene, limits);
    match pool.apply(touch(dir.path().to_owned(), 2 * MIB).retries(1)) {
        Err(TaskError::Poisoned { deaths, .. }) => {
            let by_limit = |death: &pool_core::Death| matches!(death.cause, DeathCause::FileSizeLimit { .. });
            assert!(deaths.len() == 2 && deaths.iter().all(by_limit), "{deaths:?}");
        }
        other => panic!("{other:?}"),
    }
    let death = expect_death(pool.apply(churn()));
    assert!(matches!(death.cause, DeathCause::CpuLimit { .. }), "{death}");
    expect_healthy(&pool);
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let scene = Scene::new();
    for (limits, part) in [
        (WorkerLimits::new().cpu_time(Duration::ZERO), "cpu_time"),
        (WorkerLimits::new().open_files(15), "16 is the least"),
        (WorkerLimits::new().total_memory(0), "total_memory"),
    ] {
        match scene.builder().limits(limits).build() {
            Err(BuildError::Setting { setting: "limits", why, .. }) => assert!(why.contains(part), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let none = scene.builder().limits(WorkerLimits::new().memory(0)).build();
    assert!(matches!(none, Err(BuildError::Setting { setting: "memory_limit", .. })), "{none:?}");
}
