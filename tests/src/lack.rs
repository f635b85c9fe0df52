//! Kernels that lack something.

use std::io;

/// Runs something on a thread for which, and for all that it starts, the kernel does not have these system calls.
///
/// # Panics
/// When it panics, or the kernel has no seccomp filters.
pub fn without<T: Send>(calls: &[libc::c_long], run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            forget(calls).expect("a kernel with seccomp filters");
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn forget(calls: &[libc::c_long]) -> io::Result<()> {
    const ALLOW: u32 = 0x7FFF_0000;
    const UNKNOWN: u32 = 0x0005_0000 | libc::ENOSYS as u32;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let mut steps = vec![step(0x20, 0, 0, 0)];
    for call in calls {
        steps.extend([step(0x15, *call as u32, 0, 1), step(0x06, UNKNOWN, 0, 0)]);
    }
    steps.push(step(0x06, ALLOW, 0, 0));
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: integers, and a program that is valid for the call, which copies it.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) < 0
    };
    if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
}
