//! Tasks that take their time, or all of it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use pool_core::{TaskContext, task};

use crate::sys;

/// Sleeps for this many milliseconds and returns their number.
#[task]
pub fn sleep_ms(ms: u64) -> u64 {
    sleep(Duration::from_millis(ms));
    ms
}

/// Keeps a processor busy for this many milliseconds and returns their number.
#[task]
pub fn spin_ms(ms: u64) -> u64 {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(ms) {
        std::hint::spin_loop();
    }
    ms
}

/// Sleeps for ever.
#[task]
pub fn hang() {
    sleep_for_ever()
}

/// Ignores SIGTERM and sleeps for ever.
#[task]
pub fn hang_ignoring_sigterm() {
    sys::ignore_sigterm();
    sleep_for_ever()
}

/// Blocks every signal that can be blocked, on the main thread, and sleeps for ever.
#[task]
pub fn hang_blocking_signals() {
    sys::block_signals();
    sleep_for_ever()
}

/// Waits until it is cancelled, for at most this many milliseconds; returns whether it was.
#[task]
pub fn cooperative(ms: u64, #[context] cx: &TaskContext) -> bool {
    let start = Instant::now();
    while !cx.is_cancelled() {
        if start.elapsed() >= Duration::from_millis(ms) {
            return false;
        }
        sleep(Duration::from_millis(1));
    }
    true
}

pub(crate) fn sleep_for_ever() -> ! {
    loop {
        sleep(Duration::from_secs(3600));
    }
}
