//! A program that is stopped.

use std::path::Path;
use std::time::Duration;

use pool_tests::expect_healthy;

use crate::{builder, say};

/// Stops while its workers start; whoever has it go on does so after their time is over.
pub(crate) fn play(worker: &Path) {
    let pool = builder(worker).start_timeout(Duration::from_secs(1)).build().expect("a pool");
    // SAFETY: the call takes an integer.
    unsafe { libc::raise(libc::SIGSTOP) };
    expect_healthy(&pool);
    say(&format!("healthy, {} starts failed", pool.stats().deaths.start_failed));
}
