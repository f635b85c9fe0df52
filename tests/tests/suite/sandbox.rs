//! Workers in a sandbox: work goes on as ever, and nothing gets out.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;
use pool_core::{
    BrokenReason, BuildError, Builder, Output, Pool, Sandbox, SharedBytes, StartMethod, TaskError, Transport,
    WorkerLimits, task,
};
use pool_tests::breakout::{Attempt, attempt, death_signal, descriptors, scrawl};
use pool_tests::{
    Mode, Part, Scene, Trial, expect_death, expect_healthy, innocent, is_signal, play, process, right,
    sevens, wait_until, without, zygote,
};
use pool_worker::drill;

use crate::programs::threaded;

/// Flags for opening files: to cut it, and neither to read nor to write it.
const CUT: i32 = libc::O_TRUNC;
const FOR_NOTHING: i32 = libc::O_ACCMODE;

const DENIED: [i32; 3] = [libc::EPERM, libc::EACCES, libc::EXDEV];

fn boxed(scene: &Scene, sandbox: Sandbox) -> Pool {
    scene.builder().sandbox(sandbox).build().unwrap()
}

#[track_caller]
fn expect_refused(pool: &Pool, what: Attempt) {
    match pool.apply(attempt(what.clone())).unwrap() {
        Err(error) if DENIED.contains(&error) => {}
        other => panic!("{what:?}: {other:?}"),
    }
}

#[track_caller]
fn expect_allowed(pool: &Pool, what: Attempt) {
    let done = pool.apply(attempt(what.clone())).unwrap();
    assert_eq!(done, Ok(()), "{what:?}");
}

/// What nobody in a sandbox may do, to whomever: this program and a sibling.
fn attempts(sibling: u32) -> Vec<Attempt> {
    let mut all = vec![
        Attempt::Socket(libc::AF_INET),
        Attempt::Socket(libc::AF_INET6),
        Attempt::Socket(libc::AF_UNIX),
        Attempt::Socket(libc::AF_NETLINK),
        Attempt::DatagramPair,
        Attempt::Run("/bin/true".into()),
        Attempt::RunFromMemory("/bin/true".into()),
        Attempt::Fork,
        Attempt::Unshare,
        Attempt::SharedMemory,
        Attempt::Keys,
        Attempt::RaiseLimit,
        Attempt::Outlive,
    ];
    let word = Box::leak(Box::new(0_u64));
    for pid in [std::process::id(), sibling] {
        let pid = pid as i32;
        all.extend([
            Attempt::Kill(pid),
            Attempt::Kill(-pid),
            Attempt::Tgkill(pid),
            Attempt::Queue(pid),
            Attempt::PidfdSignal(pid),
            Attempt::Owner(pid),
            Attempt::ReadMemory(pid, std::ptr::from_ref(word) as u64),
            Attempt::TakeDescriptor(pid),
            Attempt::Limits(pid),
            Attempt::Priority(pid),
            Attempt::Affinity(pid),
            Attempt::Read(format!("/proc/{pid}/environ").into()),
            Attempt::Read(format!("/proc/{pid}/maps").into()),
            Attempt::List(format!("/proc/{pid}/fd").into()),
        ]);
    }
    // Who is traced stops for a moment; a test that hangs in it is of no use.
    all.push(Attempt::Trace(sibling as i32));
    all
}

/// A process that belongs to nobody's sandbox.
struct Sibling(std::process::Child);

