//! Where a journal is, and how it is kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Unless something else is said, what was written is on its disk after about this time.
const EVERY: Duration = Duration::from_millis(50);
/// And as soon as it is so many outcomes.
const ITEMS: u32 = 4096;

/// The journal of a batch: a file that has the outcome of every item that has ended.
///
/// A path is one with the defaults. A journal belongs to one job: each batch needs a file of its own.
///
/// ```
/// use std::time::Duration;
/// use pool_store::journal::Journal;
///
/// let journal = Journal::at("thumbnails.journal").keep_failures(true).sync_every(Duration::from_secs(1));
/// assert_eq!(journal.path().to_str(), Some("thumbnails.journal"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a journal is given to a batch"]
pub struct Journal {
    path: PathBuf,
    keep_failures: bool,
    sync_every: Duration,
    sync_items: u32,
    on_error: OnJournalError,
}

/// What becomes of a batch whose journal cannot be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnJournalError {
    /// It ends with the error. Nothing is handed out that was not noted.
    #[default]
    Stop,
    /// It goes on without the journal. What was noted before stays there.
    ///
    /// This is for errors of the operating system only. A journal that belongs to another job, or is in use, ends the batch.
    GoOn,
}

impl Journal {
    /// A journal in this file, which is made if it is not there.
    ///
    /// A path that is not absolute starts at the current directory of the time when the batch begins.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            keep_failures: false,
            sync_every: EVERY,
            sync_items: ITEMS,
            on_error: OnJournalError::Stop,
        }
    }

    /// Whether failures are noted, too, and come back as they were instead of running again. Default: `false`.
    pub fn keep_failures(mut self, keep: bool) -> Self {
        self.keep_failures = keep;
        self
    }

    /// How long a noted outcome may wait until it is told to the disk, by `fdatasync` in a thread of its own. Default: 50 ms.
    ///
    /// This is about the death of the *machine*. Whatever becomes of the program, nothing is lost that it has been given.
    pub fn sync_every(mut self, interval: Duration) -> Self {
        self.sync_every = interval;
        self
    }

    /// How many noted outcomes may wait for that; 0 counts as 1. Default: 4096.
    ///
    /// When twice as many wait, the batch does.
    pub fn sync_items(mut self, items: u32) -> Self {
        self.sync_items = items.max(1);
        self
    }

    /// What becomes of the batch when the journal cannot be written.
    pub fn on_error(mut self, policy: OnJournalError) -> Self {
        self.on_error = policy;
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// See [`keep_failures`](Self::keep_failures).
    #[must_use]
    pub fn keeps_failures(&self) -> bool {
        self.keep_failures
    }

    /// Whether the batch goes on without a journal that cannot be written.
    #[must_use]
    pub fn is_optional(&self) -> bool {
        self.on_error == OnJournalError::GoOn
    }

    /// How often it is synced.
    pub(crate) fn pace(&self) -> super::pace::Pace {
        super::pace::Pace { every: self.sync_every, items: u64::from(self.sync_items) }
    }
}

macro_rules! from_path {
    ($($path:ty),*) => {$(
        impl From<$path> for Journal {
            fn from(path: $path) -> Self {
                Self::at(path)
            }
        }
    )*};
}

from_path!(&str, &String, String, &Path, &PathBuf, PathBuf, OsString);
