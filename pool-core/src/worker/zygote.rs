//! The process that forks workers, from the inside.
//!
//! # Order of events
//! 1. [`init`](super::init) finds that this process is to be a zygote. It is put in order as a worker is: inherited descriptors
//!    closed, signals reset, death signal set. It starts no thread, and says that it is ready, or why it never will be.
//! 2. It waits for the descriptors of a worker on its socket, and forks.
//! 3. The child says its process id, and only then leaves the process group of the zygote; what becomes of
//!    it if either dies in between is told in [`supervisor::zygote`](crate::supervisor::zygote).
//! 4. The child puts the descriptors in the place of its standard streams. From here on it does what a spawned worker does,
//!    and first of all closes every other descriptor.
//!
//! Nothing of a worker is left in the zygote, so no worker gets anything of another one. The end of the socket ends the zygote.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use pool_ipc::BOOT_ENV;
use pool_ipc::boot::receive_descriptor;

use crate::supervisor::zygote::{Answer, Part};
use crate::sys::clone::{Anchor, Refused, Side, threads};
use crate::sys::{process, setup};
use crate::worker::init::close_inherited;

/// Serves requests. It returns in forked children only, which are to become workers.
pub(super) fn run() -> io::Result<()> {
    setup::remove_env(BOOT_ENV);
    close_inherited();
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    setup::die_with_parent()?;
    setup::reset_signals();
    setup::null_stdin()?;
    setup::set_name("pool-zygote");
    // What is in a buffer now would be printed by every child.
    io::stdout().flush()?;
    setup::flush_c_streams();
    let anchor = match prepare() {
        Ok(anchor) => anchor,
        Err(why) => {
            why.send(socket.as_fd())?;
            std::process::exit(0)
        }
    };
    Answer::Ready.send(socket.as_fd())?;
    let mut request = Request::default();
    loop {
        let Some((number, fd)) = next(&socket)? else { std::process::exit(0) };
        let Some(ends) = request.take(number, fd) else { continue };
        match anchor.fork_sibling() {
            Ok(Side::Parent) => {}
            Ok(Side::Child) => return become_child(socket, ends),
            Err(why) => answer_to(&why).send(socket.as_fd())?,
        }
    }
}

/// Whether this process can be forked.
fn prepare() -> Result<Anchor, Answer> {
    let os = |error: io::Error| answer_to(&Refused::Os(error));
    if threads().map_err(os)? != 1 {
        return Err(Answer::Threads);
    }
    Anchor::find().map_err(os)
}

fn answer_to(why: &Refused) -> Answer {
    match why {
        Refused::Threads => Answer::Threads,
        Refused::Os(error) => Answer::Os(error.raw_os_error().unwrap_or(libc::ENOTSUP)),
    }
}

/// The next descriptor; `None` when the supervisor is gone.
fn next(socket: &OwnedFd) -> io::Result<Option<(u64, OwnedFd)>> {
    match receive_descriptor(socket.as_fd(), true) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            Ok(None)
        }
        received => received,
    }
}

/// The standard streams of a worker.
struct Ends {
    boot: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

/// What has come of a request.
#[derive(Default)]
struct Request {
    boot: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
}

impl Request {
    /// Adds a descriptor, and returns them all with the last one. The first one drops what there was of an older request, which
    /// has not been sent whole.
    fn take(&mut self, number: u64, fd: OwnedFd) -> Option<Ends> {
        if number == Part::Boot as u64 {
            *self = Self { boot: Some(fd), stdout: None };
        } else if number == Part::Stdout as u64 {
            self.stdout = Some(fd);
        } else if number == Part::Stderr as u64 {
            let Self { boot, stdout } = std::mem::take(self);
            return Some(Ends { boot: boot?, stdout: stdout?, stderr: fd });
        }
        None
    }
}

/// The first steps of a child.
fn become_child(socket: OwnedFd, ends: Ends) -> io::Result<()> {
    if Answer::Forked(std::process::id()).send(socket.as_fd()).is_err() {
        // Nobody knows of it, and who does not answer is taken for dead.
        setup::leave();
    }
    drop(socket);
    process::lead_group()?;
    setup::replace_streams([ends.boot, ends.stdout, ends.stderr])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_complete_with_its_last_descriptor_and_begins_anew_with_its_first() {
        let fd = || io::stdin().as_fd().try_clone_to_owned().expect("descriptors are left");
        let mut request = Request::default();
        let mut take = |part: Part| request.take(part as u64, fd()).is_some();
        assert!(!take(Part::Stderr), "nothing came before it");
        assert!(!take(Part::Boot) && !take(Part::Stdout) && !take(Part::Boot));
        assert!(!take(Part::Stderr), "the second is missing");
        assert!(!take(Part::Boot) && !take(Part::Stdout) && take(Part::Stderr));
        assert!(!take(Part::Stderr), "it was taken");
        assert!(request.take(9, fd()).is_none());
    }
}
