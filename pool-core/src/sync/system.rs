//! What the system has.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, fence};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// The time.
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Accesses memory that a worker accesses, too.
#[inline]
pub(crate) fn across<T>(access: impl FnOnce() -> T) -> T {
    access()
}

pub(crate) mod thread {
    use std::io;
    pub(crate) use std::thread::{Thread, current, park, park_timeout, yield_now};

    /// A thread that nobody waits for.
    pub(crate) fn detach(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        std::thread::Builder::new().name(name).spawn(run).map(drop)
    }
}

pub(crate) mod channel {
    pub(crate) use crossbeam_channel::{Sender, unbounded};
}

/// Descriptors that threads sleep on.
pub(crate) mod ready {
    use nix::poll::{PollFd, PollTimeout};
    use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};

    pub(crate) use crate::sys::process::arm_timer;

    /// Does something for which others may be asleep on a descriptor.
    #[inline]
    pub(crate) fn tell<T>(write: impl FnOnce() -> T) -> T {
        write()
    }

    /// Sleeps until one of the descriptors is ready.
    pub(crate) fn poll(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> nix::Result<libc::c_int> {
        nix::poll::poll(fds, timeout)
    }

    /// Sleeps until something in the epoll set is ready.
    pub(crate) fn wait(epoll: &Epoll, events: &mut [EpollEvent]) -> nix::Result<usize> {
        epoll.wait(events, EpollTimeout::NONE)
    }
}