impl Sibling {
    fn new() -> Self {
        use std::os::unix::process::CommandExt;
        // It leads a group, as workers do.
        Self(std::process::Command::new("sleep").arg("600").process_group(0).spawn().unwrap())
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What is refused here because the machine refuses it anyway, so that it proves nothing about the sandbox.
fn proves_nothing(scene: &Scene) -> Vec<Attempt> {
    let sibling = Sibling::new();
    let pool = scene.builder().build().unwrap();
    let all = attempts(sibling.0.id());
    all.into_iter().filter(|what| pool.apply(attempt(what.clone())).unwrap().is_err()).collect()
}

#[test]
fn nothing_gets_out_of_it() {
    let scene = Scene::new();
    let idle = proves_nothing(&scene);
    // Some of these would need what is not there: a group of this program, or the memory of who has none at that address.
    assert!(idle.len() <= 6, "too little is tried where it would succeed: {idle:?}");
    let sibling = Sibling::new();
    let pool = boxed(&scene, Sandbox::new());
    for what in attempts(sibling.0.id()) {
        expect_refused(&pool, what);
    }
    let workers: Vec<u32> = zygote::workers(&pool);
    for other in workers {
        // Which of the two runs it is not known; signals to itself are no harm.
        let own = pool.apply(drill::pid()).unwrap();
        if own != other {
            assert_eq!(pool.apply(attempt(Attempt::Kill(own as i32))).map(|_| ()).ok(), Some(()));
        }
    }
    // The new way to make processes is said to be unknown, so that libraries take the old one.
    assert_eq!(pool.apply(attempt(Attempt::Clone3)).unwrap(), Err(libc::ENOSYS));
    match pool.apply(attempt(Attempt::IoUring)).unwrap() {
        Err(error) => assert_eq!(error, libc::EPERM),
        Ok(()) => panic!("an io_uring was made"),
    }
    expect_allowed(&pool, Attempt::StreamPair);
    assert_eq!(pool.stats().deaths.total(), 0);
    expect_healthy(&pool);
}

#[test]
fn workers_of_a_pool_cannot_reach_each_other() {
    let scene = Scene::new();
    let pool = boxed(&scene, Sandbox::new());
    expect_unreachable(&pool);
    drop(pool);
    // What is written into these files is written into the memory of others.
    expect_unreachable(&boxed(&scene, Sandbox::new().all_files(true)));
}

fn expect_unreachable(pool: &Pool) {
    let workers = zygote::workers(pool);
    let refused = |what: &dyn Fn(i32) -> Attempt| {
        // Each task tries it with both, and one of them is another than itself.
        let tried = pool.map(|n| attempt(what(workers[n % 2] as i32)), 0..40_usize).unwrap();
        assert!(tried.iter().any(|done| matches!(done, Err(error) if DENIED.contains(error))), "{tried:?}");
        let own = pool.apply(drill::pid()).unwrap();
        let other = workers.iter().find(|pid| **pid != own).unwrap();
        assert!(process::is_alive(*other));
    };
    refused(&Attempt::Kill);
    refused(&Attempt::Tgkill);
    refused(&|pid| Attempt::Kill(-pid));
    refused(&|pid| Attempt::Limits(pid));
    refused(&|pid| Attempt::Write(format!("/proc/{pid}/mem").into()));
    refused(&|pid| Attempt::Read(format!("/proc/{pid}/environ").into()));
    expect_healthy(pool);
}

#[test]
fn files_are_out_of_reach() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "text").unwrap();
    let all = [
        Attempt::Read(file.clone()),
        Attempt::Read("/etc/passwd".into()),
        Attempt::Read("/proc/self/environ".into()),
        Attempt::Read("/proc/self/maps".into()),
        Attempt::List(dir.path().into()),
        Attempt::List("/".into()),
        Attempt::List("/proc/self/fd".into()),
        Attempt::Write(file.clone()),
        Attempt::Write(dir.path().join("new")),
        Attempt::Write("/dev/shm/pool-tests-new".into()),
        Attempt::MakeDir(dir.path().join("made")),
        Attempt::Rename(file.clone(), dir.path().join("renamed")),
        Attempt::Link(file.clone(), dir.path().join("linked")),
        Attempt::Truncate(file.clone()),
        Attempt::Open(file.clone(), CUT | libc::O_RDONLY),
        Attempt::Open(file.clone(), CUT | libc::O_RDWR),
        Attempt::Open(file.clone(), CUT | FOR_NOTHING),
        Attempt::Open(file.clone(), FOR_NOTHING),
        Attempt::Open2(file.clone(), CUT | FOR_NOTHING),
        Attempt::Chmod(file.clone()),
        Attempt::Fchmod(file.clone()),
        Attempt::Chown(file.clone()),
    ];
    let scene = Scene::new();
    {
        let pool = scene.builder().build().unwrap();
        for what in all.clone() {
            expect_allowed(&pool, what);
        }
        fs::remove_file("/dev/shm/pool-tests-new").unwrap();
        fs::remove_file(dir.path().join("new")).unwrap();
        fs::write(&file, "text").unwrap();
    }
    for sandbox in [Sandbox::new(), Sandbox::new().scratch(true)] {
        let pool = boxed(&scene, sandbox);
        for what in all.clone() {
            expect_refused(&pool, what);
        }
        // Where files have no attributes of this kind, it would be refused for that, and not like this.
        expect_refused(&pool, Attempt::Xattr(file.clone()));
        expect_healthy(&pool);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn listed_paths_are_within_reach_and_nothing_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["in", "out", "secret", "in/deep"] {
        fs::create_dir(at(name)).unwrap();
    }
    for name in ["in/file", "in/deep/file", "secret/file", "one", "two"] {
        fs::write(at(name), "text").unwrap();
    }
    std::os::unix::fs::symlink(at("secret/file"), at("in/link")).unwrap();
    std::os::unix::fs::symlink(at("secret/file"), at("out/link")).unwrap();
    let scene = Scene::new();
    let sandbox = Sandbox::new().read(at("in")).read(at("one")).write(at("out")).write(at("two"));
    let pool = boxed(&scene, sandbox);
    for what in [
        Attempt::Read(at("in/file")),
        Attempt::Read(at("in/deep/file")),
        Attempt::List(at("in/deep")),
        Attempt::Read(at("one")),
        Attempt::Write(at("out/new")),
        Attempt::Read(at("out/new")),
        Attempt::Rename(at("out/new"), at("out/old")),
        Attempt::MakeDir(at("out/made")),
        Attempt::Write(at("two")),
        Attempt::Read(at("two")),
        Attempt::Open(at("two"), CUT | libc::O_WRONLY),
    ] {
        expect_allowed(&pool, what);
    }
    for what in [
        Attempt::Write(at("in/file")),
        Attempt::Write(at("in/new")),
        Attempt::Write(at("one")),
        Attempt::Truncate(at("in/file")),
        Attempt::Open(at("in/file"), CUT | libc::O_RDONLY),
        Attempt::Open(at("one"), CUT | libc::O_RDONLY),
        Attempt::Open(at("in/file"), CUT | FOR_NOTHING),
        Attempt::Open(at("secret/file"), CUT | FOR_NOTHING),
        Attempt::Open2(at("in/file"), CUT | libc::O_RDONLY),
        Attempt::Read(at("secret/file")),
        Attempt::Read(at("in/../secret/file")),
        Attempt::Read(at("in/link")),
        Attempt::Write(at("out/link")),
        Attempt::List(dir.path().into()),
        Attempt::Link(at("secret/file"), at("out/linked")),
        Attempt::Rename(at("in/file"), at("out/taken")),
        Attempt::Chmod(at("out/new")),
        Attempt::Fchmod(at("in/file")),
        Attempt::Read("/etc/passwd".into()),
    ] {
        expect_refused(&pool, what);
    }
    for name in ["secret/file", "in/file", "one"] {
        assert_eq!(fs::read_to_string(at(name)).unwrap(), "text");
    }
}

#[test]
fn all_files_can_be_left_to_be_read_or_be_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::new();
    let pool = boxed(&scene, Sandbox::new().read("/"));
    expect_allowed(&pool, Attempt::Read("/etc/passwd".into()));
    expect_refused(&pool, Attempt::Write(dir.path().join("new")));
    expect_refused(&pool, Attempt::Socket(libc::AF_INET));
    // Landlock keeps what is behind the memory of others, too.
    expect_refused(&pool, Attempt::Read(format!("/proc/{}/mem", std::process::id()).into()));
    drop(pool);
    let pool = boxed(&scene, Sandbox::new().all_files(true));
    expect_allowed(&pool, Attempt::Write(dir.path().join("new")));
    expect_allowed(&pool, Attempt::Chmod(dir.path().join("new")));
    expect_refused(&pool, Attempt::Socket(libc::AF_INET));
    expect_refused(&pool, Attempt::Fork);
    expect_healthy(&pool);
}

