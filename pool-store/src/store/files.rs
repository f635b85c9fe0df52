//! Where things are in the directory of a store, and how they get there and away.
//!
//! ```text
//! v1/swept                    when somebody has cleared up last
//! v1/ab/cdef…                 the entry whose key is abcdef…
//! v1/ab/cdef….lease           somebody computes it
//! v1/ab/.tmp-…                being written, or on its way out
//! ```
//!
//! Another format would be in another directory than `v1`. Nothing else in these directories is touched.
//!
//! # Removing what is not wanted
//! A name can be given to something else between a look at it and its removal. So whatever is removed because of what it *is*, is
//! renamed first, to a temporary name that nobody else uses, and looked at once more there. If it is something else, it gets its
//! name back, unless that has been taken meanwhile. While it is away it is absent, which costs nobody more than computing again.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use tempfile::NamedTempFile;

use super::key::StoreKey;

/// What the names of temporaries begin with.
pub(crate) const TEMPORARY: &str = ".tmp-";
/// What the names of leases end with.
pub(crate) const LEASE: &str = ".lease";

/// The directory of a store.
#[derive(Debug)]
pub(crate) struct Files {
    /// With the version.
    root: PathBuf,
}

/// What a name in a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Entry,
    Lease,
    Temporary,
}

impl Found {
    pub(crate) fn of(name: &str) -> Option<Self> {
        let is_rest = |name: &str| {
            name.len() == 62 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        match name.strip_suffix(LEASE) {
            Some(rest) if is_rest(rest) => Some(Self::Lease),
            _ if is_rest(name) => Some(Self::Entry),
            _ if name.starts_with(TEMPORARY) => Some(Self::Temporary),
            _ => None,
        }
    }
}

/// Whether what is published is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    New,
    /// There is something of that name.
    Taken,
}

impl Files {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { root: dir.join("v1") }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn swept(&self) -> PathBuf {
        self.root.join("swept")
    }

    pub(crate) fn shard(&self, key: &StoreKey) -> PathBuf {
        self.root.join(format!("{:02x}", key.0[0]))
    }

    pub(crate) fn entry(&self, key: &StoreKey) -> PathBuf {
        let name = key.to_string();
        let (shard, rest) = name.split_at(2);
        self.root.join(shard).join(rest)
    }

    pub(crate) fn lease(&self, key: &StoreKey) -> PathBuf {
        let mut path = self.entry(key).into_os_string();
        path.push(LEASE);
        path.into()
    }

    /// The directories of entries that exist.
    pub(crate) fn shards(&self) -> io::Result<Vec<PathBuf>> {
        let mut shards = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.len() == 2 && bytes.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                shards.push(entry.path());
            }
        }
        Ok(shards)
    }

    /// Does something in a directory of entries, which is made if it is not there. `sync`: durably.
    pub(crate) fn in_shard<T>(
        &self,
        shard: &Path,
        sync: bool,
        mut work: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(shard)?;
                if sync {
                    sync_dir(&self.root)?;
                }
                work()
            }
            done => done,
        }
    }
}

/// A new file with a name by chance that nobody else has. It is removed when it is dropped.
pub(crate) fn temporary(dir: &Path) -> io::Result<NamedTempFile> {
    // As any program's file: the umask decides who may read it.
    let mode = Permissions::from_mode(0o666);
    tempfile::Builder::new().prefix(TEMPORARY).rand_bytes(16).permissions(mode).tempfile_in(dir)
}

/// Opens what should be a regular file. What it is instead does not block: neither a link nor a FIFO.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
}

/// A new file; fails if the name is taken.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Sets the times of an empty file to now; it is made if it is not there. What is there instead is left: the file that a link leads
/// to is somebody else's, and a FIFO would block.
pub(crate) fn mark(path: &Path) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(path)?;
    touch(&file)
}

/// Gives a temporary its name, unless that is taken; the temporary name is gone then in any case.
///
/// First without overwriting, by `renameat2` or, where the file system lacks that (NFS), by `link`. Where it lacks both, somebody
/// who gives another file the same name at the same moment is overwritten: by what is as good.
pub(crate) fn publish(temporary: NamedTempFile, path: &Path) -> io::Result<Named> {
    let failed = match temporary.persist_noclobber(path) {
        Ok(_) => return Ok(Named::New),
        Err(failed) => failed,
    };
    match Errno::from_raw(failed.error.raw_os_error().unwrap_or(0)) {
        // The answer to a link may be lost on the way from a server, and the client asks again.
        Errno::EEXIST if failed.file.as_file().metadata()?.nlink() > 1 => Ok(Named::New),
        Errno::EEXIST => Ok(Named::Taken),
        Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK => {
            if path.symlink_metadata().is_ok() {
                return Ok(Named::Taken);
            }
            failed.file.persist(path).map(|_| Named::New).map_err(|failed| failed.error)
        }
        _ => Err(failed.error),
    }
}

/// Makes the names in a directory durable, as far as its file system knows such a thing.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(()),
        done => done,
    }
}

/// Sets the times of a file to now, by the clock of its file system. Who may write to the file may do that.
pub(crate) fn touch(file: &File) -> io::Result<()> {
    Ok(futimens(file, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW)?)
}

/// Removes what has a name, if `is_it` says, of the name that it has when it cannot be exchanged any more, that it is the right one;
/// otherwise everything is as before.
pub(crate) fn remove_if(path: &Path, is_it: impl FnOnce(&Path) -> bool) -> io::Result<bool> {
    let dir = path.parent().unwrap_or(Path::new("."));
    // The file holds the name until it is overwritten by the rename.
    let aside = temporary(dir)?.into_temp_path();
    fs::rename(path, &aside)?;
    if is_it(&aside) {
        aside.close()?;
        return Ok(true);
    }
    match fs::hard_link(&aside, path) {
        // Removed: the name that it had in between.
        Ok(()) => drop(aside),
        // A newer one has come.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(aside),
        // Without links.
        Err(_) => aside.persist_noclobber(path).map(drop).or_else(|failed| match failed.error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(failed.error),
        })?,
    }
    Ok(false)
}

/// The time of the last change of a file's contents, to tell whether it has been touched, and by the clock of its file system.
pub(crate) fn stamp(meta: &Metadata) -> (i64, i64) {
    (meta.mtime(), meta.mtime_nsec())
}

/// Writes all parts.
pub(crate) fn write_all(mut file: &File, parts: &[&[u8]]) -> io::Result<()> {
    parts.iter().try_for_each(|part| file.write_all(part))
}
