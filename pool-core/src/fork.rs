//! Noticing that this process is a forked child, at the cost of one load.
//!
//! A page marked `MADV_WIPEONFORK` holds a number, the *epoch*. In a child the page is zero. A pool remembers the epoch of
//! its making; it belongs to another process whenever the page shows a different one. A child that builds a pool of its
//! own writes a new epoch.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::wipe;

/// The newest epoch; an ordinary variable, so it survives a fork.
static LAST: AtomicU64 = AtomicU64::new(1);

/// Remembers the process in which it was made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    epoch: u64,
    /// Used only where the kernel refused the page.
    pid: u32,
}

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        let epoch = wipe::word().map_or(0, |word| {
            let epoch = word.load(Ordering::Acquire);
            if epoch != 0 {
                return epoch;
            }
            let fresh = LAST.fetch_add(1, Ordering::Relaxed) + 1;
            match word.compare_exchange(0, fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => fresh,
                Err(other) => other,
            }
        });
        Self { epoch, pid: std::process::id() }
    }

    /// Whether this process is another one than the one remembered.
    pub(crate) fn is_elsewhere(&self) -> bool {
        match wipe::word() {
            Some(word) => word.load(Ordering::Relaxed) != self.epoch,
            None => std::process::id() != self.pid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_wipes_a_page_so_that_a_look_is_one_load() {
        let word = wipe::word().expect("Linux has had MADV_WIPEONFORK since 4.14");
        let origin = Origin::here();
        assert_ne!(origin.epoch, 0);
        assert_eq!(word.load(Ordering::Relaxed), origin.epoch);
        // A page as a child sees it, to a pool of the parent.
        assert!(Origin { epoch: origin.epoch + 1, ..origin }.is_elsewhere());
    }

    #[test]
    fn stays_here_without_a_fork() {
        let origin = Origin::here();
        assert!(!origin.is_elsewhere());
        assert_eq!(origin.epoch, Origin::here().epoch);
    }
}
