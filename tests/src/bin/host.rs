//! A program with a pool, for what cannot be tried in the test program itself: `host PLAY WORKER`.
//!
//! | play | what it does |
//! |---|---|
//! | `victim` | makes its workers idle, busy, and parents, prints the pids of all, and waits to be killed |
//! | `forked` | as `victim`, with workers that a zygote has forked, whose pid comes last |
//! | `blocked` | as above, with workers that block all signals |
//! | `ignores-sigchld` | runs tasks that live and die with SIGCHLD ignored, and prints what came of them |
//! | `waits-for-any-child` | as above, while a thread reaps any child that it finds |
//! | `forks` | forks, and uses pool and handle in the child; exits with the child's status |
//! | `forks-while-leading` | forks again and again, while threads wait and submit; exits with the first child's failure |
//! | `few-descriptors` | runs out of descriptors while workers are to be replaced, and has them again later |
//! | `large-results-without-descriptors` | has a worker return large results while there is no descriptor for them, and then again |
//! | `unprivileged` | builds a pool whose workers are to be nicer than it may make them, and says how that ends |
//! | `gives-up-root` | becomes another user when its workers have started, and then has to kill them |
//! | `descriptors-on-the-way` | starts a pool while too many descriptors of its user are in sockets, and takes them out |
//! | `full-log` | forwards what workers print to a file that may not become as long |
//! | `full-output` | as above, and what it prints itself goes there, too |
//! | `late-reader` | forwards what workers print to a pipe that is non-blocking, and read when it is full |
//! | `terminal` | has a task ask something on the terminal that this program has |
//! | `interrupted` | has a map, a handle and a submitter wait until SIGINT or SIGTERM ends it, and says how they ended |
//! | `interrupted-and-returns` | as above, and then returns from `main` |
//! | `interrupted-twice` | as above, while what the first signal does is held up |
//! | `interrupted-where-ignored` | as `interrupted`, but ignores SIGINT |
//! | `interrupted-children` | as `interrupted`, after it has forked a child that waits, and one that has a pool of its own |
//! | `progress` | runs two batches at once, each with a progress bar |
//! | `masked` | looks at a worker from outside after it has set signals, limits and descriptors in unusual ways |
//!
//! It prints one line for each finding, and exits with status 0 when it could play to the end.

use std::future::{Future, IntoFuture};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use pool_core::{
    BuildError, Builder, Output, Pool, Progress, RestartPolicy, StartMethod, TaskError, WorkerExe,
};
use pool_tests::odd::ask_the_terminal;
use pool_tests::{Part, play, process, right, start_method, transport, wait_until, zygote};
use pool_worker::drill;

fn main() {
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, worker] = &args[..] else {
        eprintln!("usage: host PLAY WORKER");
        std::process::exit(2);
    };
    let builder = builder(Path::new(worker));
    // A shell that starts tests in the background has them ignore it.
    set_action(Signal::SIGINT, SigHandler::SigDfl);
    match name.as_str() {
        "victim" => victim(&builder, false, false),
        "forked" => victim(&builder.start(StartMethod::Zygote), false, true),
        "blocked" => victim(&builder, true, false),
        "ignores-sigchld" => ignores_sigchld(&builder),
        "waits-for-any-child" => waits_for_any_child(&builder),
        "forks" => forks(&builder),
        "forks-while-leading" => forks_while_leading(&builder),
        "few-descriptors" => few_descriptors(&builder),
        "large-results-without-descriptors" => large_results_without_descriptors(&builder),
        "unprivileged" => unprivileged(&builder),
        "gives-up-root" => gives_up_root(&builder),
        "descriptors-on-the-way" => descriptors_on_the_way(&builder),
        "full-log" => full_log(&builder),
        "full-output" => full_output(&builder),
        "late-reader" => late_reader(&builder),
        "terminal" => terminal(&builder),
        "interrupted" => {
            interrupted(&builder);
            wait_for_ever();
        }
        "interrupted-and-returns" => interrupted(&builder),
        "interrupted-twice" => interrupted_twice(&builder),
        "interrupted-where-ignored" => {
            set_action(Signal::SIGINT, SigHandler::SigIgn);
            interrupted(&builder);
            wait_for_ever();
        }
        "interrupted-children" => interrupted_children(&builder),
        "progress" => progress(&builder),
        "masked" => masked(&builder),
        other => {
            eprintln!("host: `{other}` is no play");
            std::process::exit(2);
        }
    }
}

