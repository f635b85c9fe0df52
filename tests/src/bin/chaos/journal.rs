//! What workers note down about the tasks that they run, where no fault of theirs can destroy it: a file that is opened for each
//! entry, so nothing that a task does to descriptors or shared memory concerns it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The environment variable that names the file.
pub(crate) const JOURNAL: &str = "POOL_CHAOS_JOURNAL";

/// Bytes of an entry. Pages hold whole ones: where a write goes from one page to the next, a signal that kills the writer may cut it in
/// two, and all that comes behind would be read from the wrong place.
const SIZE: usize = 32;
const _: () = assert!(4096 % SIZE == 0);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The task function was entered.
    Begun,
    /// It has returned, or unwound.
    Left,
    /// The worker is about to die outside of a task function, while it builds a state or decodes arguments.
    Dies,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) step: Step,
    pub(crate) task: u64,
    pub(crate) worker: u32,
    pub(crate) attempt: u32,
}

/// Adds an entry, in the name of the worker: a forked copy of it is in the same process group.
///
/// # Panics
/// When the file cannot be written; then nobody could judge the run.
pub(crate) fn note(step: Step, task: u64, attempt: u32) {
    let Some(file) = std::env::var_os(JOURNAL) else { return };
    let worker = nix::unistd::getpgrp().as_raw();
    let mut entry = [0; SIZE];
    entry[..8].copy_from_slice(&task.to_le_bytes());
    entry[8..12].copy_from_slice(&worker.to_le_bytes());
    entry[12..16].copy_from_slice(&attempt.to_le_bytes());
    entry[16] = match step {
        Step::Begun => 1,
        Step::Left => 2,
        Step::Dies => 3,
    };
    // One write, so that entries of several workers do not mix.
    let written = File::options().append(true).open(file).and_then(|mut file| file.write_all(&entry));
    written.expect("the journal can be written");
}

/// All entries, in their order.
pub(crate) fn read(file: &Path) -> io::Result<Vec<Entry>> {
    let bytes = std::fs::read(file)?;
    let entry = |bytes: &[u8]| {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let step = match bytes[16] {
            1 => Step::Begun,
            2 => Step::Left,
            3 => Step::Dies,
            other => return Err(io::Error::other(format!("step {other} in the journal"))),
        };
        let task = u64::from(word(4)) << 32 | u64::from(word(0));
        Ok(Entry { step, task, worker: word(8), attempt: word(12) })
    };
    let entries = bytes.chunks_exact(SIZE);
    match entries.remainder() {
        [] => entries.map(entry).collect(),
        rest => Err(io::Error::other(format!("{} bytes at the end of the journal are no entry", rest.len()))),
    }
}
