//! What happens in a signal handler, and at the exit of the program.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use crate::fork::Origin;

/// What a signal does to this program, before we look after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    Default,
    Ignored,
    /// The program has a handler of its own.
    Handled,
}

/// What a signal does to this program now.
pub(crate) fn disposition(signal: i32) -> io::Result<Disposition> {
    // SAFETY: plain data, valid for the call, which only reads.
    let (read, action) = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(signal, std::ptr::null(), &raw mut action), action)
    };
    match (read, action.sa_sigaction) {
        (0, libc::SIG_DFL) => Ok(Disposition::Default),
        (0, libc::SIG_IGN) => Ok(Disposition::Ignored),
        (0, _) => Ok(Disposition::Handled),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The signal that has come to a process, for whoever reads from the other end of a pipe.
#[derive(Debug)]
pub(crate) struct Letterbox {
    origin: Origin,
    /// 0: none has come.
    signal: AtomicI32,
    bell: io::PipeWriter,
}

/// That of this process. It is never freed, because a handler may be looking at it at any time.
static LETTERBOX: AtomicPtr<Letterbox> = AtomicPtr::new(null_mut());

impl Letterbox {
    pub(crate) fn new(bell: io::PipeWriter) -> &'static Self {
        Box::leak(Box::new(Self { origin: Origin::here(), signal: AtomicI32::new(0), bell }))
    }

    /// Makes this the one that handlers put signals into.
    pub(crate) fn publish(&'static self) {
        LETTERBOX.store(std::ptr::from_ref(self).cast_mut(), Ordering::Release);
    }

    /// That of this process; `None` too in a forked child that has made none of its own.
    fn of_this_process() -> Option<&'static Self> {
        let letterbox = LETTERBOX.load(Ordering::Acquire);
        // SAFETY: null, or what `publish` has leaked as a shared reference.
        unsafe { letterbox.as_ref() }.filter(|letterbox| !letterbox.origin.is_elsewhere())
    }

    pub(crate) fn signal(&self) -> i32 {
        self.signal.load(Ordering::Acquire)
    }
}

/// Has a signal put into the letterbox of this process, from now on and for ever. The program's own handler goes on to be called.
///
/// In a forked child the signal does what it did before.
pub(crate) fn catch(signal: i32, before: Disposition) -> io::Result<()> {
    let action = move || match Letterbox::of_this_process() {
        Some(letterbox) => {
            if letterbox.signal.swap(signal, Ordering::AcqRel) != 0 {
                // Somebody is in a hurry.
                end_by(signal);
            }
            ring(letterbox.bell.as_fd());
        }
        None if before == Disposition::Default => end_by(signal),
        None => {}
    };
    // SAFETY: atomic loads and exchanges (the word behind `Origin` has been mapped when the letterbox was made), write(2), and
    // `emulate_default_handler` are async-signal-safe, and nothing of it panics. errno is kept by signal-hook.
    unsafe { signal_hook::low_level::register(signal, action) }.map(drop)
}

fn ring(bell: BorrowedFd<'_>) {
    // SAFETY: one byte from a static; the descriptor is open. It is the only byte that is ever written, so it has room.
    unsafe { libc::write(bell.as_raw_fd(), [1_u8].as_ptr().cast(), 1) };
}

/// Does what a signal does by default; for one that ends the program, it does not return.
pub(crate) fn end_by(signal: i32) {
    // It fails for what is no signal.
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// Has the program end by the signal that has come, should it exit before somebody else ends it so.
pub(crate) fn end_at_exit() -> io::Result<()> {
    extern "C" fn end() {
        if let Some(signal) = Letterbox::of_this_process().map(Letterbox::signal)
            && signal != 0
        {
            // SAFETY: null stands for all output streams. The C library would flush them after this.
            unsafe { libc::fflush(null_mut()) };
            end_by(signal);
        }
    }
    // SAFETY: the function does not unwind, and lives as long as the program.
    match unsafe { libc::atexit(end) } {
        0 => Ok(()),
        _ => Err(io::ErrorKind::OutOfMemory.into()),
    }
}

/// Keeps a signal from the calling thread, for as long as it lives. What the kernel sends for something that this thread does, such
/// as `SIGXFSZ`, is then an error of the call alone.
pub(crate) fn block(signal: i32) {
    // SAFETY: plain data, valid for the calls, which fail for wrong numbers only; only the mask of this thread is changed.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispositions_are_told_apart() {
        // Nobody sends these two, and no other test depends on them.
        assert_eq!(disposition(libc::SIGWINCH).unwrap(), Disposition::Default);
        // SAFETY: no handler is installed.
        let before = unsafe { libc::signal(libc::SIGURG, libc::SIG_IGN) };
        assert_eq!(disposition(libc::SIGURG).unwrap(), Disposition::Ignored);
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGURG, before) };
        assert!(disposition(-1).is_err());
    }
}
