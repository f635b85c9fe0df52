//! Tasks that end their process in an orderly way.

use pool_core::task;

use crate::sys;

/// Exits with this status through `exit(3)`, exit handlers included.
#[task]
pub fn exit(code: i32) {
    std::process::exit(code)
}

/// Exits with this status through `_exit(2)`: no exit handler runs, no buffer is flushed.
#[task]
pub fn quick_exit(code: i32) {
    sys::exit_now(code)
}

/// Aborts (SIGABRT).
#[task]
pub fn abort() {
    std::process::abort()
}
