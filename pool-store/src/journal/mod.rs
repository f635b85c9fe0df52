//! The journal of a batch: a file that the outcome of every item is appended to, and found in again.
//!
//! ```text
//! ┌────────┬────────┬────────┬────────┬── ─ ─
//! │ header │ record │ record │ record │
//! └────────┴────────┴────────┴────────┴── ─ ─
//! ```
//!
//! *Header* (64 bytes, `header.rs`): magic, format, salt, checksum. *Records* (`record.rs` of this crate) have a kind: a result, a
//! failure, or what the number of a task stands for (name, version, types), which comes before the first outcome of that task.
//! The latest record of an item counts.
//!
//! # States of a log
//! ```text
//!        open: lock, header, scan, cut              close: write, sync
//! Journal ───────────────────────────▶ Log ────────────────────────────▶ gone
//!                                       │ an error of the system, or another job's item
//!                                       └──────▶ failed: every call ends with that error
//! ```
//!
//! # Events and races
//! * *The program dies, at any moment.* What was committed has been written, and the kernel keeps it. A record that was being
//!   written is cut off when the journal is opened again.
//! * *The machine dies.* What was not synced may be missing, be there in part, or be followed by what is there. Heads tell by
//!   their checksum that they are records of this file at this place; bodies are checked when they are wanted. What is missing
//!   runs again.
//! * *A byte in the middle is damaged.* A body costs its own item. A head costs what is between its beginning and the next
//!   record that is sound, which is looked for byte by byte.
//! * *Two programs.* The second one is refused, by a lock on the open file. It waits a second for a program that is just dying.
//! * *The file is replaced while it is opened.* It is seen after the lock has been taken, and it is opened again.
//! * *A write fails.* The log has failed. What was written in part is cut off when the journal is opened again.
//! * *A sync fails.* See `pace.rs`. What it was for is cut off at once.
//! * *Another job's journal.* It is noticed with the first item that is noted there and is another call. If no other item did fit, the
//!   file is cut to what it was, as if it had not been touched.
//!
//! # Memory
//! The position of each item's record, and no outcome: these are read where they are, when they are asked for.

mod error;
mod file;
mod header;
mod inspect;
mod job;
mod log;
mod options;
mod pace;
mod positions;
mod scan;
mod source;
mod syncer;

pub use error::JournalError;
#[doc(hidden)]
pub use inspect::{Noted, inspect};
pub use job::{Fingerprint, TaskNumber};
pub use log::{Log, Opened, Outcome, Remembered};
pub use options::{Journal, OnJournalError};
