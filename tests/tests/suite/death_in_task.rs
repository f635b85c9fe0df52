//! A task takes its worker down, or fails short of that: by every cause, in every result mode.

use std::time::{Duration, Instant};

use pool_core::{DeathCause, Pool, TaskError};
use pool_tests::{
    IsCause, Mode, Part, Scene, Trial, cause_of, expect_death, expect_healthy, is_signal, play, process,
    right, wait_until,
};
use pool_worker::drill;

use crate::programs::{aborting, stock};

/// Lets one task among innocents play a part, in every mode, on a fresh pool each time.
#[track_caller]
fn in_every_mode(part: &Part, expect: impl Fn(&Pool, TaskError)) {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let trial = Trial { victim: || play(0, part.clone()), innocent: |n| play(n, Part::Innocent) };
        let error = trial.run(&pool, mode, right).expect_err("the victim has no result");
        expect(&pool, error);
        expect_healthy(&pool);
    }
}

/// As above, for a part that kills the worker; checks all that is told of a death.
#[track_caller]
fn death_in_every_mode(part: Part, is_cause: impl Fn(&DeathCause) -> bool, stderr: &str) {
    let start = Instant::now();
    in_every_mode(&part, |pool, error| {
        assert!(is_cause(cause_of(&error)), "{error}");
        let TaskError::WorkerDied(death) = &error else { unreachable!("it has a cause") };
        assert_eq!(death.task.as_deref(), Some("pool_tests::part::play"));
        assert!(death.task_id.is_some_and(|id| id.get() > 0));
        assert!(death.ran_for.is_some_and(|ran| ran < start.elapsed()), "{:?}", death.ran_for);
        assert!(death.worker.get() < 2 && !process::is_alive(death.pid), "{death:?}");
        assert!(pool.workers().iter().all(|worker| worker.pid != Some(death.pid)));
        assert!(death.stderr_tail.contains(stderr), "{:?}", death.stderr_tail);
        assert_eq!(death.stderr_tail.is_empty(), stderr.is_empty(), "{:?}", death.stderr_tail);
        let stats = pool.stats();
        // What was running beside the victim in an aborted map may have been killed with it.
        assert_eq!(stats.deaths.total() - stats.deaths.cancelled, 1, "{stats:?}");
    });
}

#[test]
fn exit_with_status_0() {
    death_in_every_mode(Part::Exit(0), |cause| *cause == DeathCause::Exited(0), "");
}

#[test]
fn exit_with_another_status() {
    death_in_every_mode(Part::Exit(211), |cause| *cause == DeathCause::Exited(211), "");
}

#[test]
fn quick_exit() {
    death_in_every_mode(Part::QuickExit(3), |cause| *cause == DeathCause::Exited(3), "");
}

#[test]
fn sigkill() {
    death_in_every_mode(Part::Raise(libc::SIGKILL), |cause| is_signal(cause, libc::SIGKILL), "");
}

#[test]
fn segmentation_fault() {
    death_in_every_mode(Part::Segv, |cause| is_signal(cause, libc::SIGSEGV), "");
}

#[test]
fn abort() {
    death_in_every_mode(Part::Abort, |cause| is_signal(cause, libc::SIGABRT), "");
}

#[test]
fn bus_error() {
    death_in_every_mode(Part::Bus, |cause| is_signal(cause, libc::SIGBUS), "");
}

#[test]
fn stack_overflow() {
    let is_abort = |cause: &DeathCause| is_signal(cause, libc::SIGABRT);
    death_in_every_mode(Part::StackOverflow, is_abort, "has overflowed its stack");
}

#[test]
fn double_panic() {
    let is_abort = |cause: &DeathCause| is_signal(cause, libc::SIGABRT);
    death_in_every_mode(Part::DoublePanic, is_abort, "panic in a destructor");
}

#[test]
fn allocation_failure() {
    let is_abort = |cause: &DeathCause| is_signal(cause, libc::SIGABRT);
    death_in_every_mode(Part::AllocFailure, is_abort, "memory allocation of 4096 bytes failed");
}

#[test]
fn limit_on_cpu_time() {
    death_in_every_mode(Part::CpuLimit(1), |cause| is_signal(cause, libc::SIGXCPU), "");
}

#[test]
fn real_time_signal() {
    let number = libc::SIGRTMIN() + 3;
    death_in_every_mode(Part::Raise(number), |cause| is_signal(cause, number), "");
}

#[test]
fn death_while_the_arguments_are_decoded() {
    let part = Part::DieOnDecode(drill::DieOnDecode);
    death_in_every_mode(part, |cause| is_signal(cause, libc::SIGKILL), "");
}

#[test]
fn death_while_the_result_is_encoded() {
    death_in_every_mode(Part::DieOnEncode, |cause| is_signal(cause, libc::SIGKILL), "");
}

