//! What is odd without being an error, and must concern nobody else.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{DeathCause, Output, Pool, StartMethod, TaskError};
use pool_tests::odd::{
    PanicsAgain, endless, give_children_to_the_parent, panic_again_and_again, panic_while_decoding,
    panic_with_little_memory, take_name,
};
use pool_tests::{Part, Scene, expect_death, expect_healthy, play, process, right, wait_until};
use pool_worker::drill;

use crate::programs::{pressed, stock};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn children_that_a_task_gives_to_the_program_go_with_their_worker() {
    for then in ["drop", "join", "death"] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).workers(1).build().unwrap();
        let children = pool.apply(give_children_to_the_parent()).unwrap();
        for child in children {
            assert_eq!(process::parent(child), Some(std::process::id()), "{then}: it is a child of ours");
        }
        match then {
            "drop" => drop(pool),
            "join" => pool.join(),
            _ => {
                expect_death(pool.apply(play(1, Part::Segv)));
                wait_until("they are killed and reaped", || {
                    children.iter().all(|child| process::state(*child).is_none())
                });
                expect_healthy(&pool);
            }
        }
        wait_until("none is left", || children.iter().all(|child| process::state(*child).is_none()));
    }
}

/// A program that debugs the workers of a pool, and is not interested in them; it ends with its standard input.
fn debugger_of(pool: &Pool) -> Option<Child> {
    use std::io::{BufRead, BufReader};
    let pids: Vec<String> =
        pool.workers().iter().filter_map(|worker| worker.pid).map(|pid| pid.to_string()).collect();
    let mut debugger = Command::new(pressed());
    debugger.args(["debugs", &pids.join(",")]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut debugger = debugger.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(debugger.stdout.take().unwrap()).read_line(&mut said).unwrap();
    if let Some(why) = said.strip_prefix("skipped: ") {
        drop(debugger.stdin.take());
        debugger.wait().unwrap();
        pool_tests::skipped(why);
        return None;
    }
    Some(debugger)
}

#[test]
fn a_worker_of_any_name_is_read_in_proc() {
    for name in [&b"\xff) R 1 \xc3("[..], b") Z 0 (", b"a\nVmHWM:\t1 kB"] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).workers(1).build().unwrap();
        pool.apply(take_name(name.to_vec())).unwrap();
        // Its largest resident set is read before it is killed.
        let hangs = pool.apply_async(drill::hang());
        wait_until("it runs", || pool.workers()[0].task.is_some());
        let rss = pool.workers()[0].rss.expect("it lives");
        assert!(rss > 100_000, "{name:?}: {rss} bytes");
        hangs.cancel();
        expect_healthy(&pool);
        // How one has ended that is not to be reaped is read there, too.
        pool.apply(take_name(name.to_vec())).unwrap();
        let Some(mut debugger) = debugger_of(&pool) else { return };
        let death = expect_death(pool.apply(play(1, Part::QuickExit(7))));
        assert!(matches!(death.cause, DeathCause::Exited(7)), "{name:?}: {death}");
        drop(debugger.stdin.take());
        debugger.wait().unwrap();
        expect_healthy(&pool);
    }
}

#[test]
fn what_panics_again_when_its_panic_is_dropped_silences_nobody() {
    let scene = Scene::new();
    // At its end the test listens no more.
    let (tell, told) = channel();
    let events = tell.clone();
    let builder = scene.builder().worker(stock()).on_worker_event(move |_| {
        let _ = events.send("event");
        std::panic::panic_any(PanicsAgain)
    });
    let lines = tell.clone();
    let capture = Output::capture(move |_| {
        let _ = lines.send("line");
        std::panic::panic_any(PanicsAgain)
    });
    let pool = builder.output(capture).build().unwrap();
    let hear = |what: &str| while told.recv_timeout(PATIENCE).expect(what) != what {};
    for _ in 0..3 {
        let tell = tell.clone();
        pool.apply_async(play(1, Part::Innocent)).on_complete(move |_| {
            let _ = tell.send("callback");
            std::panic::panic_any(PanicsAgain)
        });
        hear("callback");
        pool.apply(drill::print_stdout(1, "a line".to_owned())).unwrap();
        hear("line");
        for worker in pool.workers() {
            process::send(worker.pid.expect("it is ready"), Signal::SIGKILL);
        }
        hear("event");
        expect_healthy(&pool);
        while told.try_recv().is_ok() {}
    }
    // In a worker, too.
    let deaths = pool.stats().deaths.total();
    assert!(matches!(pool.apply(panic_again_and_again()), Err(TaskError::Panicked { .. })));
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), deaths);
}

