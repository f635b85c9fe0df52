//! A journal that is open: what is in it is found, and more is appended.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::Flock;

use super::error::JournalError;
use super::file::{self, failed};
use super::header::{self, FORMAT, HEADER, Header};
use super::job::{Declaration, Fingerprint, TaskKey, TaskNumber};
use super::options::Journal;
use super::positions::Positions;
use super::scan::{Scanned, scan};
use super::source::{Source, Window};
use super::syncer::Syncer;
use crate::record::{HEAD, Head, Salt, sum_of};

/// A result.
const RESULT: u8 = 1;
/// A failure.
pub(crate) const FAILURE: u8 = 2;
/// What a number of a task means.
const TASK: u8 = 3;

/// Records are collected until they are this many bytes, or are to be written.
const TOGETHER: usize = 256 << 10;
/// Larger bodies are not copied to the others.
const LARGE: usize = 32 << 10;

/// A journal that a batch has opened; no other can, until this is dropped.
///
/// ```
/// use pool_store::journal::{Journal, Outcome};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// let journal = Journal::at(directory.path().join("squares"));
/// let mut log = journal.open()?;
/// let square = log.task("squares::square", 0, "fn(u64) -> u64")?;
/// let call = log.fingerprint(square, &[7]);
/// assert_eq!(log.recall(0, square, &call)?, None);
/// log.append(Outcome { index: 0, task: square, call, failed: false }, &[&[49]])?;
/// log.commit()?;
/// log.close()?;
///
/// let mut log = journal.open()?;
/// let square = log.task("squares::square", 0, "fn(u64) -> u64")?;
/// let remembered = log.recall(0, square, &call)?.expect("it was noted");
/// assert_eq!((remembered.failed, &remembered.body[..]), (false, &[49][..]));
/// # Ok(())
/// # }
/// ```
pub struct Log {
    path: PathBuf,
    keep_failures: bool,
    salt: Salt,
    /// What was there when it was opened.
    found: Found,
    window: Window,
    /// How much of the file was read when it was opened.
    opened_end: u64,
    /// Whether an item was what its record says.
    fits: bool,
    tasks: Vec<Task>,
    buffer: Vec<u8>,
    /// Where the buffer will be written.
    end: u64,
    /// Outcomes that are not told of as written.
    items: u64,
    syncer: Syncer,
    /// The last to be dropped: others may open it then.
    file: Flock<File>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) positions: Positions,
    declared: BTreeMap<u16, Declaration>,
    pub(crate) scanned: Scanned,
}

/// A task that has been named since the journal was opened.
struct Task {
    key: TaskKey,
    number: u16,
    declaration: Declaration,
    /// Whether the file has it.
    noted: bool,
}

/// What is noted of an item, besides the bytes of its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The item, counted from 0.
    pub index: u64,
    /// Its task.
    pub task: TaskNumber,
    /// Its call.
    pub call: Fingerprint,
    /// Whether it has failed.
    pub failed: bool,
}

/// The outcome of an item, as it was noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Whether it has failed.
    pub failed: bool,
    /// What was noted.
    pub body: Vec<u8>,
}

/// What was found when a journal was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Opened {
    /// Items whose outcomes are noted.
    pub items: u64,
    /// Bytes of the torn end that was cut off.
    pub cut: u64,
    /// Bytes between records that are damaged. What was there runs again.
    pub damaged: u64,
}

impl Journal {
    /// Opens it, and finds what is in it. This takes a few bytes of memory for each item, and does not read the outcomes.
    ///
    /// # Errors
    /// [`JournalError`]: the file cannot be used, or is in use.
    pub fn open(&self) -> Result<Log, JournalError> {
        Log::open(self).map(|(log, _)| log)
    }

    /// As [`open`](Self::open), with what was found.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_and_tell(&self) -> Result<(Log, Opened), JournalError> {
        Log::open(self)
    }
}

