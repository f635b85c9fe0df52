//! Running code of others from where nothing may go wrong, and telling through `tracing` from there.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs code of others; `None` if it has panicked. The panic hook has shown it, and what was thrown is [discarded](discard).
pub(crate) fn caught<T>(foreign: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(foreign)) {
        Ok(value) => Some(value),
        Err(thrown) => {
            discard(thrown);
            None
        }
    }
}

/// Drops what somebody has panicked with. It may panic again when it is dropped; what it throws then is not dropped any more, as
/// that could go on for ever.
#[cold]
pub(crate) fn discard(thrown: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(thrown))) {
        std::mem::forget(again);
    }
}

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
    caught(told);
}