#[test]
fn the_network_and_processes_can_be_left() {
    let scene = Scene::new();
    let pool = boxed(&scene, Sandbox::new().network(true));
    for what in [Attempt::Socket(libc::AF_INET), Attempt::Socket(libc::AF_UNIX), Attempt::DatagramPair] {
        expect_allowed(&pool, what);
    }
    expect_refused(&pool, Attempt::Fork);
    drop(pool);
    let pool = boxed(&scene, Sandbox::new().processes(true).read("/"));
    expect_allowed(&pool, Attempt::Run("/bin/true".into()));
    expect_allowed(&pool, Attempt::Fork);
    let supervisor = std::process::id() as i32;
    for what in [
        Attempt::Socket(libc::AF_INET),
        Attempt::Kill(supervisor),
        Attempt::PidfdSignal(supervisor),
        Attempt::Owner(supervisor),
        Attempt::Unshare,
    ] {
        expect_refused(&pool, what);
    }
    assert_eq!(pool.apply(shell("exec 2>&1; echo hi; echo > /tmp/pool-tests-new")).unwrap().0, "hi");
    assert!(!Path::new("/tmp/pool-tests-new").exists());
    expect_healthy(&pool);
    drop(pool);
    // A program that cannot be read cannot be executed.
    let pool = boxed(&scene, Sandbox::new().processes(true).read("/usr/share"));
    expect_refused(&pool, Attempt::Run("/bin/true".into()));
}

