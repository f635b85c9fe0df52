//! What a task can do to go on for ever, without an end of its process.

/// Ends this thread alone. Another one lives on, and does this again and again.
pub(crate) fn end_thread(does: fn()) -> ! {
    std::thread::spawn(move || {
        loop {
            does();
        }
    });
    loop {
        // SAFETY: exit(2) ends this thread, and nothing of it is used by others.
        unsafe { libc::syscall(libc::SYS_exit, 3) };
    }
}

/// Stops at a signal until the parent, which is its debugger from now on, has looked at it.
pub(crate) fn stop_for_parent() {
    // SAFETY: PTRACE_TRACEME takes nothing; raise(3) takes a number. By default this signal is ignored.
    unsafe {
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        libc::raise(libc::SIGWINCH);
    }
}