impl Log {
    fn open(journal: &Journal) -> Result<(Self, Opened), JournalError> {
        let path = journal.path();
        let file = file::open(path)?;
        let len = file.metadata().map_err(|error| failed("look at", path, error))?.len();
        let mut first = [0; HEADER];
        let filled = Source::read_at(&*file, &mut first, 0).map_err(|error| failed("read", path, error))?;
        let salt = match header::decode(&first[..filled]) {
            Header::Sound(salt) if len > HEADER as u64 => salt,
            // Whoever began it may not have come to sync it, or its name, which comes before the first record.
            Header::Sound(_) | Header::Unfinished => begin(&file, path)?,
            bad => return Err(refusal(bad, path)),
        };
        let found = Found::read(&*file, &salt, len).map_err(|error| failed("read", path, error))?;
        let end = found.scanned.end.max(HEADER as u64);
        if len > end {
            file.set_len(end).map_err(|error| failed("cut the torn end of", path, error))?;
        }
        let for_syncing = file.try_clone().map_err(|error| failed("open", path, error))?;
        let opened = Opened {
            items: found.positions.count(),
            cut: len.saturating_sub(end),
            damaged: found.scanned.lost,
        };
        let log = Self {
            path: path.to_owned(),
            keep_failures: journal.keeps_failures(),
            salt,
            found,
            window: Window::default(),
            opened_end: end,
            fits: false,
            tasks: Vec::new(),
            buffer: Vec::new(),
            end,
            items: 0,
            syncer: Syncer::new(for_syncing, path, journal.pace(), end),
            file,
        };
        Ok((log, opened))
    }

    /// The number of a task, by which calls and outcomes name it; always the same for the same one.
    ///
    /// # Errors
    /// [`JournalError::OtherVersion`] if the journal knows a task of this name that was declared differently.
    pub fn task(&mut self, name: &str, version: u32, types: &str) -> Result<TaskNumber, JournalError> {
        let declaration = Declaration { name: name.to_owned(), version, types: types.to_owned() };
        if let Some(known) = self.tasks.iter().position(|task| task.declaration == declaration) {
            return Ok(TaskNumber(known));
        }
        let known = self.found.declared.iter().find(|(_, known)| **known == declaration);
        let (number, noted) = match known {
            Some((number, _)) => (*number, true),
            None => {
                if let Some(other) = self.found.declared.values().find(|other| other.name == name) {
                    return Err(JournalError::OtherVersion {
                        path: self.path.clone(),
                        task: name.to_owned(),
                        was: other.meaning(),
                        is: declaration.meaning(),
                    });
                }
                (self.free_number(), false)
            }
        };
        self.tasks.push(Task { key: declaration.key(), number, declaration, noted });
        Ok(TaskNumber(self.tasks.len() - 1))
    }

    /// A number that no task has. Where all are taken, which no program comes to, messages name another task.
    fn free_number(&self) -> u16 {
        let is_taken = |number: u16| {
            self.found.declared.contains_key(&number) || self.tasks.iter().any(|task| task.number == number)
        };
        (0..u16::MAX).find(|number| !is_taken(*number)).unwrap_or(u16::MAX)
    }

    /// What a call of this task with these encoded arguments is recognised by.
    ///
    /// # Panics
    /// If the number is that of another log.
    #[must_use]
    pub fn fingerprint(&self, task: TaskNumber, args: &[u8]) -> Fingerprint {
        self.tasks[task.0].key.of(args)
    }

    /// The outcome of this item, if it is noted, can be read, and is not a failure that is to run again.
    ///
    /// # Errors
    /// [`JournalError::OtherCall`] if the item was another call; then the journal is as it was found, unless other items did fit.
    /// [`JournalError::Io`] if the file cannot be read.
    ///
    /// # Panics
    /// If the number of the task is that of another log.
    pub fn recall(
        &mut self,
        index: u64,
        task: TaskNumber,
        call: &Fingerprint,
    ) -> Result<Option<Remembered>, Arc<JournalError>> {
        if let Some(failure) = self.syncer.failure() {
            return Err(failure);
        }
        let Some(position) = self.found.positions.get(index) else { return Ok(None) };
        let recalled = self.read(position, index, call);
        match recalled {
            Err(error) => Err(self.syncer.fail(failed("read", &self.path, error))),
            Ok(Read::Damaged) => Ok(None),
            Ok(Read::Other(number)) => Err(self.refuse(index, task, number)),
            Ok(Read::Same(remembered)) => {
                self.fits = true;
                Ok(Some(remembered).filter(|remembered| !remembered.failed || self.keep_failures))
            }
        }
    }

