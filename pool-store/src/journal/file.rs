//! Opening the file of a journal: the right kind of file, for this program alone, and there for good.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::error::JournalError;

/// How long a lock is waited for: a program that has just been killed holds it until the kernel has cleared it away.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long until it is tried again.
const AGAIN: Duration = Duration::from_millis(10);

/// Opens the file, which is made if it is not there, and locks it.
///
/// The lock is that of the open file description: other programs and other openings in this program respect it, and the kernel
/// gives it up with the program, however that ends. On NFS it is one of the server's.
pub(crate) fn open(path: &Path) -> Result<Flock<File>, JournalError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let file = open_once(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) if is_at(&locked, path) => return Ok(locked),
            Ok(_) | Err((_, Errno::EWOULDBLOCK)) if Instant::now() < until => {}
            // Others move files there, again and again.
            Ok(_) => return Err(failed("find", path, io::ErrorKind::NotFound.into())),
            Err((_, Errno::EWOULDBLOCK)) => return Err(JournalError::Locked { path: path.to_owned() }),
            Err((_, errno)) => return Err(failed("lock", path, errno.into())),
        }
        thread::sleep(AGAIN);
    }
}

fn open_once(path: &Path) -> Result<File, JournalError> {
    // A pipe must not block us, nor a terminal become ours; and a link may lead to a file that is something else's.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags.bits())
        .open(path);
    let file = opened.map_err(|error| match kind(path) {
        Some(kind) => JournalError::NotAFile { path: path.to_owned(), kind },
        None => failed("open", path, error),
    })?;
    let is_file = file.metadata().map_err(|error| failed("look at", path, error))?.is_file();
    if is_file {
        return Ok(file);
    }
    let kind = kind(path).unwrap_or("something else");
    Err(JournalError::NotAFile { path: path.to_owned(), kind })
}

/// What is there, if it is no regular file.
fn kind(path: &Path) -> Option<&'static str> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    Some(match () {
        () if kind.is_file() => return None,
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    })
}

/// Whether the file is the one that the path leads to.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Makes the name of a new file survive the death of the machine.
pub(crate) fn sync_directory(path: &Path) -> Result<(), JournalError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    match synced {
        // Some file systems cannot, and need not.
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => Ok(()),
        synced => synced.map_err(|error| failed("sync the directory of", path, error)),
    }
}

pub(crate) fn failed(what: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io { what, path: PathBuf::from(path), source }
}