/// What a shell prints first, and how it ends.
#[task]
fn shell(script: &str) -> (String, Option<i32>) {
    let output = std::process::Command::new("/bin/sh").args(["-c", script]).output().expect("a shell");
    let first = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
    (first, output.status.code())
}

#[test]
fn a_child_that_is_allowed_dies_with_its_worker() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).sandbox(Sandbox::new().processes(true).read("/")).build().unwrap();
    let child = pool.apply(drill::grandchild(600, "return".to_owned())).unwrap();
    assert!(process::is_alive(child));
    process::send(pool.workers()[0].pid.unwrap(), Signal::SIGKILL);
    wait_until("the child is gone", || !process::is_alive(child));
    expect_healthy(&pool);
}

#[test]
fn every_mode_and_large_data_work_inside() {
    for transport in [Transport::Rings, Transport::Pipes] {
        let scene = Scene::new();
        let pool = scene.builder().transport(transport).sandbox(Sandbox::new()).build().unwrap();
        for len in [0, 1, 4096, 64 << 10, 1 << 20, 40 << 20] {
            let bytes = vec![5; len];
            assert_eq!(pool.apply(drill::echo_bytes(bytes.clone())).unwrap(), bytes);
        }
        let shared = pool.apply(share(3 << 20)).unwrap();
        assert!(shared.len() == 3 << 20 && shared.iter().all(|byte| *byte == 9));
        for mode in Mode::ALL {
            let segv = || play(9, Part::Segv);
            let death = expect_death(
                Trial { victim: segv, innocent: |n| play(n, Part::Innocent) }.run(&pool, mode, right),
            );
            assert!(is_signal(&death.cause, 11), "{mode:?}: {death}");
            expect_healthy(&pool);
        }
    }
}

/// Makes bytes that are not copied.
#[task]
fn share(len: usize) -> SharedBytes {
    SharedBytes::from(vec![9; len])
}

#[test]
fn panics_states_output_threads_and_recycling_work_inside() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).sandbox(Sandbox::new()).max_tasks_per_worker(3).build().unwrap();
    for round in 0..4 {
        match pool
            .apply(play(1, Part::Say("before it".to_owned(), Box::new(Part::Panic("oh no".to_owned())))))
        {
            Err(error @ TaskError::Panicked { .. }) => {
                let text = error.to_string();
                assert!(text.contains("oh no") && text.contains(".rs:"), "{text}");
                assert!(
                    error.output().is_some_and(|output| output.stderr.contains("before it")),
                    "{error:?}"
                );
            }
            other => panic!("{round}: {other:?}"),
        }
        pool.apply(drill::count()).unwrap();
        assert_eq!(pool.apply(with_threads(4)).unwrap(), 4);
    }
    assert!(pool.stats().retired.tasks >= 3, "{:?}", pool.stats());
    assert_eq!(pool.stats().deaths.total(), 0);
    pool.close();
    pool.join();
}