    fn read(&mut self, position: u64, index: u64, call: &Fingerprint) -> io::Result<Read> {
        let bytes = self.window.at(&*self.file, position, HEAD, self.opened_end)?;
        let head = bytes.first_chunk().and_then(|head| Head::decode(head, &self.salt, position));
        // It may have been damaged since it was found.
        let Some(head) = head.filter(|head| head.index == index) else { return Ok(Read::Damaged) };
        if head.fingerprint != call.0 {
            return Ok(Read::Other(head.task));
        }
        let Some(body) = body_of(&*self.file, &mut self.window, &head, position, self.opened_end)? else {
            return Ok(Read::Damaged);
        };
        Ok(Read::Same(Remembered { failed: head.kind == FAILURE, body }))
    }

    /// Why a call that differs from what is noted is not run. If nothing has fitted, this is another job's journal, which has to
    /// be left as it was.
    fn refuse(&mut self, index: u64, task: TaskNumber, number: u16) -> Arc<JournalError> {
        let is = &self.tasks[task.0].declaration.name;
        let difference = match self.found.declared.get(&number) {
            Some(was) if was.name != *is => {
                format!("item {index} was a call of `{}`, and is one of `{is}` now", was.name)
            }
            Some(_) => format!("item {index}, a call of `{is}`, had other arguments"),
            None => format!("item {index} was another call than this one of `{is}`"),
        };
        let error = JournalError::OtherCall { path: self.path.clone(), index, difference };
        let error = self.syncer.fail(error);
        self.buffer.clear();
        if !self.fits {
            // Should this fail, then there are more records than there were, and the other job says so.
            let _ = self.file.set_len(self.opened_end);
        }
        error
    }

    /// Notes an outcome, of which the pieces of `body` together are the bytes. It is not written before [`commit`](Self::commit).
    ///
    /// # Errors
    /// Whatever has failed first is the error from then on: [`JournalError::Io`], or why the journal was refused.
    ///
    /// # Panics
    /// If the number of the task is that of another log.
    pub fn append(&mut self, outcome: Outcome, body: &[&[u8]]) -> Result<(), Arc<JournalError>> {
        let task = &mut self.tasks[outcome.task.0];
        let number = task.number;
        if !std::mem::replace(&mut task.noted, true) {
            let declaration = task.declaration.encode();
            self.push(TASK, number, 0, Fingerprint([0; 16]), &[&declaration])?;
        }
        let kind = if outcome.failed { FAILURE } else { RESULT };
        self.push(kind, number, outcome.index, outcome.call, body)?;
        self.items += 1;
        Ok(())
    }

    fn push(
        &mut self,
        kind: u8,
        task: u16,
        index: u64,
        call: Fingerprint,
        body: &[&[u8]],
    ) -> Result<(), Arc<JournalError>> {
        let len: usize = body.iter().map(|piece| piece.len()).sum();
        let head = Head { kind, task, len: len as u64, index, fingerprint: call.0, sum: sum_of(body) };
        let position = self.end + self.buffer.len() as u64;
        self.buffer.extend_from_slice(&head.encode(&self.salt, position));
        if len > LARGE {
            self.flush()?;
            return body.iter().try_for_each(|piece| self.write(piece));
        }
        body.iter().for_each(|piece| self.buffer.extend_from_slice(piece));
        if self.buffer.len() >= TOGETHER { self.flush() } else { Ok(()) }
    }

