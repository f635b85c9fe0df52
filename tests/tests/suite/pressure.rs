//! A program whose pool has too little of something: it says so, or is slower, and loses nothing.
//!
//! What concerns a whole process is tried in one of its own; see `src/bin/pressed`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{MapError, TaskError};
use pool_tests::{
    Leash, Mode, Part, Scene, expect_healthy, pid_for, play, process, right, skipped, wait_until,
};
use pool_worker::drill;

use crate::programs::{pressed, stock, stock_path};

/// What the program finds in one of its plays; `None` if it says that it cannot play, and why has been said.
#[track_caller]
fn findings(scene: &Scene, mut program: Command, play: &str, more: Option<&Path>) -> Option<Vec<String>> {
    let (key, value) = scene.mark().split_once('=').unwrap();
    let output = program.arg(play).arg(stock_path()).args(more).env(key, value).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{play}: {}\n{stdout}\n{stderr}", output.status);
    let found: Vec<String> = stdout.lines().map(str::to_owned).collect();
    if let Some(why) = found.first().and_then(|line| line.strip_prefix("skipped: ")) {
        skipped(why);
        return None;
    }
    Some(found)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A memory cgroup with a limit, below the one that this process is in or beside it; removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    /// An error says why there can be none.
    fn limited(bytes: u64) -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let of = |controller: &str| {
            own.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                let is_it = controllers.split(',').any(|name| name == controller);
                is_it.then(|| path.trim_start_matches('/').to_owned())
            })
        };
        // In version 2, a group that has processes hands no limits on: beside it.
        let beside = of("").map(|path| path.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned());
        let places = [
            ("/sys/fs/cgroup/memory", of("memory"), "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", beside.clone(), "memory.max"),
            ("/sys/fs/cgroup/unified", beside, "memory.max"),
        ];
        let mut why = "no memory cgroup is mounted".to_owned();
        for (root, path, limit) in places {
            let Some(path) = path else { continue };
            if limit == "memory.max" && !is_root() {
                // It is this user's tree if it may. What is refused shows below.
                let _ = fs::write(Path::new(root).join(&path).join("cgroup.subtree_control"), "+memory");
            }
            let group = Self(Path::new(root).join(path).join(format!("pool-tests-{}", std::process::id())));
            let made = fs::create_dir(&group.0).and_then(|()| {
                // The file is there if the controller is.
                fs::File::options().write(true).open(group.0.join(limit))?;
                fs::write(group.0.join(limit), bytes.to_string())
            });
            match made {
                Ok(()) => return Ok(group),
                Err(error) => why = format!("no memory cgroup below {root}: {error}"),
            }
        }
        Err(why)
    }

    /// Where a program goes whose workers shall have groups within the limit: in version 2, those are beside its own.
    fn inner(&self) -> PathBuf {
        if self.0.join("memory.limit_in_bytes").exists() {
            return self.0.clone();
        }
        let inner = self.0.join("program");
        fs::write(self.0.join("cgroup.subtree_control"), "+memory").unwrap();
        fs::create_dir(&inner).unwrap();
        inner
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Is there in version 2 alone.
        let _ = fs::remove_dir(self.0.join("program"));
        // Fails where it could not be made.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_task_that_the_kernel_kills_for_want_of_memory_is_told_so() {
    let cgroup = match Cgroup::limited(200 << 20) {
        Ok(cgroup) => cgroup,
        Err(why) => {
            assert!(
                std::env::var_os("POOL_TEST_CGROUPS").is_none(),
                "control groups can be made here: {why}"
            );
            return skipped(&why);
        }
    };
    let scene = Scene::new();
    let found = findings(&scene, Command::new(pressed()), "oom", Some(&cgroup.inner())).unwrap();
    let modes = Mode::ALL.map(|mode| format!("{mode:?} out of memory"));
    assert_eq!(found[..modes.len()], modes);
    let others = ["within a limit of its own out of memory", "killed by hand: was killed by SIGKILL"];
    assert_eq!(found[modes.len()..], others, "{found:#?}");
    scene.expect_nothing_left();
}