fn builder(worker: &Path) -> Builder {
    let restart = RestartPolicy {
        first_delay: Duration::from_millis(2),
        max_delay: Duration::from_millis(50),
        ..RestartPolicy::default()
    };
    let builder = Pool::builder()
        .name("host")
        .transport(transport())
        .start(start_method())
        .worker(WorkerExe::path(worker));
    builder.output(Output::Null).restart(restart)
}

/// Runs two batches that take about 300 ms; one item of the first one fails.
fn progress(builder: &Builder) {
    let pool = builder.clone().workers(2).build().expect("a pool");
    let run = |name: &str, items, victim| {
        let part = |n| if n == victim { Part::Exit(3) } else { Part::Sleep(3) };
        pool.batch().progress(Progress::bar(name)).map_settled(|n| play(n, part(n)), 0..items)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run("first", 100, 40));
        scope.spawn(|| run("second", 60, u64::MAX));
    });
    say("done");
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the test reads it");
}

/// Prints the pids of workers and grandchildren, and waits for its end.
fn victim(builder: &Builder, blocking: bool, forking: bool) {
    let pool = builder.clone().workers(4).build().expect("a pool");
    wait_until("every worker is ready", || pool.stats().workers_ready == 4);
    let zygote = forking.then(|| zygote::replace_workers(&pool));
    // Two workers will be busy, and two idle, one of which has a child.
    let child = pool.apply(drill::grandchild(600, "return".to_owned())).expect("it can spawn");
    let hang = if blocking { drill::hang_blocking_signals } else { drill::hang };
    let _hanging: Vec<_> = (0..2).map(|_| pool.apply_async(hang())).collect();
    wait_until("two are busy", || pool.workers().iter().filter(|worker| worker.task.is_some()).count() == 2);
    let pids = pool.workers().into_iter().filter_map(|worker| worker.pid).chain([child]).chain(zygote);
    say(&pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" "));
    loop {
        std::thread::park();
    }
}

/// Runs tasks that end in every way; says how each ended.
fn report(builder: &Builder) {
    let pool = builder.clone().workers(2).build().expect("a pool");
    let results = pool.map_settled(
        |n| {
            let part = match n {
                3 => Part::Segv,
                5 => Part::Exit(7),
                _ => Part::Innocent,
            };
            play(n, part)
        },
        0..100,
    );
    let right =
        (0..).zip(&results).filter(|(n, result)| matches!(result, Ok(answer) if *answer == right(*n)));
    say(&format!("{} right", right.count()));
    for n in [3, 5] {
        match &results[n] {
            Err(TaskError::WorkerDied(death)) => say(&format!("{n}: {}", death.cause)),
            other => say(&format!("{n}: {other:?}")),
        }
    }
    let late = pool.apply(drill::hang().timeout(Duration::from_millis(100)));
    say(&format!(
        "hang: {}",
        if matches!(late, Err(TaskError::TimedOut { .. })) { "timed out" } else { "?" }
    ));
    pool.join();
    drop(pool);
    say(&format!("{} children left", process::children().len()));
}

fn ignores_sigchld(builder: &Builder) {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    unsafe { sigaction(Signal::SIGCHLD, &ignore) }.expect("it can be ignored");
    report(builder);
}

fn waits_for_any_child(builder: &Builder) {
    std::thread::spawn(|| {
        loop {
            match waitpid(None, Some(WaitPidFlag::empty())) {
                Ok(_) => {}
                // There is no child at the moment.
                Err(_) => std::thread::yield_now(),
            }
        }
    });
    report(builder);
}

