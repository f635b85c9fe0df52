//! The promise in one test.

use pool_core::{DeathCause, TaskError};
use pool_tests::{IsCause, Part, Scene, expect_healthy, is_signal, play, right};
use pool_worker::drill::DieOnDecode;

use crate::programs::stock;

#[test]
fn ten_of_a_thousand_tasks_kill_their_worker_in_ten_ways_and_the_others_do_not_notice() {
    let killers: [(Part, IsCause); 10] = [
        (Part::Exit(0), |cause| *cause == DeathCause::Exited(0)),
        (Part::Exit(17), |cause| *cause == DeathCause::Exited(17)),
        (Part::QuickExit(3), |cause| *cause == DeathCause::Exited(3)),
        (Part::Raise(libc::SIGKILL), |cause| is_signal(cause, libc::SIGKILL)),
        (Part::Raise(libc::SIGTERM), |cause| is_signal(cause, libc::SIGTERM)),
        (Part::Segv, |cause| is_signal(cause, libc::SIGSEGV)),
        (Part::Abort, |cause| is_signal(cause, libc::SIGABRT)),
        (Part::Bus, |cause| is_signal(cause, libc::SIGBUS)),
        (Part::DieOnDecode(DieOnDecode), |cause| is_signal(cause, libc::SIGKILL)),
        (Part::DieOnEncode, |cause| is_signal(cause, libc::SIGKILL)),
    ];
    let killer = |n: u64| (n % 100 == 42).then(|| &killers[n as usize / 100]);

    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let handles: Vec<_> = (0..1000)
        .map(|n| {
            let part = killer(n).map_or(Part::Innocent, |(part, _)| part.clone());
            pool.apply_async(play(n, part))
        })
        .collect();

    for (n, handle) in (0..).zip(handles) {
        match (killer(n), handle.get()) {
            (None, Ok(answer)) => assert_eq!(answer, right(n)),
            (None, Err(error)) => panic!("innocent {n} was harmed: {error}"),
            (Some((part, is_expected)), Err(TaskError::WorkerDied(death))) => {
                assert!(is_expected(&death.cause), "{part:?}: {death}");
                assert!(death.task.as_deref().is_some_and(|task| task.ends_with("::play")), "{death:?}");
            }
            (Some((part, _)), other) => panic!("{part:?}: {other:?}"),
        }
    }
    let stats = pool.stats();
    assert_eq!((stats.submitted, stats.succeeded, stats.failed), (1000, 990, 10));
    assert_eq!((stats.deaths.exited, stats.deaths.signalled, stats.deaths.total()), (3, 7, 10));
    expect_healthy(&pool);
}