#[test]
fn only_the_monotonic_clock_matters() {
    let scene = Scene::new();
    let found = findings(&scene, Command::new(pressed()), "clock", None).unwrap();
    let [jumps, held @ .., timers, asked] = &found[..] else { panic!("{found:#?}") };
    assert_eq!(jumps, "jumps true");
    assert_eq!(held, ["limits hold 3600", "limits hold -3600", "waits and deadlines hold"]);
    // CLOCK_MONOTONIC is number 1.
    assert_eq!((&timers[..], &asked[..]), (r#"timers on ["1"]"#, "asked 0 times"));
}

#[test]
fn a_program_that_was_stopped_hears_what_workers_have_said_before_it_calls_time() {
    let (scene, dir) = (Scene::new(), tempfile::tempdir().unwrap());
    let (key, value) = scene.mark().split_once('=').unwrap();
    let mut command = Command::new(pressed());
    command.arg("stopped").arg(stock_path()).arg(dir.path()).env(key, value).stdout(Stdio::piped());
    let mut program = command.spawn().unwrap();
    let mut lines = BufReader::new(program.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("stops"));
    wait_until("it is stopped", || process::state(program.id()) == Some('T'));
    let workers = process::children_of(program.id());
    assert_eq!(workers.len(), 4);
    // Time passing is the subject here: its limits are 3 s, and what its workers say then is said after its timers have run out.
    std::thread::sleep(Duration::from_millis(3500));
    fs::write(dir.path().join("end"), "").unwrap();
    // Until they have seen it, they look, and sleep, and look again.
    let waits = |pid: &u32| process::system_call(*pid).filter(|call| *call >= 0);
    let sleeps = |call: i64| [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&call);
    wait_until("its workers have said all they have to say", || {
        workers.iter().all(|worker| waits(worker).is_some_and(|call| !sleeps(call)))
    });
    process::send(program.id(), Signal::SIGCONT);
    let found: Vec<String> = lines.collect();
    assert!(program.wait().unwrap().success(), "{found:#?}");
    assert_eq!(found, ["start None", "state None", "task None", "batch None", "[0, 0, 0, 0] deaths"]);
}

#[test]
fn a_program_without_processes_goes_on_with_the_workers_that_it_has() {
    let scene = Scene::new();
    // The limit is none for root.
    let program = if is_root() {
        let mut program = Command::new("setpriv");
        program.args([
            "--reuid=54321",
            "--regid=54321",
            "--clear-groups",
            "--inh-caps=-all",
            "--bounding-set=-all",
        ]);
        program.arg(pressed());
        program
    } else {
        Command::new(pressed())
    };
    let found = findings(&scene, program, "few-processes", None).unwrap();
    let [not_built, rest @ .., broken] = &found[..] else { panic!("{found:#?}") };
    assert!(not_built.contains("thread") && not_built.contains("os error 11"), "{not_built}");
    let expected = ["called back true", "death: true", "one worker does the work", "full size again"];
    assert_eq!(rest, expected);
    assert!(broken.contains("it cannot be spawned") && broken.contains("os error 11"), "{broken}");
}

#[test]
fn a_pool_that_is_built_with_too_few_descriptors_says_so_or_works() {
    let scene = Scene::new();
    let found = findings(&scene, Command::new(pressed()), "few-descriptors", None).unwrap();
    assert_eq!(found, ["not built true, broken true, worked true", "healthy"]);
}

#[test]
fn a_low_limit_on_the_size_of_files_is_told_or_makes_large_data_slow() {
    let scene = Scene::new();
    let found = findings(&scene, Command::new(pressed()), "short-files", None).unwrap();
    let [arrive, broken, healthy] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((&arrive[..], &healthy[..]), ("large data arrive", "healthy"));
    assert!(broken.contains("cannot be started") && broken.contains("RLIMIT_FSIZE"), "{broken}");
}

#[test]
fn a_program_without_memory_to_share_goes_on_with_the_workers_that_it_has() {
    let scene = Scene::new();
    let found = findings(&scene, Command::new(pressed()), "no-memory", None).unwrap();
    let [mmap_large, mmap, memfd_large, memfd] = &found[..] else { panic!("{found:#?}") };
    for large in [mmap_large, memfd_large] {
        let ends = ["large data arrive: true", "os error 12"];
        assert!(ends.iter().any(|end| large.contains(end)), "{large}");
    }
    for (line, name) in [(mmap, "mmap"), (memfd, "memfd_create")] {
        let says = line.starts_with(name) && line.contains("cannot be spawned") && line.contains("memory");
        assert!(says, "{line}");
    }
}

#[test]
fn a_program_whose_spawns_fail_goes_on_with_the_workers_that_it_has() {
    let scene = Scene::new();
    let found = findings(&scene, Command::new(pressed()), "no-processes-for-memory", None).unwrap();
    let [again, memory] = &found[..] else { panic!("{found:#?}") };
    assert!(again.contains("it cannot be spawned") && again.contains("os error 11"), "{again}");
    assert!(memory.contains("it cannot be spawned") && memory.contains("os error 12"), "{memory}");
}

#[test]
fn without_proc_a_pool_works_if_it_is_told_its_worker() {
    let scene = Scene::new();
    let Some(found) = findings(&scene, Command::new(pressed()), "no-proc", None) else { return };
    let [current, limit, recycle, spawn, zygote] = &found[..] else { panic!("{found:#?}") };
    assert!(current.contains("`/proc` is not mounted"), "{current}");
    assert!(limit.contains("memory_limit") && limit.contains("/proc"), "{limit}");
    assert!(recycle.contains("recycle_above") && recycle.contains("/proc"), "{recycle}");
    assert_eq!((&spawn[..], &zygote[..]), ("Spawn healthy", "Zygote healthy"));
}

#[test]
fn where_proc_is_of_another_pid_namespace_nobody_is_taken_for_a_worker() {
    let scene = Scene::new();
    let Some(found) = findings(&scene, Command::new(pressed()), "foreign-proc", None) else { return };
    let [limit, recycle, healthy] = &found[..] else { panic!("{found:#?}") };
    assert!(limit.contains("memory_limit") && limit.contains("PID namespace"), "{limit}");
    assert!(recycle.contains("recycle_above") && recycle.contains("PID namespace"), "{recycle}");
    assert_eq!(healthy, "healthy");
}

#[test]
fn a_thousand_workers_on_a_few_cores_are_slow_and_right() {
    let scene = Scene::new();
    let Some(found) = findings(&scene, Command::new(pressed()), "crowd", None) else { return };
    let expected = [
        "right while they start",
        "all are ready",
        "all work at once",
        "right while a hundred die",
        "0 children left",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_thousand_workers_without_descriptors_are_as_many_as_there_can_be() {
    let scene = Scene::new();
    let found = findings(&scene, Command::new(pressed()), "thin-crowd", None).unwrap();
    let expected = ["right", "right with those that there are", "some are ready: true", "0 children left"];
    assert_eq!(found, expected);
}

#[test]
fn a_million_tasks_are_queued_and_none_is_lost_with_a_worker() {
    const TASKS: u64 = 1_000_000;
    let (scene, leash) = (Scene::new(), Leash::new());
    let pool = scene.builder().worker(stock()).build().unwrap();
    let held = [0, 1].map(|n| pool.apply_async(leash.task(n)));
    wait_until("nobody is free", || leash.has_begun(0) && leash.has_begun(1));
    let handles: Vec<_> = (0..TASKS).map(|n| pool.apply_async(drill::echo_u64(n).retries(1))).collect();
    assert_eq!(pool.stats().pending as u64, TASKS + 2);
    leash.release(0);
    wait_until("one of them goes on", || pool.stats().succeeded > 1000);
    let pid = pool.workers()[0].pid.expect("it runs a task");
    process::send(pid, Signal::SIGKILL);
    wait_until("the death is counted", || pool.stats().deaths.signalled == 1);
    leash.release(1);
    assert!((0..TASKS).zip(handles).all(|(n, handle)| handle.get().unwrap() == n));
    // Only the one that was held can have been lost.
    let lost = held.into_iter().map(|handle| handle.get()).filter(Result::is_err).count();
    assert_eq!((lost as u64, pool.stats().succeeded), (pool.stats().failed, TASKS + 2 - lost as u64));
    expect_healthy(&pool);
}

#[test]
fn a_million_items_of_a_map_survive_the_death_of_a_worker() {
    const ITEMS: u64 = 1_000_000;
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let pid = pool.apply(pid_for(0)).unwrap();
    let sums = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("the map is in its midst", || pool.stats().succeeded > ITEMS / 2);
            process::send(pid, Signal::SIGKILL);
        });
        pool.batch().retries(1).map(|n| drill::add(n, 1), 0..ITEMS).unwrap()
    });
    assert!((1..=ITEMS).eq(sums));
    wait_until("the death is counted", || pool.stats().deaths.total() == 1);
    expect_healthy(&pool);
}

