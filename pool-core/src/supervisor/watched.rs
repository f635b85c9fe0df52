//! A descriptor that may be registered with epoll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use crate::supervisor::token::Token;

/// A descriptor that is taken out of epoll before it is closed.
///
/// Closing alone is not enough: epoll watches the open file, and a forked child of this program may hold another
/// descriptor of the same file. Its events would then be reported for ever.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: OwnedFd,
    epoll: Arc<Epoll>,
    watched: bool,
}

impl Watched {
    pub(crate) fn new(fd: OwnedFd, epoll: &Arc<Epoll>) -> Self {
        Self { fd, epoll: Arc::clone(epoll), watched: false }
    }

    /// Reports `flags` (level-triggered) under this token, unless it is watched already.
    pub(crate) fn watch(&mut self, flags: EpollFlags, token: Token) -> io::Result<()> {
        if !self.watched {
            self.epoll.add(&self.fd, EpollEvent::new(flags, token.encode()))?;
            self.watched = true;
        }
        Ok(())
    }

    /// Has another epoll instance report readiness from now on.
    pub(crate) fn rewatch(&mut self, epoll: &Arc<Epoll>, flags: EpollFlags, token: Token) -> io::Result<()> {
        self.unwatch()?;
        self.epoll = Arc::clone(epoll);
        self.watch(flags, token)
    }

    /// Reports nothing more, not even a hang-up.
    pub(crate) fn unwatch(&mut self) -> io::Result<()> {
        if self.watched {
            self.epoll.delete(&self.fd)?;
            self.watched = false;
        }
        Ok(())
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Err(error) = self.unwatch() {
            tracing::error!(%error, "cannot take a descriptor out of epoll");
        }
    }
}