fn forks(builder: &Builder) {
    let pool = builder.clone().workers(2).queue_limit(1).build().expect("a pool");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let journal = dir.path().join("journal");
    let store = pool_core::Store::open(dir.path().join("store")).expect("a store");
    let mut stored = pool.batch().store(&store).imap(|n| play(n, Part::Innocent), 0..50);
    assert!(stored.next().expect("the first").is_ok());
    let mut noted = pool.batch().journal(&journal).imap(|n| play(n, Part::Innocent), 0..50);
    assert!(noted.next().expect("the first").is_ok());
    let running = pool.apply_async(play(1, Part::Cooperate(20_000)));
    wait_until("it runs", || pool.workers().iter().any(|worker| worker.task.is_some()));
    let mut lazy = pool.imap(|n| play(n, Part::Cooperate(20_000)), 0..3);
    assert!(lazy.next_timeout(Duration::ZERO).is_err(), "they are held");
    let mut before =
        pool_core::as_completed((0..2).map(|n| pool.apply_async(play(n, Part::Cooperate(20_000)))));
    // SAFETY: the child uses what a forked child of a threaded program may: it is this library's promise that its handles do
    // not lock, and the allocator of glibc works after a fork.
    match unsafe { fork() }.expect("room for a child") {
        ForkResult::Child => {
            let is_forked = |error: &TaskError| matches!(error, TaskError::Forked);
            let checks = [
                matches!(pool.apply(play(1, Part::Innocent)), Err(error) if is_forked(&error)),
                matches!(pool.map(|n| play(n, Part::Innocent), 0..3), Err(error) if is_forked(&error.error)),
                pool.map_settled(|n| play(n, Part::Innocent), 0..3)
                    .iter()
                    .all(|result| result.as_ref().is_err_and(is_forked)),
                pool.try_apply_async(play(1, Part::Innocent))
                    .is_ok_and(|handle| matches!(handle.get(), Err(error) if is_forked(&error))),
                pool_core::wait_any(std::slice::from_ref(&running)) == Some(0),
                pool_core::wait_all_timeout(std::slice::from_ref(&running), Duration::ZERO),
                before.by_ref().all(|(_, result)| result.as_ref().is_err_and(is_forked)),
                pool_core::as_completed([pool.apply_async(play(1, Part::Innocent))])
                    .all(|(index, result)| index == 0 && result.as_ref().is_err_and(is_forked)),
                pool.workers().is_empty() && pool.stats().submitted == 0,
                matches!(pool.resize(3), Err(BuildError::Forked)),
                pool.insights().workers.is_empty(),
                pool.exit_values::<drill::Counter, u64>().is_empty(),
                matches!(lazy.next(), Some(Err(error)) if is_forked(&error)) && lazy.next().is_none(),
                {
                    let mut fresh = pool.imap_unordered(|n| play(n, Part::Innocent), 0..3);
                    matches!(fresh.next(), Some(Err(error)) if is_forked(&error)) && fresh.next().is_none()
                },
                {
                    let is_told = matches!(noted.next(), Some(Err(error)) if is_forked(&error));
                    drop(noted);
                    is_told
                },
                matches!(pool.batch().journal(&journal).map(|n| play(n, Part::Innocent), 0..3), Err(error) if is_forked(&error.error)),
                {
                    let is_told = matches!(stored.next(), Some(Err(error)) if is_forked(&error));
                    drop(stored);
                    is_told
                },
                matches!(pool.apply(play(70, Part::Innocent).stored(&store)), Err(error) if is_forked(&error)),
                running.is_finished() && running.wait_timeout(Duration::from_secs(1)),
                {
                    running.cancel();
                    matches!(running.get(), Err(error) if is_forked(&error))
                },
                {
                    pool.join();
                    pool.terminate();
                    drop(pool);
                    true
                },
            ];
            let failed = checks.iter().position(|passed| !passed);
            // SAFETY: it ends the child without exit handlers, which belong to the parent.
            unsafe { libc::_exit(failed.map_or(0, |check| 10 + check as i32)) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).expect("it is our child");
            let WaitStatus::Exited(_, code) = status else { panic!("the child: {status:?}") };
            say(&format!("child exited with {code}"));
            // What the child did has touched nothing.
            wait_until("it still runs", || pool.workers().iter().any(|worker| worker.task.is_some()));
            running.cancel();
            assert!(pool.insights().workers.len() == 2 && lazy.next_timeout(Duration::ZERO).is_err());
            drop(lazy);
            assert!(before.next_timeout(Duration::ZERO).is_err(), "they are held");
            drop(before);
            assert_eq!(stored.by_ref().filter(Result::is_ok).count(), 49);
            assert_eq!(noted.by_ref().filter(Result::is_ok).count(), 49);
            let results = pool.batch().journal(&journal).map(|n| play(n, Part::Innocent), 0..50);
            let results = results.expect("nobody was harmed");
            say(&format!("{} right", (0..).zip(results).filter(|(n, answer)| *answer == right(*n)).count()));
        }
    }
}

