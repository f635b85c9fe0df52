//! Workers that break the protocol in random ways, round after round, against one pool.
//!
//! `POOL_ATTACK_ROUNDS=10000 POOL_ATTACK_SEED=1 cargo test -p pool-tests --test suite attack -- --nocapture` for as long as you like.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{DeathCause, Pool, RetryOn, TaskError, TaskHandle};
use pool_tests::{Scene, assault, expect_healthy, innocent, process, sevens, wait_until};

use crate::programs::hostile;

/// Rounds at a time.
const AT_ONCE: u64 = 8;
/// The longest that a round may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(40);
/// The limit of an innocent: a worker may say that it runs one, and sit on it.
const SEAT: Duration = Duration::from_secs(3);
/// By how much the memory of the supervisor may grow, in KiB, and the number of its descriptors: they belong to the workers
/// that live, and to what those have passed.
const MOST_MEMORY: u64 = 64 << 10;
const MOST_DESCRIPTORS: usize = 150;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text} is no number: {error}")),
        Err(_) => otherwise,
    }
}

/// How rounds have ended.
type Tally = BTreeMap<&'static str, u64>;

/// What a round has ended with, if it is something that can be explained.
fn end_of(outcome: &Result<Vec<u8>, TaskError>, len: u64) -> Option<&'static str> {
    Some(match outcome {
        Ok(result) if *result == sevens(len) => "right",
        Err(TaskError::TimedOut { .. }) => "timed out",
        Err(TaskError::WorkerDied(death)) => match &death.cause {
            DeathCause::ProtocolViolation { .. } => "violation",
            // What the hostile worker does to itself: it exits, gives up because its own memory has been overwritten, or
            // kills itself.
            DeathCause::Exited(0..=3 | 102 | 103) => "exit",
            DeathCause::Signalled { signal: libc::SIGKILL, .. } => "kill",
            DeathCause::Unresponsive { .. } => "unresponsive",
            _ => return None,
        },
        _ => return None,
    })
}

#[track_caller]
fn expect_end<R>(handle: TaskHandle<R>, what: &str, pool: &Pool) -> Result<R, TaskError> {
    assert!(handle.wait_timeout(PATIENCE), "{what} does not end: {:?} {:?}", pool.workers(), pool.stats());
    handle.get()
}

fn memory() -> u64 {
    process::status(std::process::id(), "VmRSS", 10).expect("Linux has /proc")
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux has /proc").count()
}

#[test]
fn a_pool_survives_whatever_its_workers_say() {
    let (rounds, seed) = (number("POOL_ATTACK_ROUNDS", 300), number("POOL_ATTACK_SEED", 1));
    let scene = Scene::of(Duration::from_secs(60 + rounds / 4));
    let pool = scene
        .builder()
        .workers(4)
        .worker(hostile("random"))
        .start_timeout(Duration::from_secs(3))
        .cancel_grace(Duration::ZERO)
        .build()
        .unwrap();
    let before = descriptors();
    let (mut tally, mut settled) = (Tally::new(), None);
    for first in (0..rounds).step_by(AT_ONCE as usize) {
        let seeds = (first..rounds.min(first + AT_ONCE)).map(|round| seed.wrapping_add(round));
        let attacks: Vec<_> = seeds
            .map(|seed| {
                let len = seed.wrapping_mul(97) % 4000;
                let call = assault(seed, len).timeout(Duration::from_millis(300));
                (seed, len, pool.apply_async(call))
            })
            .collect();
        let innocents: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let call = innocent(n * 100).timeout(SEAT).retries(100);
                (n, pool.apply_async(call.retry_on(RetryOn::DEATH | RetryOn::TIMEOUT)))
            })
            .collect();
        for (seed, len, attack) in attacks {
            let outcome = expect_end(attack, &format!("the attack with seed {seed}"), &pool);
            let end = end_of(&outcome, len).unwrap_or_else(|| {
                let outcome = outcome.map(|result| format!("{} bytes {:?}", result.len(), result.first()));
                panic!("the attack with seed {seed}, which should give {len} bytes: {outcome:?}")
            });
            *tally.entry(end).or_default() += 1;
        }
        for (n, innocent) in innocents {
            assert_eq!(expect_end(innocent, "an innocent", &pool).unwrap(), sevens(n * 100));
        }
        assert!(
            descriptors() < before + MOST_DESCRIPTORS,
            "{} descriptors after {first} rounds",
            descriptors()
        );
        // Once everything has been used.
        let settled = *settled.get_or_insert_with(memory);
        assert!(memory() < settled + MOST_MEMORY, "{settled} KiB have become {} by round {first}", memory());
    }
    println!(
        "{rounds} rounds from seed {seed}: {tally:?}; {:?}; {:?} KiB have become {}, {before} descriptors {}",
        pool.stats(),
        settled,
        memory(),
        descriptors()
    );
    // It was an attack, and the pool has told the one from the other.
    let count = |end| tally.get(end).copied().unwrap_or_default();
    assert!(count("right") >= rounds / 10 && count("violation") >= rounds / 10, "{tally:?}");

    // Nobody who has been attacked from is trusted any more.
    let ready = || pool.stats().workers_ready == pool.workers().len();
    wait_until("the workers are there", ready);
    let generations = || pool.stats().spawned;
    let spawned = generations();
    let pids: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    pids.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
    wait_until("they are replaced", || generations() >= spawned + pids.len() as u64 && ready());
    expect_healthy(&pool);
}
