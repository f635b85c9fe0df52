//! How much is measured.

use std::time::Duration;

/// Repetitions and sizes: full, or quick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) quick: bool,
}

impl Effort {
    /// How often everything is measured, one thing after another.
    pub(crate) fn rounds(self) -> u32 {
        self.pick(3, 5)
    }

    /// The smaller number in a quick run.
    pub(crate) fn pick<T>(self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Time for which the caller is idle between two round trips, so that the other side sleeps.
    pub(crate) fn gap(self) -> Duration {
        Duration::from_millis(3)
    }
}
