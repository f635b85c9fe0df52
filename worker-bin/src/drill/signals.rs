//! Tasks that are ended, or stopped, by a signal.

use std::hint::black_box;

use pool_core::task;

use crate::sys;

/// Sends this signal to its own process, with its default action restored; waits for ever if that does not end it.
#[task]
pub fn raise(signal: i32) {
    sys::die_by(signal)
}

/// Writes to address 0 (SIGSEGV).
#[task]
pub fn segv() {
    sys::write_to_null();
}

/// Reads a mapped page beyond the end of its file (SIGBUS).
#[task]
pub fn bus() {
    let error = sys::read_beyond_end_of_file();
    panic!("cannot map a truncated file: {error}");
}

/// Recurses until the stack is used up (SIGABRT by the runtime's guard, or SIGSEGV where that is not installed).
#[task]
pub fn stack_overflow() {
    black_box(recurse(black_box(0)));
}

#[inline(never)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == u64::MAX {
        return 0;
    }
    // The frame is used after the call, so that the call is no jump.
    let below = recurse(depth + 1);
    below.wrapping_add(black_box(frame)[below as usize % 64])
}

/// Limits its own CPU time to this many seconds (`RLIMIT_CPU`) and then spins (SIGXCPU). The time that the process has
/// used before counts.
#[task]
pub fn cpu_limit(seconds: u64) {
    if let Err(error) = sys::limit_cpu_time(seconds) {
        panic!("cannot set RLIMIT_CPU: {error}");
    }
    loop {
        std::hint::spin_loop();
    }
}

/// Stops its own process (SIGSTOP), the whole of it; returns when it is continued.
#[task]
pub fn stop() {
    sys::stop();
}
