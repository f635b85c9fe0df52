//! A low limit on the size of files, which is about shared memory, too.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pool_core::{Pool, SharedBytes, TaskError, task};
use pool_tests::{Part, expect_healthy, play as act, right};
use pool_worker::drill;

use crate::{builder, say};

/// Bytes that are to be sealed, from a worker with a limit of its own.
#[task]
fn shared(limit: u64, len: usize) -> SharedBytes {
    limit_files(limit);
    let mut shared = SharedBytes::builder();
    shared.extend_from_slice(&vec![7; len]);
    shared.finish()
}

/// The same without sealing.
#[task]
fn plain(limit: u64, len: usize) -> Vec<u8> {
    limit_files(limit);
    vec![7; len]
}

fn limit_files(bytes: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
    setrlimit(Resource::RLIMIT_FSIZE, bytes.min(hard), hard).expect("a lower limit");
}

fn expect_echo(pool: &Pool, len: usize) {
    let data = vec![7_u8; len];
    assert!(pool.apply(drill::echo_bytes(data.clone())).expect("it goes the slower way") == data);
}

pub(crate) fn play(worker: &Path) {
    const LARGE: usize = 3 << 20;
    let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
    // Large data go the slower way, in both directions.
    let pool = builder(worker).build().expect("a pool");
    expect_healthy(&pool);
    limit_files(1 << 20);
    expect_echo(&pool, LARGE);
    limit_files(soft);
    drop(pool);
    let pool = builder(worker).worker(pool_core::WorkerExe::current()).workers(1).build().expect("a pool");
    let result = pool.apply(plain(1 << 20, LARGE)).expect("it goes the slower way");
    assert!(result == vec![7; LARGE]);
    let result = pool.apply(shared(1 << 20, LARGE)).expect("it goes the slower way");
    assert!(result[..] == vec![7; LARGE][..]);
    assert_eq!(pool.stats().deaths.total(), 0);
    drop(pool);
    say("large data arrive");
    // There is no worker without a page to share.
    limit_files(0);
    let pool = builder(worker).build().expect("a pool");
    let outcome = pool.apply(act(1, Part::Innocent));
    drop(pool);
    // What is printed may go to a file.
    limit_files(soft);
    match outcome {
        Err(TaskError::PoolBroken(reason)) => say(&format!("{reason}")),
        other => panic!("{other:?}"),
    }
    let pool = builder(worker).build().expect("a pool");
    assert_eq!(pool.apply(act(1, Part::Innocent)).expect("there is room again"), right(1));
    say("healthy");
}
