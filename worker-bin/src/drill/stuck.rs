//! Tasks that never end, each in a way of its own.

use pool_core::task;

use crate::sys;

/// Keeps a processor busy for ever.
#[task]
pub fn spin_for_ever() {
    loop {
        std::hint::spin_loop();
    }
}

/// Waits for ever inside of the C library, where no code of Rust's looks at anything.
#[task]
pub fn hang_in_c() {
    sys::pause_for_ever()
}
