//! Writing to a pipe whose reader may be dead, in a program that has not ignored SIGPIPE.

/// Runs `write` so that a broken pipe is an error (`EPIPE`) and no signal.
///
/// Rust programs ignore SIGPIPE, and nothing needs to be done for them but to look. A program that has restored the default action would
/// be killed by the death of a worker: there, the signal is blocked for this thread, and taken out of the pending set if
/// `write` has raised it.
pub(crate) fn without_sigpipe<T>(write: impl FnOnce() -> T) -> T {
    // SAFETY: plain data, valid for the call, which only reads the disposition.
    let ignored = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    };
    if ignored {
        return write();
    }
    let guard = Blocked::new();
    let result = write();
    drop(guard);
    result
}

/// SIGPIPE blocked in this thread.
struct Blocked {
    before: libc::sigset_t,
    was_pending: bool,
}

impl Blocked {
    fn new() -> Self {
        // SAFETY: plain data, valid for the calls; only this thread's mask is changed.
        unsafe {
            let mut pending: libc::sigset_t = std::mem::zeroed();
            libc::sigpending(&raw mut pending);
            let was_pending = libc::sigismember(&raw const pending, libc::SIGPIPE) == 1;
            let mut before: libc::sigset_t = std::mem::zeroed();
            let set = only_sigpipe();
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            Self { before, was_pending }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: plain data, valid for the calls; the mask is what it was before.
        unsafe {
            if !self.was_pending {
                let (set, now) = (only_sigpipe(), libc::timespec { tv_sec: 0, tv_nsec: 0 });
                // EAGAIN: `write` has raised none.
                libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const now);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

fn only_sigpipe() -> libc::sigset_t {
    // SAFETY: plain data, valid for the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write};

    #[test]
    fn a_broken_pipe_is_an_error_even_where_the_signal_would_kill() {
        let (reader, mut writer) = std::io::pipe().expect("descriptors are left");
        drop(reader);
        // SAFETY: the disposition is put back below, and no other test depends on it meanwhile: with it, a stray SIGPIPE
        // would be the very failure that is tested for.
        let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let result = without_sigpipe(|| writer.write_all(b"x"));
        // SAFETY: as above.
        unsafe { libc::signal(libc::SIGPIPE, before) };
        assert_eq!(result.expect_err("nobody reads").kind(), ErrorKind::BrokenPipe);
    }
}
