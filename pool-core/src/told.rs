//! Telling through `tracing` from where nothing may go wrong.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// An event, as by the macro of `tracing` that is named first; the level is its own.
///
/// What collects events is code of the program. Should it panic, that concerns nobody here. Where nobody wants this level, it
/// costs what the macro of `tracing` does.
macro_rules! tell {
    ($event:ident, $level:ident, $($args:tt)+) => {
        if tracing::Level::$level <= tracing::level_filters::LevelFilter::current() {
            $crate::told::guarded(|| tracing::$event!($($args)+));
        }
    };
}

pub(crate) use tell;

#[cold]
pub(crate) fn guarded(told: impl FnOnce()) {
    // The panic hook has shown it.
    let _ = catch_unwind(AssertUnwindSafe(told));
}