#[test]
fn arguments_and_results_of_a_gibibyte() {
    const GIB: usize = 1 << 30;
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let field = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap();
    let free: usize = field.trim().trim_end_matches(" kB").parse().unwrap();
    if free / 1024 < 8 * 1024 {
        return skipped(&format!("{} MiB of memory are available, and it takes up to 8 GiB", free / 1024));
    }
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).frame_limit((GIB + 4096) as u32).build().unwrap();
    let data = vec![7_u8; GIB];
    assert_eq!(pool.apply(drill::length(&data)).unwrap(), GIB as u64);
    drop(data);
    let result = pool.apply(drill::make_bytes(GIB as u64)).unwrap();
    assert_eq!(
        (result.len(), result[1000], result[GIB - 1]),
        (GIB, (1000 % 251) as u8, ((GIB - 1) % 251) as u8)
    );
    drop(result);
    // One that dies with it costs its own task.
    let error = pool.map(|n| if n == 1 { play(n, Part::Segv) } else { play(n, Part::Innocent) }, 0..3);
    assert!(matches!(error, Err(MapError { index: 1, error: TaskError::WorkerDied(_), .. })), "{error:?}");
    assert_eq!(pool.apply(play(4, Part::Innocent)).unwrap(), right(4));
    expect_healthy(&pool);
}