/// The lead and the lock are somebody's at each fork, and in the child nobody is there to give them up.
fn forks_while_leading(builder: &Builder) {
    const FORKS: u64 = 60;
    let pool = builder.clone().workers(2).build().expect("a pool");
    let over = AtomicBool::new(false);
    let long = pool.apply_async(play(1, Part::Cooperate(60_000)));
    let failed = std::thread::scope(|scope| {
        let leader = scope.spawn(|| long.wait_timeout(Duration::from_secs(60)));
        wait_until("it runs", || pool.workers().iter().any(|worker| worker.task.is_some()));
        // Somebody who follows, or leads while the other is late, and has the lock most of the time.
        let busy = scope.spawn(|| {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                assert_eq!(pool.apply(play(n, Part::Innocent)).expect("nobody was harmed"), right(n));
                n += 1;
            }
            n
        });
        let mut failed = 0;
        for n in 0..FORKS {
            let own = pool.apply_async(play(n, Part::Innocent));
            // SAFETY: as above.
            match unsafe { fork() }.expect("room for a child") {
                ForkResult::Child => {
                    let is_forked = |error: &TaskError| matches!(error, TaskError::Forked);
                    let checks = [
                        matches!(pool.apply(play(1, Part::Innocent)), Err(error) if is_forked(&error)),
                        pool.map(|n| play(n, Part::Innocent), 0..3)
                            .is_err_and(|error| is_forked(&error.error)),
                        long.wait_timeout(Duration::from_secs(60)) && long.is_finished(),
                        own.get().is_err_and(|error| is_forked(&error)),
                        pool.stats().submitted == 0,
                    ];
                    let failed = checks.iter().position(|passed| !passed);
                    // SAFETY: it ends the child without exit handlers, which belong to the parent.
                    unsafe { libc::_exit(failed.map_or(0, |check| 10 + check as i32)) }
                }
                ForkResult::Parent { child } => {
                    let status = waitpid(child, None).expect("it is our child");
                    let WaitStatus::Exited(_, code) = status else { panic!("the child: {status:?}") };
                    failed = if failed == 0 { code } else { failed };
                    assert_eq!(own.get().expect("nobody was harmed"), right(n));
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        assert!(busy.join().expect("it does not panic") > 0);
        assert!(!leader.is_finished());
        long.cancel();
        assert!(leader.join().expect("it does not panic"));
        failed
    });
    say(&format!("children exited with {failed}"));
    let results = pool.map(|n| play(n, Part::Innocent), 0..50).expect("nobody was harmed");
    say(&format!("{} right", (0..).zip(results).filter(|(n, answer)| *answer == right(*n)).count()));
}

fn few_descriptors(builder: &Builder) {
    let pool = builder.clone().workers(2).build().expect("a pool");
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 256, hard).expect("a lower limit");
    // Every descriptor is taken, so no replacement can be spawned.
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    // One worker dies; the other goes on alone.
    let death = pool.apply(play(1, Part::Segv));
    say(&format!("death: {}", matches!(death, Err(TaskError::WorkerDied(_)))));
    let spawned = pool.stats().spawned;
    wait_until("a spawn has failed and was tried again", || pool.stats().spawned >= spawned + 2);
    let results = pool.map(|n| play(n, Part::Innocent), 0..50).expect("one worker is left");
    say(&format!("{} right", (0..).zip(results).filter(|(n, answer)| *answer == right(*n)).count()));
    drop(hoard);
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    say("full size again");
}

fn large_results_without_descriptors(builder: &Builder) {
    const LARGE: u64 = 1 << 20;
    let pool = builder.clone().workers(1).build().expect("a pool");
    wait_until("the worker is ready", || pool.stats().workers_ready == 1);
    let pid = pool.apply(drill::pid()).expect("an innocent");
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 256, hard).expect("a lower limit");
    let mut hoard = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        hoard.push(file);
    }
    for _ in 0..2 {
        let outcome = pool.apply(drill::make_bytes(LARGE));
        let told = match outcome {
            Err(TaskError::NoResources { message, .. }) => message.contains("os error 24"),
            other => panic!("{other:?}"),
        };
        say(&format!("told {told}"));
    }
    let small = pool.apply(drill::make_bytes(1000)).expect("it needs no descriptor");
    say(&format!("small {}", small.len()));
    drop(hoard);
    for _ in 0..2 {
        let large = pool.apply(drill::make_bytes(LARGE)).expect("there are descriptors again");
        say(&format!("large {}", large.len()));
    }
    let same = pool.apply(drill::pid()).expect("an innocent") == pid;
    say(&format!("same worker {same}, {} deaths", pool.stats().deaths.total()));
}

