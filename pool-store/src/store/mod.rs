//! Results that are remembered: one file for each, in a directory that many programs on many hosts may share.
//!
//! [`files`] says where things are, [`entry`] what is in them, [`lease`] who computes what, and [`sweep`] what is removed when.
//!
//! # What makes it safe
//! * An entry is written to a temporary file whose name is made by chance and created exclusively, in the directory where it will
//!   be. It is synchronised, and then named, without overwriting what may have that name. A name never belongs to half an entry.
//! * Whatever fails before that leaves nothing but a temporary file, which is removed, or cleared away by its age.
//! * Whoever reads an entry checks its length, its key and its checksum before it is used. What is wrong is absent, and removed.
//! * Nothing else is relied on: no locks, no `O_APPEND`, no mapping, no clock, no process id.
//!
//! # Races
//! * *Two publish the same.* The first one stays; both results are as good.
//! * *An entry is removed while it is read.* An open file stays; where it does not (another host's, over NFS), it is absent.
//! * *A bad entry is removed while somebody publishes a good one.* See [`files`]: what is removed is looked at once more, when its
//!   name cannot be given to something else.

mod clock;
mod entry;
mod error;
mod files;
mod key;
mod lease;
mod options;
mod process;
mod stats;
mod sweep;
mod turn;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use self::clock::Clock;
use self::entry::{Flaw, Unread};
use self::error::is_absent;
use self::files::{Files, Named};
use self::stats::Counters;
use self::sweep::Sweeper;

#[doc(hidden)]
pub use self::entry::{body_of_entry, entry_of_body};
pub use self::error::StoreError;
pub use self::key::StoreKey;
pub use self::lease::Lease;
#[doc(hidden)]
pub use self::lease::lease_of;
pub use self::options::{OnWriteError, StoreBuilder};
pub use self::stats::StoreStats;
pub use self::sweep::Swept;
pub use self::turn::{Claim, Waiting};

/// A use is not noted again when the last one is not longer ago.
const RECENT: Duration = Duration::from_secs(10);

/// Results of tasks that are remembered in a directory.
///
/// Any number of programs, on any number of hosts that share a file system (NFS, too), may use the same directory at once. Cheap
/// to clone; the clones share their counters.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// use pool_store::{Store, StoreKey};
///
/// let store = Store::open(dir.join("results"))?;
/// let key = StoreKey::of_call("square", 1, "fn(u8) -> u8", &[7]);
/// assert_eq!(store.get(&key), None);
/// assert!(store.put(&key, &[&[49]])?, "nobody else has");
/// assert_eq!(store.get(&key), Some(vec![49]));
/// assert_eq!(store.stats().hits, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What the clones of a store share.
#[derive(Debug)]
pub(crate) struct Inner {
    options: StoreBuilder,
    dir: PathBuf,
    files: Files,
    clock: Clock,
    counters: Counters,
    sweeper: Sweeper,
}

impl Store {
    /// Opens a store with the default options; the directory is made if it is not there.
    ///
    /// # Errors
    /// Those of [`StoreBuilder::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        StoreBuilder::default().open(dir)
    }

    /// A builder with the default options.
    pub fn builder() -> StoreBuilder {
        StoreBuilder::default()
    }

    fn with_options(options: StoreBuilder, dir: &Path) -> Result<Self, StoreError> {
        let dir = std::path::absolute(dir).map_err(StoreError::of("find", dir))?;
        let files = Files::new(&dir);
        if !files.root().is_dir() {
            fs::create_dir_all(files.root()).map_err(StoreError::of("make", files.root()))?;
            if options.sync {
                files::sync_dir(&dir).map_err(StoreError::of("synchronise", &dir))?;
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                dir,
                files,
                clock: Clock::default(),
                counters: Counters::default(),
                sweeper: Sweeper::default(),
            }),
        })
    }

    /// The directory of the store.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// What it has done since it was opened.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.inner.counters.read()
    }

    /// The result of this key, if there is one.
    ///
    /// An entry that is damaged or cannot be read is none; that is traced and counted.
    #[must_use]
    pub fn get(&self, key: &StoreKey) -> Option<Vec<u8>> {
        let found = self.inner.find(key);
        if found.is_none() {
            self.inner.counters.misses.one();
        }
        found
    }

    /// Publishes a result, which consists of these parts; false if somebody else has done so before.
    ///
    /// When this returns, it is durable, unless [`StoreBuilder::sync`] says otherwise.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be written; then nothing is published.
    pub fn put(&self, key: &StoreKey, body: &[&[u8]]) -> Result<bool, StoreError> {
        let written = self.inner.publish(key, body);
        self.inner.count_written(&written, body);
        if let Ok(Named::New) = written {
            self.sweep_if_needed(body.iter().map(|part| part.len() as u64).sum());
        }
        written.map(|named| named == Named::New)
    }

    /// Removes the result of this key; tells whether there was one.
    ///
    /// # Errors
    /// [`StoreError`] when it could not be removed.
    pub fn remove(&self, key: &StoreKey) -> Result<bool, StoreError> {
        let path = self.inner.files.entry(key);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(StoreError::new("remove", &path, error)),
        }
    }

    /// What it means that a result cannot be written.
    #[must_use]
    pub fn on_write_error(&self) -> OnWriteError {
        self.inner.options.on_write_error
    }

    /// Whether an `Err` that a task returns is kept.
    #[must_use]
    pub fn keeps_errors(&self) -> bool {
        self.inner.options.keep_errors
    }

    /// For how long a lease holds that is not renewed.
    #[must_use]
    pub fn lease_time(&self) -> Duration {
        self.inner.options.lease_time
    }
}