#[test]
fn a_function_for_the_environment_that_panics_again_and_again_is_named() {
    let scene = Scene::new();
    let panics = |_| -> [(&str, &str); 1] { std::panic::panic_any(PanicsAgain) };
    // Workers that a zygote forks share its environment.
    let builder = scene.builder().worker(stock()).start(StartMethod::Spawn);
    let pool = builder.worker_env(panics).build().unwrap();
    let error = pool.apply(play(1, Part::Innocent)).unwrap_err();
    assert!(error.to_string().contains("`Builder::worker_env` panicked"), "{error}");
}

#[test]
fn a_callback_is_called_although_its_value_panics_while_it_is_decoded() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let (tell, told) = channel();
    let (early, late) = (pool.apply_async(panic_while_decoding()), pool.apply_async(panic_while_decoding()));
    assert!(late.wait_timeout(PATIENCE));
    for task in [early, late] {
        let tell = tell.clone();
        task.on_complete(move |result| tell.send(result).unwrap());
        match told.recv_timeout(PATIENCE).expect("it is called") {
            Err(TaskError::Decode { task, message, .. }) => {
                assert!(task.ends_with("::panic_while_decoding"), "{task}");
                assert!(message.contains("`Deserialize` implementation panicked"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    expect_healthy(&pool);
}

#[test]
fn a_result_without_end_is_refused_at_the_limit_and_nobody_dies() {
    let scene = Scene::new();
    // If it were not refused, it would need all the time and memory that there is.
    let builder = scene.builder().worker(stock()).frame_limit(1 << 20).memory_limit(512 << 20);
    let pool = builder.task_timeout(PATIENCE).build().unwrap();
    let beside: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Sleep(1)))).collect();
    let refused = |result: Result<_, TaskError>| match result {
        Err(TaskError::Encode { message, .. }) => assert!(message.contains("frame_limit"), "{message}"),
        other => panic!("{other:?}"),
    };
    refused(pool.apply(endless()));
    pool.map_settled(|_| endless(), 0..5).into_iter().for_each(refused);
    for (n, task) in (0..).zip(beside) {
        assert_eq!(task.get().unwrap(), right(n));
    }
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), 0);
}

#[test]
fn a_panic_without_memory_for_its_backtrace_is_told_without_one() {
    for setting in [None, Some("1")] {
        let scene = Scene::new();
        let builder = scene.builder().worker(stock()).workers(1);
        let pool = match setting {
            None => builder.env_remove("RUST_BACKTRACE").build().unwrap(),
            Some(value) => builder.env("RUST_BACKTRACE", value).build().unwrap(),
        };
        let panics = pool.apply_async(panic_with_little_memory());
        assert!(panics.wait_timeout(PATIENCE), "{setting:?}: it hangs");
        match panics.get() {
            Err(TaskError::Panicked { message, location, backtrace, .. }) => {
                assert_eq!(message, "with little memory", "{setting:?}");
                assert!(location.is_some_and(|location| location.contains("odd.rs")), "{setting:?}");
                assert_eq!(backtrace, None, "{setting:?}");
            }
            other => panic!("{setting:?}: {other:?}"),
        }
        expect_healthy(&pool);
        assert_eq!(pool.stats().deaths.total(), 0, "{setting:?}");
    }
}

#[test]
fn a_directory_of_workers_that_is_removed_is_named() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let builder = scene.builder().worker(stock()).workers(1).current_dir(dir.path());
    // A zygote is there already, and needs no directory.
    let pool = builder.start(StartMethod::Spawn).build().unwrap();
    pool.apply(play(1, Part::Innocent)).unwrap();
    let path = dir.path().to_owned();
    dir.close().unwrap();
    expect_death(pool.apply(play(2, Part::Segv)));
    let error = pool.apply(play(3, Part::Innocent)).unwrap_err().to_string();
    assert!(error.contains(&format!("{} is not there", path.display())), "{error}");
}