    /// Writes what has been noted. From then on it survives this program.
    ///
    /// # Errors
    /// As [`append`](Self::append); after an error, nothing that was noted since the last success should be relied on.
    pub fn commit(&mut self) -> Result<(), Arc<JournalError>> {
        self.flush()?;
        match std::mem::take(&mut self.items) {
            0 => Ok(()),
            items => self.syncer.wrote(self.end, items),
        }
    }

    fn flush(&mut self) -> Result<(), Arc<JournalError>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = self.write(&buffer);
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Arc<JournalError>> {
        if let Some(failure) = self.syncer.failure() {
            return Err(failure);
        }
        match self.file.write_all_at(bytes, self.end) {
            Ok(()) => {
                self.end += bytes.len() as u64;
                Ok(())
            }
            // A part may have been written: it is cut off when the journal is opened again.
            Err(error) => Err(self.syncer.fail(failed("write", &self.path, error))),
        }
    }

    /// Writes what has been noted, and has the disk take all of it. From then on it survives the machine.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn close(mut self) -> Result<(), Arc<JournalError>> {
        self.commit()?;
        self.syncer.finish()
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("path", &self.path).field("end", &self.end).finish_non_exhaustive()
    }
}

/// What a record turned out to be.
enum Read {
    Same(Remembered),
    /// It is of another call; the number of its task.
    Other(u16),
    Damaged,
}

impl Found {
    pub(crate) fn read<S: Source + ?Sized>(source: &S, salt: &Salt, len: u64) -> io::Result<Self> {
        let mut found = Self::default();
        let mut window = Window::default();
        let Self { positions, declared, .. } = &mut found;
        found.scanned = scan(source, salt, len, |head, position| {
            match head.kind {
                RESULT | FAILURE => {
                    // An earlier outcome of the item is better than a damaged one.
                    let is_first = positions.get(head.index).is_none();
                    if is_first || body_of(source, &mut window, &head, position, len)?.is_some() {
                        positions.insert(head.index, position);
                    }
                }
                TASK if head.len <= LARGE as u64 => {
                    let body = body_of(source, &mut window, &head, position, len)?;
                    if let Some(declaration) = body.as_deref().and_then(Declaration::decode) {
                        declared.insert(head.task, declaration);
                    }
                }
                // Of no use to us.
                _ => {}
            }
            io::Result::Ok(())
        })?;
        Ok(found)
    }
}

/// The body of a record, unless it is damaged.
pub(crate) fn body_of<S: Source + ?Sized>(
    source: &S,
    window: &mut Window,
    head: &Head,
    position: u64,
    end: u64,
) -> io::Result<Option<Vec<u8>>> {
    let position = position + HEAD as u64;
    let Ok(len) = usize::try_from(head.len) else { return Ok(None) };
    let body = if len <= LARGE {
        window.at(source, position, len, end)?.get(..len).map(<[u8]>::to_vec)
    } else {
        let mut body = Vec::new();
        body.try_reserve_exact(len).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        body.resize(len, 0);
        let filled = source.read_at(&mut body, position)?;
        (filled == len).then_some(body)
    };
    Ok(body.filter(|body| sum_of(&[body]) == head.sum))
}

/// Writes the header of a new journal, and makes it survive the machine.
fn begin(file: &File, path: &Path) -> Result<Salt, JournalError> {
    let salt = super::job::salt();
    let write = |error| failed("write", path, error);
    file.set_len(0).map_err(write)?;
    file.write_all_at(&header::encode(&salt), 0).map_err(write)?;
    file.sync_all().map_err(|error| failed("sync", path, error))?;
    file::sync_directory(path)?;
    Ok(salt)
}

pub(crate) fn refusal(header: Header, path: &Path) -> JournalError {
    let path = path.to_owned();
    match header {
        Header::Newer(format) => JournalError::NewerFormat { path, format, known: FORMAT },
        Header::Damaged => JournalError::Damaged { path },
        Header::Sound(_) | Header::Unfinished | Header::Foreign => JournalError::NotAJournal { path },
    }
}