#[test]
fn the_last_words_of_the_task_are_in_the_report_and_those_of_earlier_tasks_are_not() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    pool.apply(play(1, Part::Say("an earlier task".to_owned(), Box::new(Part::Innocent)))).unwrap();
    // A pause, so that the clock can tell the two apart.
    pool.apply(play(1, Part::Sleep(20))).unwrap();
    let last_words =
        Part::Say("libfoo: bad header".to_owned(), Box::new(Part::After(30, Box::new(Part::Segv))));
    let death = expect_death(pool.apply(play(2, last_words).name("page 17")));
    assert_eq!(death.stderr_tail, "libfoo: bad header\n");
    assert_eq!(death.task.as_deref(), Some("page 17"));
    assert!(death.ran_for.is_some_and(|ran| ran >= Duration::from_millis(30)), "{:?}", death.ran_for);
    let report = death.to_string();
    for part in ["SIGSEGV", "page 17", "libfoo: bad header", &death.pid.to_string()] {
        assert!(report.contains(part), "{part} is missing in: {report}");
    }
    expect_healthy(&pool);
}

#[test]
fn panic_fails_the_task_and_the_worker_lives_on() {
    in_every_mode(&Part::Panic("out of cheese".to_owned()), |_, error| match error {
        TaskError::Panicked { message, location, .. } => {
            assert_eq!(message, "out of cheese");
            assert!(location.is_some_and(|at| at.contains("panics.rs:")));
        }
        other => panic!("{other:?}"),
    });
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    assert_eq!(pool.apply(drill::count()).unwrap(), 1);
    assert_eq!(pool.apply(drill::count()).unwrap(), 2);
    let Err(TaskError::Panicked { backtrace, .. }) = pool.apply(drill::panic("again".to_owned())) else {
        panic!("a panic is no death")
    };
    assert!(backtrace.is_some_and(|trace| trace.contains("drill")));
    assert_eq!(pool.apply(drill::pid()).unwrap(), pid);
    assert_eq!(pool.apply(drill::count()).unwrap(), 1, "its state is built anew");
    assert_eq!(pool.stats().deaths.total(), 0);
    expect_healthy(&pool);
}

#[test]
fn panic_with_a_value_that_is_no_text() {
    in_every_mode(&Part::PanicValue, |pool, error| {
        assert!(
            matches!(&error, TaskError::Panicked { message, .. } if message == "a value that is no text"),
            "{error:?}"
        );
        let stats = pool.stats();
        assert_eq!(stats.deaths.total(), stats.deaths.cancelled);
    });
}

#[test]
fn panic_in_a_program_whose_panics_abort() {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(aborting()).build().unwrap();
        let part = Part::Panic("no way back".to_owned());
        let trial = Trial { victim: || play(0, part.clone()), innocent: |n| play(n, Part::Innocent) };
        let death = expect_death(trial.run(&pool, mode, right));
        assert!(is_signal(&death.cause, libc::SIGABRT), "{death}");
        assert!(death.stderr_tail.contains("no way back"), "{:?}", death.stderr_tail);
        expect_healthy(&pool);
    }
}

#[test]
fn panic_while_the_result_is_encoded() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let error = pool.apply(drill::panic_while_encoding()).unwrap_err();
    assert!(
        matches!(&error, TaskError::Panicked { message, .. } if message.contains("cannot be encoded")),
        "{error:?}"
    );
    assert_eq!(pool.stats().deaths.total(), 0);
    expect_healthy(&pool);
}

#[test]
fn a_stopped_worker_is_killed_at_the_time_limit() {
    let limit = Duration::from_millis(200);
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let trial =
            Trial { victim: || play(0, Part::Stop).timeout(limit), innocent: |n| play(n, Part::Innocent) };
        let error = trial.run(&pool, mode, right).expect_err("it is stopped for ever");
        assert!(matches!(error, TaskError::TimedOut { limit: told, .. } if told == limit), "{error:?}");
        expect_healthy(&pool);
        // Not before it has been reaped.
        wait_until("the death is counted", || pool.stats().deaths.task_timeout == 1);
        assert_eq!(pool.stats().deaths.total(), 1, "{:?}", pool.stats());
    }
}

#[test]
fn the_test_program_itself_is_a_worker_that_may_die() {
    let causes: [(Part, IsCause); 4] = [
        (Part::Exit(9), |cause| *cause == DeathCause::Exited(9)),
        (Part::Segv, |cause| is_signal(cause, libc::SIGSEGV)),
        (Part::Abort, |cause| is_signal(cause, libc::SIGABRT)),
        // No message: the guard belongs to a runtime that has not been initialised.
        (Part::StackOverflow, |cause| is_signal(cause, libc::SIGSEGV)),
    ];
    for (part, is_cause) in causes {
        for mode in Mode::ALL {
            let scene = Scene::new();
            let pool = scene.builder().build().unwrap();
            let trial = Trial { victim: || play(0, part.clone()), innocent: |n| play(n, Part::Innocent) };
            let death = expect_death(trial.run(&pool, mode, right));
            assert!(is_cause(&death.cause), "{part:?}, {mode:?}: {death}");
            expect_healthy(&pool);
        }
    }
}
