//! Tasks that lose or copy what connects their worker with the pool.

use pool_core::{DeathCause, Pool, TaskError};
use pool_tests::{Mode, Scene, Trial, cause_of, expect_healthy, quiet, wait_until, with_rings};
use pool_worker::drill;

use crate::misbehaviour::is_violation;
use crate::programs::stock;

/// Lets one task among innocents play, in every mode.
#[track_caller]
fn in_every_mode(
    victim: impl Fn() -> pool_core::Call<()>,
    retries: u32,
    expect: impl Fn(&Pool, Result<(), TaskError>),
) {
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let outcome =
            Trial { victim: &victim, innocent: |n| quiet(n).retries(retries) }.run(&pool, mode, |_| ());
        expect(&pool, outcome);
        expect_healthy(&pool);
    }
}

/// The worker finds out by itself, or the pool does it: by the end of a pipe, or because a result is missing.
fn gave_up_or_was_found_out(cause: &DeathCause) -> bool {
    let signs = ["closed its pipes and lives on", "claimed before an older one had its result"];
    *cause == DeathCause::Exited(102) || signs.iter().any(|sign| is_violation(cause, sign))
}

#[test]
fn a_task_that_closes_all_pipes_and_returns_costs_its_worker() {
    in_every_mode(drill::close_pipes_and_return, 0, |pool, outcome| {
        if with_rings() {
            // The result needs no pipe, and survives.
            outcome.unwrap();
        } else {
            let error = outcome.unwrap_err();
            assert!(gave_up_or_was_found_out(cause_of(&error)), "{error}");
        }
        wait_until("the worker is gone", || pool.stats().deaths.total() - pool.stats().deaths.cancelled == 1);
    });
}

#[test]
fn a_task_that_covers_all_pipes_and_returns_costs_its_worker() {
    // Later tasks are not begun where their results would be lost.
    in_every_mode(
        || drill::cover_pipes(true),
        0,
        |pool, outcome| {
            if with_rings() {
                outcome.unwrap();
            } else {
                let error = outcome.unwrap_err();
                assert!(gave_up_or_was_found_out(cause_of(&error)), "{error}");
            }
            wait_until("the worker is gone", || {
                pool.stats().deaths.total() - pool.stats().deaths.cancelled == 1
            });
        },
    );
}

#[test]
fn a_task_that_covers_all_pipes_and_hangs_is_found_out() {
    in_every_mode(
        || drill::cover_pipes(false),
        0,
        |_, outcome| {
            let error = outcome.unwrap_err();
            assert!(is_violation(cause_of(&error), "closed its pipes and lives on"), "{error}");
        },
    );
}

/// Large arguments and results go through memory whose descriptors travel over a socket.
#[test]
fn a_task_that_closes_the_socket_costs_its_worker_at_most_and_large_data_arrive() {
    for len in [10, 100_000, 1 << 20] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
        let data: Vec<u8> = (0..len).map(|i: u64| (i % 251) as u8).collect();
        assert!(pool.apply(drill::close_sockets()).unwrap() > 0);
        for _ in 0..3 {
            match pool.apply(drill::echo_bytes(data.clone())) {
                Ok(echo) => assert!(echo == data, "{len}"),
                Err(error) => {
                    let cause = cause_of(&error);
                    let is_found_out = matches!(cause, DeathCause::ProtocolViolation { .. });
                    assert!(is_found_out || *cause == DeathCause::Exited(102), "{len}: {error}");
                }
            }
        }
        assert!(pool.apply(drill::echo_bytes(data.clone())).unwrap() == data, "{len}, in the end");
        assert!(pool.stats().deaths.total() <= 1, "{len}: {:?}", pool.stats());
        expect_healthy(&pool);
    }
}

#[test]
fn the_child_of_a_task_that_forks_and_returns_is_no_second_worker() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    let pid = pool.apply(drill::pid()).unwrap();
    for n in 0..50 {
        let forked = pool.apply_async(drill::fork_and_return());
        let behind: Vec<_> = (0..n).map(|n| pool.apply_async(drill::add(n, 1))).collect();
        assert!(!forked.get().unwrap(), "the answer is the parent's");
        assert!((1..).zip(behind).all(|(sum, handle)| handle.get().unwrap() == sum));
    }
    assert_eq!(pool.apply(drill::pid()).unwrap(), pid);
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), 0);
}