/// The program has no privilege. Its worker executable is first as it is, and then one that might have some of its own.
fn unprivileged(builder: &Builder) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NICE).expect("a limit");
    setrlimit(Resource::RLIMIT_NICE, 0, hard).expect("a lower limit");
    match builder.clone().nice(-5).build() {
        Err(error) => say(&format!("not built: {error}")),
        Ok(pool) => say(&format!("built: {:?}", pool.apply(drill::pid()))),
    }
    drop(builder.clone().nice(1).build().expect("everybody may be nicer"));
    let worker = std::env::args().nth(2).expect("the worker");
    let dir = tempfile::tempdir().expect("room");
    let copy = dir.path().join("worker");
    std::fs::copy(worker, &copy).expect("room");
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o4755)).expect("it is ours");
    let restart = RestartPolicy { first_delay: Duration::from_secs(600), ..RestartPolicy::default() };
    let builder = builder.clone().worker(WorkerExe::path(&copy)).restart(restart);
    let pool = builder.workers(1).nice(-5).build().expect("it may have privileges of its own");
    match pool.apply(drill::pid()) {
        Err(TaskError::PoolBroken(reason)) => say(&format!("broken: {reason}")),
        other => say(&format!("not broken: {other:?}")),
    }
    say(&format!("{} spawned", pool.stats().spawned));
}

/// Kills workers and a zygote that belong to root, and is nobody.
fn gives_up_root(builder: &Builder) {
    let pools = [StartMethod::Spawn, StartMethod::Zygote].map(|method| {
        let pool = builder.clone().start(method).workers(3).build().expect("a pool");
        wait_until("every worker is ready", || pool.stats().workers_ready == 3);
        if method == StartMethod::Zygote {
            zygote::replace_workers(&pool);
        }
        pool
    });
    become_nobody();
    for pool in pools {
        let running = || pool.workers().into_iter().find(|worker| worker.task.is_some());
        let late = pool.apply_async(drill::hang().timeout(Duration::from_secs(2)));
        wait_until("it runs", || running().is_some());
        let hung = running().and_then(|worker| worker.pid).expect("it lives");
        let is_late = matches!(late.get(), Err(TaskError::TimedOut { .. }));
        wait_until("it is dead", || process::state(hung).is_none());
        let pid = pool.apply(drill::pid()).expect("two others are there");
        let _hanging = pool.apply_async(drill::hang());
        wait_until("it runs", || running().is_some());
        drop(pool);
        say(&format!("told {is_late}, another one {}", pid != hung));
    }
    say(&format!("{} children left", process::children().len()));
}

