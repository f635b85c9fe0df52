//! Tasks that note in a file that they run, for tests of what need not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pool_core::task;

use crate::line::{add_line, in_line};

/// Notes `n`, and returns `3 n + 1`.
#[task(version = 1)]
pub fn noted(n: u64, log: &Path) -> u64 {
    add_line(log, n);
    3 * n + 1
}

/// Notes `n`, and returns an `Err` if it is odd.
#[task]
pub fn noted_or_not(n: u64, log: &Path) -> Result<u64, String> {
    add_line(log, n);
    if n.is_multiple_of(2) { Ok(n) } else { Err(format!("{n} is odd")) }
}

/// Notes `n`, sleeps for some milliseconds, and returns [`noted_bytes`].
#[task]
pub fn noted_slowly(n: u64, ms: u64, log: &Path) -> Vec<u8> {
    add_line(log, n);
    std::thread::sleep(Duration::from_millis(ms));
    noted_bytes(n)
}

/// Bytes that tell whether they are right: up to 20,000, and some more for every hundredth `n`.
#[must_use]
pub fn noted_bytes(n: u64) -> Vec<u8> {
    let len = if n % 100 == 7 { 300_000 } else { n * 7919 % 20_000 };
    (0..len).map(|i| (i.wrapping_mul(n + 1) >> 3) as u8).collect()
}

/// Notes `n`, makes the file `begun`, waits until the file `end` is there, and returns `3 n + 1`.
///
/// # Panics
/// When the file does not come.
#[task]
pub fn noted_held(n: u64, begun: PathBuf, end: PathBuf, log: &Path) -> u64 {
    add_line(log, n);
    std::fs::write(&begun, []).expect("the test has made the directory");
    crate::held::wait_for_file(&end);
    3 * n + 1
}

/// Notes `n`, and dies of it if it is `victim`.
#[task]
pub fn noted_to_death(n: u64, victim: u64, log: &Path) -> u64 {
    add_line(log, n);
    if n == victim {
        std::process::abort();
    }
    3 * n + 1
}

/// How often each `n` was noted.
///
/// # Panics
/// When something else was.
#[must_use]
pub fn notes(log: &Path) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap_or_default().lines() {
        *times.entry(in_line(line)).or_default() += 1;
    }
    times
}
