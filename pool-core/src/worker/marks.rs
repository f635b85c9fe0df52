//! Marks in a worker's output, when its pool wants to know which task has printed what.
//!
//! A mark is written before each task to both streams, in one piece. Whatever comes behind it belongs to that task, until the
//! next mark: also what a thread prints that the task has left behind.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use pool_ipc::boot::out_of_the_way;
use pool_ipc::{Boot, mark};

use super::wire::identity;

/// The two streams, by descriptors of their own: a task may put something else in the place of 1 and 2.
pub(super) struct Marks {
    streams: [Option<Stream>; 2],
}

struct Stream {
    pipe: OwnedFd,
    identity: Option<(u64, u64)>,
}

impl Marks {
    pub(super) fn wanted(boot: &Boot) -> Option<Self> {
        boot.marks
            .then(|| Self { streams: [Stream::of(io::stdout().as_fd()), Stream::of(io::stderr().as_fd())] })
    }

    /// What is printed from now on belongs to this task.
    pub(super) fn begin(&self, task: u64) {
        flush_stdout();
        let mark = mark::encode(task);
        for stream in self.streams.iter().flatten() {
            stream.write(&mark);
        }
    }
}

impl Stream {
    fn of(stream: BorrowedFd<'_>) -> Option<Self> {
        // Without a stream there is nothing to mark.
        let pipe = out_of_the_way(stream.try_clone_to_owned().ok()?);
        Some(Self { identity: identity(&pipe), pipe })
    }

    fn write(&self, mark: &[u8]) {
        // A task may have closed it, and opened a file of its own under the same number.
        if identity(&self.pipe) != self.identity {
            return;
        }
        // Shorter than PIPE_BUF: it is written as a whole. Without it, somebody else is taken for the author.
        while nix::unistd::write(&self.pipe, mark) == Err(Errno::EINTR) {}
    }
}

/// Has everything printed that Rust code has left in the buffer of `stdout`.
pub(super) fn flush_stdout() {
    // A stream that takes no text loses it, as it would in the task.
    let _ = io::stdout().flush();
}