fn become_nobody() {
    nix::unistd::setgid(65534.into()).expect("it is root");
    nix::unistd::setuid(65534.into()).expect("it is root");
}

/// The kernel counts the descriptors of a user that have been sent and not received, and refuses (`ETOOMANYREFS`) when there are more of
/// them than descriptors may be open. Root is never refused.
fn descriptors_on_the_way(builder: &Builder) {
    use nix::sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
    };
    use std::os::fd::{AsFd, AsRawFd};
    if nix::unistd::geteuid().is_root() {
        become_nobody();
    }
    let restart = RestartPolicy {
        max_restarts: u32::MAX,
        first_delay: Duration::from_millis(2),
        max_delay: Duration::from_millis(10),
        ..RestartPolicy::default()
    };
    let builder = builder.clone().workers(1).restart(restart);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).expect("a lower limit");
    let (sender, receiver) =
        socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC).expect("a pair");
    let many = [std::io::stdin().as_fd().as_raw_fd(); 60];
    let hoard = || {
        let rights = [ControlMessage::ScmRights(&many)];
        sendmsg::<()>(sender.as_raw_fd(), &[std::io::IoSlice::new(&[0])], &rights, MsgFlags::empty(), None)
    };
    let refused = (0..10).find_map(|_| hoard().err());
    say(&format!("refused: {refused:?}"));
    let pool = builder.build().expect("a pool");
    let task = pool.apply_async(play(1, Part::Innocent));
    wait_until("starts have failed", || pool.stats().spawned >= 3 || task.is_finished());
    drop((sender, receiver));
    say(&format!("right: {}", task.get().is_ok_and(|answer| answer == right(1))));
}

/// What is over `RLIMIT_FSIZE` is an error for who asks for it, and a signal that ends who does not.
fn full_log(builder: &Builder) {
    const LIMIT: u64 = 1 << 20;
    let log = tempfile::tempfile().expect("room");
    nix::unistd::dup2_stderr(&log).expect("it is open");
    let pool = builder.clone().workers(1).output(Output::Forward).build().expect("a pool");
    wait_until("the worker is ready", || pool.stats().workers_ready == 1);
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT, hard).expect("a lower limit");
    pool.apply(drill::print_stderr(2000, "x".repeat(1000))).expect("it prints");
    drop(pool);
    say(&format!("the log is full: {}", log.metadata().expect("it is open").len() == LIMIT));
}

/// The same for stdout, which the standard library writes out when the program ends.
fn full_output(builder: &Builder) {
    const LIMIT: u64 = 1 << 20;
    let mut own = std::fs::File::from(nix::unistd::dup(std::io::stdout()).expect("it is open"));
    let file = tempfile::tempfile().expect("room");
    nix::unistd::dup2_stdout(&file).expect("it is open");
    let pool = builder.clone().workers(1).output(Output::Forward).build().expect("a pool");
    wait_until("the worker is ready", || pool.stats().workers_ready == 1);
    print!("the program itself, ");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
    setrlimit(Resource::RLIMIT_FSIZE, LIMIT, hard).expect("a lower limit");
    pool.apply(drill::print_stdout(2000, "x".repeat(1000))).expect("it prints");
    drop(pool);
    let is_full = file.metadata().expect("it is open").len() == LIMIT;
    let mut start = [0; 21];
    file.read_exact_at(&mut start, 0).expect("it is long");
    writeln!(own, "it is full: {is_full}, and begins with {:?}", str::from_utf8(&start)).expect("a reader");
}

