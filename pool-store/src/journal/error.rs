//! What can be wrong with a journal.

use std::io;
use std::path::PathBuf;

/// Why a batch has no journal, or may not go on with it.
///
/// Printed, it says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The operating system has refused something: the disk is full, the file system is read-only, a device fails.
    #[error("cannot {what} the journal {}: {source}", path.display())]
    #[non_exhaustive]
    Io {
        /// What was tried.
        what: &'static str,
        /// The journal.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What is there is no regular file.
    #[error("the journal {} is {kind}: a journal is a regular file of its own; use another path", path.display())]
    #[non_exhaustive]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What is there: `a directory`, `a symbolic link`, …
        kind: &'static str,
    },
    /// The file holds something else, and is left as it is.
    #[error("{} is no journal, and is left as it is: use another path", path.display())]
    #[non_exhaustive]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// The first bytes of the journal are damaged, without which nothing else can be checked.
    #[error("the head of the journal {} is damaged: delete the file, and everything runs again", path.display())]
    #[non_exhaustive]
    Damaged {
        /// The journal.
        path: PathBuf,
    },
    /// A later version of this library has written it.
    #[error(
        "the journal {} has format {format}, and this program knows none after {known}: \
         go on with the program that wrote it, or use another path", path.display()
    )]
    #[non_exhaustive]
    NewerFormat {
        /// The journal.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The latest format that is known here.
        known: u32,
    },
    /// Another batch is using it, in this program or in another one.
    #[error("the journal {} is in use: does the same program run already?", path.display())]
    #[non_exhaustive]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// It belongs to another job: this item was another call when its outcome was noted.
    #[error(
        "the journal {} is of another job: {difference}. Give the job its old input and order again, use another path, \
         or delete the file to run everything", path.display()
    )]
    #[non_exhaustive]
    OtherCall {
        /// The journal.
        path: PathBuf,
        /// The item, counted from 0.
        index: u64,
        /// What was noted, and what is to be run.
        difference: String,
    },
    /// It belongs to another version of the program: a task of the same name was declared differently.
    #[error(
        "the journal {} was written by another version of the program: task `{task}` was {was}, and is {is} now. \
         Use another path, or delete the file to run everything", path.display()
    )]
    #[non_exhaustive]
    OtherVersion {
        /// The journal.
        path: PathBuf,
        /// The name of the task.
        task: String,
        /// Its version and types in the journal.
        was: String,
        /// Its version and types in this program.
        is: String,
    },
}

impl JournalError {
    /// Whether the operating system has refused something, and the journal itself may be sound.
    #[must_use]
    pub fn is_io(&self) -> bool {
        matches!(self, Self::Io { .. })
    }
}
