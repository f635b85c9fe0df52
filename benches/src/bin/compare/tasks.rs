//! The tasks that are measured.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use pool_core::task;

use crate::sys;

/// Below this, time is measured by the clock: the processor time of a thread costs a system call.
const BY_CLOCK_NS: u64 = 10_000;

/// As little as a task can do and be checked.
#[task]
pub(crate) fn tiny(n: u64) -> u64 {
    n + 1
}

/// Sleeps for ever.
#[task]
pub(crate) fn hang() {
    loop {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
}

/// The argument as the result.
#[task]
pub(crate) fn echo(data: &[u8]) -> Vec<u8> {
    data.to_vec()
}

/// Looks at one byte of each page.
#[task]
pub(crate) fn sample(data: &[u8]) -> u64 {
    sample_of(data)
}

/// Writes the time into a file, and aborts.
#[task]
pub(crate) fn crash(stamp: &Path) -> String {
    match std::fs::OpenOptions::new().write(true).open(stamp) {
        Ok(mut file) => match file.write_all(&sys::monotonic_ns().to_le_bytes()) {
            Ok(()) => std::process::abort(),
            Err(error) => error.to_string(),
        },
        Err(error) => error.to_string(),
    }
}

/// Occupies its worker until the pipe with this name is closed by those who write to it.
#[task]
pub(crate) fn hold(fifo: &Path) -> bool {
    std::fs::read(fifo).is_ok_and(|data| data.is_empty())
}

/// Computes for this long, and tells how long it was, in ns.
#[task]
pub(crate) fn busy(ns: u64) -> u64 {
    if ns < BY_CLOCK_NS {
        let start = Instant::now();
        loop {
            let spent = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            if spent >= ns {
                return spent;
            }
        }
    }
    // Processor time: a task that another process interrupts does not get on meanwhile.
    let start = sys::thread_cpu_ns();
    loop {
        let spent = sys::thread_cpu_ns() - start;
        if spent >= ns {
            return spent;
        }
    }
}

/// What [`sample`] returns.
pub(crate) fn sample_of(data: &[u8]) -> u64 {
    data.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>() + data.len() as u64
}

/// Data that differs from page to page.
pub(crate) fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ (index >> 12)) as u8).collect()
}