/// Whoever shares a pipe or a terminal with this program may set it to non-blocking.
fn late_reader(builder: &Builder) {
    use std::io::BufRead;
    use std::os::fd::{AsFd, AsRawFd};
    const LINES: u64 = 2000;
    let (reader, writer) = std::io::pipe().expect("descriptors are left");
    pool_ipc::set_nonblocking(writer.as_fd()).expect("it is open");
    let own = nix::unistd::dup(std::io::stderr()).expect("it is open");
    nix::unistd::dup2_stderr(&writer).expect("it is open");
    drop(writer);
    let pool = builder.clone().workers(1).output(Output::Forward).build().expect("a pool");
    let prints = pool.apply_async(drill::print_stderr(LINES, "x".repeat(1000)));
    wait_until("the pipe is full", || {
        let mut waiting: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int.
        let asked = unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut waiting) };
        asked == 0 && waiting > 60_000
    });
    let reads =
        std::thread::spawn(move || std::io::BufReader::new(reader).lines().map_while(Result::ok).count());
    prints.get().expect("it prints");
    drop(pool);
    nix::unistd::dup2_stderr(&own).expect("it is open");
    say(&format!("all lines: {}", reads.join().expect("it reads") as u64 == LINES));
}

fn terminal(builder: &Builder) {
    say(&format!("a terminal: {}", std::fs::File::open("/dev/tty").is_ok()));
    for method in [StartMethod::Spawn, StartMethod::Zygote] {
        let pool = builder.clone().start(method).workers(1).build().expect("a pool");
        if method == StartMethod::Zygote {
            zygote::replace_workers(&pool);
        }
        let asks = pool.apply_async(ask_the_terminal());
        let has_ended = asks.wait_timeout(Duration::from_secs(10));
        say(&format!(
            "there is none: {}",
            has_ended && asks.get().is_ok_and(|error| error == Some(libc::ENXIO))
        ));
    }
}

static HANDLED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_signal(_: libc::c_int) {
    HANDLED.store(true, Ordering::SeqCst);
}

fn set_action(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the only handler that is ever installed stores to an atomic.
    unsafe { sigaction(signal, &action) }.expect("it can be handled");
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// A pool that a signal ends. Its workers are ready.
fn interruptible(builder: &Builder) -> Pool {
    let pool = builder.clone().workers(2).queue_limit(0).terminate_on_signals(true).build().expect("a pool");
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    pool
}

/// Has everything wait that can, prints the pids of the workers, and says how each wait ended.
fn interrupted(builder: &Builder) {
    if !matches!(std::env::args().nth(1).as_deref(), Some("interrupted-where-ignored")) {
        // SIGTERM has a handler of the program's own, and SIGINT none.
        set_action(Signal::SIGTERM, SigHandler::Handler(note_signal));
    }
    let pool = interruptible(builder);
    let handles: Vec<_> = (0..2).map(|_| pool.apply_async(drill::hang())).collect();
    wait_until("they run", || pool.workers().iter().all(|worker| worker.task.is_some()));
    let pids = pool.workers().into_iter().filter_map(|worker| worker.pid);
    let pids = pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" ");
    let ended = std::thread::scope(|scope| {
        let submitter = scope.spawn(|| pool.apply(drill::hang()).map_err(|error| error.to_string()));
        let waiter = scope.spawn(|| pool_core::wait_any(&handles));
        say(&pids);
        let map = pool.map(|_| drill::hang(), 0..10).map_err(|error| error.error.to_string());
        [
            format!("map {map:?}"),
            format!("submitter {:?}", submitter.join().expect("it does not panic")),
            format!("waiter {:?}", waiter.join().expect("it does not panic").is_some()),
        ]
    });
    ended.iter().for_each(|line| say(line));
    for handle in handles {
        say(&format!("handle {:?}", handle.get().map_err(|error| error.to_string())));
    }
    say(&format!("late {:?}", pool.apply(drill::hang()).map_err(|error| error.to_string())));
    say(&format!("own handler {}", HANDLED.load(Ordering::SeqCst)));
}

/// A waker that never returns holds up whoever delivers the outcome.
fn interrupted_twice(builder: &Builder) {
    struct Stuck;
    impl std::task::Wake for Stuck {
        fn wake(self: std::sync::Arc<Self>) {
            say("held up");
            wait_for_ever();
        }
    }
    let pool = interruptible(builder);
    let mut future = Box::pin(pool.apply_async(drill::hang()).into_future());
    wait_until("it runs", || pool.workers().iter().any(|worker| worker.task.is_some()));
    let waker = std::sync::Arc::new(Stuck).into();
    assert!(future.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
    let pids = pool.workers().into_iter().filter_map(|worker| worker.pid);
    say(&pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" "));
    wait_for_ever();
}

