//! Settings of the worker processes, looked at from outside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{BrokenReason, BuildError, Pool, StartMethod, TaskError, WorkerInfo, WorkerStatus, task};
use pool_tests::{Scene, expect_healthy, innocent, process, skipped, start_method, wait_until};
use pool_worker::drill;

/// The pids of all workers by their place, once all are ready.
fn pids(pool: &Pool, count: usize) -> BTreeMap<u32, u32> {
    wait_until("every worker is ready", || pool.stats().workers_ready == count);
    pool.workers().iter().map(|worker| (worker.worker.get(), worker.pid.expect("it is ready"))).collect()
}

/// The numbers in a list such as `0-2,5`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        first.parse::<usize>().unwrap()..=last.parse().unwrap()
    };
    list.trim().split(',').flat_map(range).collect()
}

/// The CPUs that a process or thread may use, by its directory in `/proc`.
fn cpus(task: &Path) -> Vec<usize> {
    let status = fs::read_to_string(task.join("status")).unwrap();
    numbers(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap())
}

/// Its niceness.
fn niceness(task: &Path) -> i32 {
    let stat = fs::read_to_string(task.join("stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split_ascii_whitespace().nth(16).unwrap().parse().unwrap()
}

fn environment(pid: u32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let entries = bytes.split(|byte| *byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
    entries
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn threads(pid: u32) -> Vec<PathBuf> {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn affinity_and_niceness_are_those_of_each_worker_and_of_its_replacement() {
    let own = cpus(Path::new("/proc/self"));
    let sets = [vec![own[0]], vec![*own.last().unwrap()], own.clone()];
    let before = niceness(Path::new("/proc/self"));
    let scene = Scene::new();
    let pool = scene.builder().workers(4).cpu_affinity(&sets).nice(3).build().unwrap();
    for round in 0..2 {
        let workers = pids(&pool, 4);
        expect_healthy(&pool);
        for (worker, pid) in &workers {
            for thread in threads(*pid) {
                assert_eq!(cpus(&thread), sets[*worker as usize % 3], "worker {worker}");
                assert_eq!(niceness(&thread), (before + 3).min(19), "worker {worker}");
            }
        }
        if round == 0 {
            workers.values().for_each(|pid| process::send(*pid, Signal::SIGKILL));
            wait_until("all deaths are counted", || pool.stats().deaths.signalled == 4);
        }
    }
    // This program has not changed.
    assert_eq!((cpus(Path::new("/proc/self")), niceness(Path::new("/proc/self"))), (own, before));
}

#[test]
fn the_environment_is_that_of_the_pool_and_of_each_place() {
    if start_method() == StartMethod::Zygote {
        // Refused, and tested below.
        return;
    }
    let scene = Scene::new();
    let of_worker = |worker: usize| vec![("WHICH", worker.to_string()), ("COLOUR", "green".to_owned())];
    let builder = scene.builder().env("COLOUR", "red").env("SHAPE", "round").worker_env(of_worker);
    let pool = builder.build().unwrap();
    for round in 0..2 {
        let workers = pids(&pool, 2);
        for (worker, pid) in &workers {
            let environment = environment(*pid);
            let found = ["WHICH", "COLOUR", "SHAPE"].map(|name| environment[name].as_str());
            assert_eq!(found, [&worker.to_string()[..], "green", "round"]);
        }
        expect_healthy(&pool);
        if round == 0 {
            workers.values().for_each(|pid| process::send(*pid, Signal::SIGKILL));
            wait_until("all deaths are counted", || pool.stats().deaths.signalled == 2);
        }
    }
}

#[test]
fn an_environment_of_a_place_that_is_none_breaks_the_pool() {
    if start_method() == StartMethod::Zygote {
        return;
    }
    let panics = |_: usize| -> Vec<(&str, &str)> { panic!("no environment today") };
    let scene = Scene::new();
    for (builder, cause) in [
        (scene.builder().worker_env(panics), "`Builder::worker_env` panicked"),
        (scene.builder().worker_env(|_| [("A=B", "c")]), "\"A=B\""),
        (scene.builder().worker_env(|_| [("A", "c\0")]), "\"A\""),
    ] {
        let pool = builder.build().unwrap();
        match pool.apply(innocent(1)) {
            Err(TaskError::PoolBroken(reason)) => match &*reason {
                BrokenReason::CannotStart { why, .. } => assert!(why.contains(cause), "{why}"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_threads_of_libraries_are_limited_unless_the_environment_says_otherwise() {
    let scene = Scene::new();
    let builder =
        scene.builder().env("MKL_NUM_THREADS", "5").env_remove("NUMBA_NUM_THREADS").inner_threads(2);
    let pool = builder.build().unwrap();
    for pid in pids(&pool, 2).values() {
        let environment = environment(*pid);
        for name in ["OMP", "OPENBLAS", "BLIS", "NUMEXPR", "RAYON"] {
            assert_eq!(environment[&format!("{name}_NUM_THREADS")], "2");
        }
        assert_eq!(environment["VECLIB_MAXIMUM_THREADS"], "2");
        assert_eq!(environment["MKL_NUM_THREADS"], "5");
        assert!(!environment.contains_key("NUMBA_NUM_THREADS"));
    }
}

#[test]
fn wrong_settings_are_refused() {
    let scene = Scene::new();
    let none: [[usize; 0]; 0] = [];
    let wrong = [
        ("nice", scene.builder().nice(20)),
        ("nice", scene.builder().nice(-21)),
        ("inner_threads", scene.builder().inner_threads(0)),
        ("cpu_affinity", scene.builder().cpu_affinity(none)),
        ("cpu_affinity", scene.builder().cpu_affinity([vec![0], vec![]])),
        ("cpu_affinity", scene.builder().cpu_affinity([[usize::MAX]])),
        ("recycle_above", scene.builder().recycle_above(0)),
        ("memory_limit", scene.builder().memory_limit(0)),
        ("init_timeout", scene.builder().init_timeout(Duration::ZERO)),
        ("worker_env", scene.builder().start(StartMethod::Zygote).worker_env(|_| [("A", "b")])),
    ];
    for (name, builder) in wrong {
        match builder.build() {
            Err(BuildError::Setting { setting, why, .. }) => assert!(setting == name && !why.is_empty()),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn spares_take_over_and_are_replaced() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).spares(1).build().unwrap();
    let mut known = Vec::new();
    for round in 0..3 {
        wait_until("worker and spare are there", || {
            let stands_by = |worker: &WorkerInfo| worker.status == WorkerStatus::Spare;
            pool.workers().iter().any(stands_by) && pool.stats().workers_ready == 1
        });
        let first = pool.apply(drill::pid()).unwrap();
        let others: Vec<u32> =
            pool.workers().iter().filter_map(|worker| worker.pid).filter(|pid| *pid != first).collect();
        assert_eq!(others.len(), 1, "round {round}");
        known.push(first);
        process::send(first, Signal::SIGKILL);
        wait_until("the death is counted", || pool.stats().deaths.signalled == round + 1);
        assert_eq!(pool.apply(drill::pid()).unwrap(), others[0], "round {round}: the spare takes over");
    }
    let deaths = pool.stats().deaths;
    assert_eq!((deaths.signalled, deaths.total(), pool.stats().workers_ready), (3, 3, 1));
}

/// How many workers a pool has by default in the process that runs this task, after it has joined a group of processes.
#[task]
fn default_size(group: Option<PathBuf>) -> Result<usize, String> {
    if let Some(group) = group {
        fs::write(group.join("cgroup.procs"), "0").map_err(|error| error.to_string())?;
    }
    let pool = Pool::builder().name("nested").build().map_err(|error| error.to_string())?;
    Ok(pool.workers().len())
}

#[test]
fn the_default_size_honours_affinity() {
    let own = cpus(Path::new("/proc/self"));
    for set in [&own[..1], &own[..]] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).cpu_affinity([set]).build().unwrap();
        let size = pool.apply(default_size(None)).unwrap().unwrap();
        // A quota may allow less.
        assert!(size == set.len() || (size < set.len() && size >= 1), "{size} of {set:?}");
        assert!(set.len() > 1 || size == 1);
    }
}

/// A control group of the test's own, for processor time.
struct Group(PathBuf);

impl Group {
    /// With a quota of so many processors.
    fn with_quota(quota: u32) -> std::io::Result<Self> {
        let name = format!("pool-tests-{}", std::process::id());
        let period = 100_000;
        let first = Path::new("/sys/fs/cgroup/cpu");
        let group = Self(if first.is_dir() { first } else { Path::new("/sys/fs/cgroup") }.join(name));
        fs::create_dir(&group.0)?;
        if first.is_dir() {
            fs::write(group.0.join("cpu.cfs_period_us"), period.to_string())?;
            fs::write(group.0.join("cpu.cfs_quota_us"), (quota * period).to_string())?;
        } else {
            fs::write(group.0.join("cpu.max"), format!("{} {period}", quota * period))?;
        }
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed once its processes have been reaped.
        wait_until("the control group is removed", || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

#[test]
fn the_default_size_honours_the_quota_of_a_control_group() {
    let group = match Group::with_quota(1) {
        Ok(group) => group,
        Err(error) => {
            return skipped(&format!("a control group with a quota cannot be made here: {error}"));
        }
    };
    let scene = Scene::new();
    let pool = scene.builder().workers(1).build().unwrap();
    match pool.apply(default_size(Some(group.0.clone()))).unwrap() {
        Ok(size) => assert_eq!(size, 1),
        Err(error) => skipped(&format!("the control group cannot be joined: {error}")),
    }
    drop(pool);
}

/// As docs/tuning.md says.
#[test]
fn a_pool_has_six_descriptors_and_seven_for_each_worker() {
    let scene = Scene::new();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    let before = count();
    let pool = scene.builder().start(StartMethod::Spawn).workers(1).build().unwrap();
    pids(&pool, 1);
    let with_one = count();
    pool.resize(4).unwrap();
    pids(&pool, 4);
    assert_eq!((with_one - before, count() - with_one), (6 + 7, 3 * 7));
}