/// Starts threads that use a hash map and the clock, and are waited for.
#[task]
fn with_threads(count: usize) -> usize {
    let threads: Vec<_> = (0..count)
        .map(|n| {
            std::thread::spawn(move || {
                std::collections::HashMap::from([(n, std::time::Instant::now())]).len()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("it does not panic")).sum()
}

#[test]
fn limits_and_timeouts_work_inside() {
    let scene = Scene::new();
    let cpu = std::time::Duration::from_millis(200);
    let limits = WorkerLimits::new().cpu_time(cpu).open_files(64).file_size(1 << 20);
    let sandbox = Sandbox::new().scratch(true);
    let pool = scene.builder().sandbox(sandbox).limits(limits).build().unwrap();
    let death = expect_death(pool.apply(drill::spin_for_ever()));
    assert!(matches!(death.cause, pool_core::DeathCause::CpuLimit { .. }), "{death}");
    let death = expect_death(pool.apply(fill_scratch(2 << 20)));
    assert!(matches!(death.cause, pool_core::DeathCause::FileSizeLimit { .. }), "{death}");
    match pool.apply(drill::hang().timeout(cpu)) {
        Err(TaskError::TimedOut { .. }) => {}
        other => panic!("{other:?}"),
    }
    expect_healthy(&pool);
}

/// Writes into the scratch directory; its path.
#[task]
fn fill_scratch(bytes: usize) -> PathBuf {
    let dir = std::env::temp_dir();
    fs::create_dir_all(dir.join("within")).expect("it is writable");
    fs::write(dir.join("within/file"), vec![1; bytes]).expect("it is writable");
    dir
}

#[test]
fn each_worker_has_a_scratch_directory_that_goes_with_it() {
    let scene = Scene::new();
    let pool = boxed(&scene, Sandbox::new().scratch(true));
    let scratch = |pool: &Pool| {
        let mut dirs: Vec<PathBuf> = pool.map(|_| fill_scratch(100), 0..200).unwrap();
        dirs.sort();
        dirs.dedup();
        dirs
    };
    let mut first = scratch(&pool);
    wait_until("both workers have written", || {
        first.extend(scratch(&pool));
        first.sort();
        first.dedup();
        first.len() == 2
    });
    for dir in &first {
        assert!(dir.join("within/file").exists(), "{dir:?}");
    }
    // What is the one's is not the other's.
    let refused = pool.map(|n| attempt(Attempt::List(first[n % 2].clone())), 0..40_usize).unwrap();
    assert!(refused.iter().any(Result::is_err));
    for pid in zygote::workers(&pool) {
        process::send(pid, Signal::SIGKILL);
    }
    wait_until("they are gone with their workers", || first.iter().all(|dir| !dir.exists()));
    let second = scratch(&pool);
    assert!(second.iter().all(|dir| !first.contains(dir)));
    drop(pool);
    assert!(second.iter().all(|dir| !dir.exists()), "the end of the pool waits for it");
}

#[test]
fn the_environment_is_empty_unless_it_is_to_be_inherited() {
    let scene = Scene::new();
    let pool = boxed(&scene, Sandbox::new().scratch(true));
    let names = pool.apply(variables()).unwrap();
    let expected = [scene.mark().split_once('=').unwrap().0, "POOL_WORKER_DEPTH", "TMPDIR"];
    assert!(names.iter().all(|name| expected.contains(&&name[..])), "{names:?}");
    drop(pool);
    let pool = boxed(&scene, Sandbox::new().inherit_env(true));
    assert!(pool.apply(variables()).unwrap().contains(&"PATH".to_owned()));
}

/// The names of all environment variables.
#[task]
fn variables() -> Vec<String> {
    std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn inherited_descriptors_lead_nowhere() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).sandbox(Sandbox::new()).build().unwrap();
    let mut expected = vec![libc::S_IFIFO; 5];
    expected.extend([libc::S_IFCHR, libc::S_IFSOCK]);
    expected.sort_unstable();
    assert_eq!(pool.apply(descriptors()).unwrap(), expected, "five pipes, /dev/null and a socket");
    let sibling = Sibling::new();
    // Whatever comes of it for the task, nobody else is harmed.
    for from in [0, 3] {
        let innocents: Vec<_> = (0..20).map(|n| pool.apply_async(innocent(n))).collect();
        match pool.apply(scrawl(from)) {
            Ok(took) => assert!(took > 0),
            Err(error) => assert!(matches!(error, TaskError::WorkerDied(_)), "{error}"),
        }
        for (n, handle) in innocents.into_iter().enumerate() {
            assert_eq!(handle.get().unwrap(), sevens(n as u64));
        }
        expect_healthy(&pool);
    }
    assert!(process::is_alive(sibling.0.id()));
}

#[test]
fn privileges_are_gone_and_the_supervisors_end_is_the_workers() {
    let scene = Scene::new();
    for start in [StartMethod::Spawn, StartMethod::Zygote] {
        let pool = scene.builder().start(start).sandbox(Sandbox::new()).build().unwrap();
        if start == StartMethod::Zygote {
            zygote::replace_workers(&pool);
        }
        for pid in zygote::workers(&pool) {
            for (key, value) in
                [("CapEff", 0), ("CapPrm", 0), ("CapInh", 0), ("NoNewPrivs", 1), ("Seccomp", 2)]
            {
                assert_eq!(process::status(pid, key, 16), Some(value), "{key}");
            }
        }
        assert_eq!(pool.apply(death_signal()).unwrap(), libc::SIGKILL);
        expect_refused(&pool, Attempt::Read("/etc/passwd".into()));
        expect_refused(&pool, Attempt::Fork);
        expect_healthy(&pool);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_door_for_other_architectures_is_shut() {
    let scene = Scene::new();
    let pool = boxed(&scene, Sandbox::new());
    let death = expect_death(pool.apply(pool_tests::breakout::old_door()));
    // By the filter, or by the processor where the kernel has no such door.
    assert!(is_signal(&death.cause, libc::SIGSYS) || is_signal(&death.cause, libc::SIGSEGV), "{death}");
    expect_healthy(&pool);
}

#[test]
fn a_pool_inside_is_refused_and_not_waited_for() {
    let scene = Scene::new();
    let pool = boxed(&scene, Sandbox::new());
    match pool.apply(drill::nested(1, 1)) {
        Err(TaskError::Panicked { .. }) => {}
        other => panic!("{other:?}"),
    }
    expect_healthy(&pool);
}

fn refusal(builder: Builder) -> String {
    match builder.build() {
        Err(BuildError::Setting { setting: "sandbox", why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let scene = Scene::new();
    let boxed = |sandbox| scene.builder().sandbox(sandbox);
    assert!(refusal(boxed(Sandbox::new().read("/no/such/path"))).contains("/no/such/path"));
    assert!(refusal(boxed(Sandbox::new().read("/").all_files(true))).contains("all_files"));
    let many = (0..20).fold(Sandbox::new(), |sandbox, _| sandbox.read(format!("/{}", "../".repeat(1000))));
    assert!(refusal(boxed(many)).contains("bytes"));
    // One that vanishes before a worker starts.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    fs::create_dir(&path).unwrap();
    let builder = boxed(Sandbox::new().read(&path)).min_workers(0);
    let pool = builder.build().unwrap();
    fs::remove_dir(&path).unwrap();
    match pool.apply(drill::add(1, 1)) {
        Err(TaskError::PoolBroken(reason)) => {
            assert!(reason.to_string().contains("gone"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn threads_that_would_stay_outside_break_the_pool() {
    let scene = Scene::new();
    let pool = scene.builder().worker(threaded()).sandbox(Sandbox::new()).build().unwrap();
    match pool.apply(drill::add(1, 1)) {
        Err(TaskError::PoolBroken(reason)) => match &*reason {
            BrokenReason::CannotStart { why, .. } => assert!(why.contains("threads already"), "{why}"),
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kernel_that_lacks_something_is_refused_unless_the_best_is_good_enough() {
    let scene = Scene::new();
    let no_landlock = [libc::SYS_landlock_create_ruleset];
    let no_seccomp = [libc::SYS_seccomp];
    let build = |sandbox| scene.builder().sandbox(sandbox).build();
    let why = without(&no_landlock, || refusal(scene.builder().sandbox(Sandbox::new())));
    assert!(why.contains("Landlock") && why.contains("best_effort"), "{why}");
    let why = without(&no_seccomp, || refusal(scene.builder().sandbox(Sandbox::new())));
    assert!(why.contains("seccomp") && why.contains("best_effort"), "{why}");

    let pool = without(&no_landlock, || build(Sandbox::new().best_effort())).unwrap();
    expect_allowed(&pool, Attempt::Read("/etc/passwd".into()));
    expect_refused(&pool, Attempt::Socket(libc::AF_INET));
    expect_refused(&pool, Attempt::Kill(std::process::id() as i32));
    expect_healthy(&pool);
    drop(pool);
    // It is Landlock that protects the memory of others, also where files are left alone.
    let why = without(&no_landlock, || refusal(scene.builder().sandbox(Sandbox::new().all_files(true))));
    assert!(why.contains("Landlock"), "{why}");
    let pool = without(&no_seccomp, || build(Sandbox::new().best_effort())).unwrap();
    expect_refused(&pool, Attempt::Read("/etc/passwd".into()));
    expect_allowed(&pool, Attempt::Fork);
    expect_healthy(&pool);
}

#[test]
fn half_a_sandbox_is_told() {
    let scene = Scene::new();
    let calls = [libc::SYS_landlock_create_ruleset, libc::SYS_seccomp];
    let said = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&said);
    let collect = Output::capture(move |line| heard.lock().unwrap().push_str(line.text));
    let build = || scene.builder().output(collect).sandbox(Sandbox::new().best_effort()).build();
    let pool = without(&calls, build).unwrap();
    expect_healthy(&pool);
    wait_until("it is said", || {
        let said = said.lock().unwrap();
        said.contains("no Landlock") && said.contains("no seccomp filter")
    });
}