impl Inner {
    /// The body of an entry, which has been used thereby.
    fn find(&self, key: &StoreKey) -> Option<Vec<u8>> {
        let path = self.files.entry(key);
        let file = match files::open(&path) {
            Ok(file) => file,
            Err(error) => return self.unread(key, &path, Unread::Io(error)),
        };
        match entry::read_file(&file, key) {
            Ok(body) => {
                self.counters.hits.one();
                self.counters.bytes_read.add(body.len() as u64);
                self.note_use(&file);
                Some(body)
            }
            Err(unread) => self.unread(key, &path, unread),
        }
    }

    fn unread(&self, key: &StoreKey, path: &Path, unread: Unread) -> Option<Vec<u8>> {
        match unread {
            Unread::Io(error) if is_absent(&error) => {}
            Unread::Io(error) => {
                self.counters.read_errors.one();
                tracing::warn!(%error, entry = %path.display(), "a stored result cannot be read, and is taken as absent");
            }
            Unread::Flaw(flaw) => {
                self.counters.bad_entries.one();
                tracing::warn!(%flaw, entry = %path.display(), "a stored result is damaged, and is taken as absent");
                self.remove_bad(key, path);
            }
        }
        None
    }

    /// Removes an entry, if it is bad.
    fn remove_bad(&self, key: &StoreKey, path: &Path) {
        let is_bad = |path: &Path| matches!(look(path, key), Err(Unread::Flaw(_)));
        if let Err(error) = files::remove_if(path, is_bad)
            && !is_absent(&error)
        {
            tracing::debug!(%error, entry = %path.display(), "a damaged entry cannot be removed");
        }
    }

    /// So that it is not among the first to be removed.
    fn note_use(&self, file: &File) {
        let used = file.metadata().and_then(|meta| meta.modified());
        let now = SystemTime::now();
        let recent = |used: SystemTime| now.duration_since(used).is_ok_and(|ago| ago < RECENT);
        if !used.is_ok_and(recent) {
            // A store that cannot be written to is no error, nor is an entry of somebody else.
            let _ = files::touch(file);
        }
    }

    fn publish(&self, key: &StoreKey, body: &[&[u8]]) -> Result<Named, StoreError> {
        let (path, shard) = (self.files.entry(key), self.files.shard(key));
        let sync = self.options.sync;
        let header = entry::header(key, body);
        let write = || -> io::Result<Named> {
            // What is damaged has no claim to its name.
            for _ in 0..2 {
                let temporary = self.files.in_shard(&shard, sync, || files::temporary(&shard))?;
                files::write_all(temporary.as_file(), &[&header])?;
                files::write_all(temporary.as_file(), body)?;
                if sync {
                    temporary.as_file().sync_all()?;
                }
                if files::publish(temporary, &path)? == Named::New {
                    return Ok(Named::New);
                }
                match look(&path, key) {
                    Err(Unread::Flaw(_)) => self.remove_bad(key, &path),
                    _ => return Ok(Named::Taken),
                }
            }
            // It must not count as stored.
            Err(io::Error::other("what has its name is damaged and cannot be removed"))
        };
        let named = write().map_err(StoreError::of("write", &path))?;
        if named == Named::New
            && sync
            && let Err(error) = files::sync_dir(&shard)
        {
            // It would be found, and might not be there after a power failure: it must not count as stored.
            let _ = fs::remove_file(&path);
            return Err(StoreError::new("synchronise", &shard, error));
        }
        Ok(named)
    }

    fn count_written(&self, written: &Result<Named, StoreError>, body: &[&[u8]]) {
        match written {
            Ok(Named::New) => {
                self.counters.stored.one();
                self.counters.bytes_written.add(body.iter().map(|part| part.len() as u64).sum());
            }
            Ok(Named::Taken) => drop(self.counters.stored_by_others.one()),
            // The first one is news.
            Err(error) if self.counters.write_errors.one() == 1 => {
                tracing::warn!(%error, "a result cannot be stored");
            }
            Err(error) => tracing::debug!(%error, "a result cannot be stored"),
        }
    }

    /// What time it is on the file system.
    fn now(&self) -> SystemTime {
        self.clock.now(self.files.root())
    }
}

/// The body of the entry at a path.
fn look(path: &Path, key: &StoreKey) -> Result<Vec<u8>, Unread> {
    entry::read_file(&files::open(path).map_err(link_is_bad)?, key)
}

/// A link where an entry should be is a bad one.
fn link_is_bad(error: io::Error) -> Unread {
    match error.raw_os_error() {
        Some(nix::libc::ELOOP) => Unread::Flaw(Flaw::NoFile),
        _ => Unread::Io(error),
    }
}

impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

/// A store is equal to its clones.
impl Eq for Store {}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