fn interrupted_children(builder: &Builder) {
    let pool = interruptible(builder);
    // SAFETY: the child waits for a signal, and nothing else.
    match unsafe { fork() }.expect("room for a child") {
        ForkResult::Child => wait_for_ever(),
        ForkResult::Parent { child } => {
            nix::sys::signal::kill(child, Signal::SIGINT).expect("it is our child");
            let status = waitpid(child, None).expect("it is our child");
            say(&format!("child: {}", matches!(status, WaitStatus::Signaled(_, Signal::SIGINT, _))));
        }
    }
    // SAFETY: as in `forks`; no other thread makes a pool meanwhile.
    match unsafe { fork() }.expect("room for a child") {
        ForkResult::Child => {
            let pool = interruptible(builder);
            let ended = std::thread::scope(|scope| {
                let map = scope.spawn(|| pool.map(|_| drill::hang(), 0..2));
                wait_until("they run", || pool.workers().iter().all(|worker| worker.task.is_some()));
                nix::sys::signal::raise(Signal::SIGINT).expect("a signal of its own");
                map.join().expect("it does not panic").map_err(|error| error.error.to_string())
            });
            say(&format!("map in the child {ended:?}"));
            wait_for_ever()
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).expect("it is our child");
            say(&format!("child: {}", matches!(status, WaitStatus::Signaled(_, Signal::SIGINT, _))));
        }
    }
    // The parent has not noticed.
    let answer = pool.apply(play(1, Part::Innocent)).expect("nobody was harmed");
    say(&format!("parent: {}", answer == right(1)));
}

fn masked(builder: &Builder) {
    // Inherited by every child that does nothing against it.
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&all), None).expect("a mask");
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
        // SAFETY: no handler is installed.
        unsafe { sigaction(signal, &ignore) }.expect("it can be ignored");
    }
    // Without close-on-exec, as C libraries open theirs.
    // SAFETY: a valid name; the descriptor is leaked on purpose.
    let leaked = unsafe { libc::open(c"/etc/hostname".as_ptr(), libc::O_RDONLY) };
    // SAFETY: it takes integers.
    let leaked_high = unsafe { libc::fcntl(leaked, libc::F_DUPFD, 150) };
    assert!(leaked > 2 && leaked_high >= 150, "two descriptors leak");
    let own_oom_score = std::fs::read_to_string("/proc/self/oom_score_adj").expect("Linux tells");
    let pool = builder.clone().workers(1).build().expect("a pool");
    let pid = pool.apply(drill::pid()).expect("an innocent");
    let link = |fd: &str| std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("it is open");
    say(&format!("stdin {}", link("0").display()));
    let status = |key, base| process::status(pid, key, base).expect("Linux tells");
    say(&format!("blocked {:x}", status("SigBlk", 16)));
    // SIGPIPE is ignored as in every Rust program; 32 and 33 are the C library's own, and it lets nobody change them.
    let expected = [libc::SIGPIPE, 32, 33].map(|signal| 1 << (signal - 1)).iter().sum::<u64>();
    say(&format!("ignored {:x}", status("SigIgn", 16) & !expected));
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("Linux tells");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("it is listed");
    say(&format!("core {}", core.split_ascii_whitespace().skip(4).take(2).collect::<Vec<_>>().join(" ")));
    say(&format!("leads its group {}", process::group(pid) == Some(pid)));
    let oom_score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("Linux tells");
    let number = |text: &str| text.trim().parse::<i32>().expect("a number");
    say(&format!("oom score raised {}", number(&oom_score) > number(&own_oom_score)));
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("Linux tells").flatten();
    let targets = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).map(|to| to.display().to_string());
    let mut kinds: Vec<String> = targets.map(|to| to.split(':').next().unwrap_or("").to_owned()).collect();
    kinds.sort();
    say(&format!("descriptors {}", kinds.join(" ")));
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).expect("Linux tells");
    say(&format!("name {}", name.trim()));
}
