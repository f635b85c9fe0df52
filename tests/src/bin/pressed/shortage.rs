//! Functions of the C library that this program replaces, so that they fail, or tell another time, when a play wants it.
//!
//! The linker takes a function of the program itself before one of the same name in the C library, also where the standard
//! library calls it. The C library's own calls are not affected, so memory for the heap and for threads is there as ever.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

/// Shared memory is refused, with `ENOMEM`.
pub(crate) static NO_MEMORY: AtomicBool = AtomicBool::new(false);
/// Memory for files without a name is refused, with `ENOMEM`.
pub(crate) static NO_MEMFD: AtomicBool = AtomicBool::new(false);
/// New processes are refused, with this error; 0: they are not.
pub(crate) static NO_SPAWN: AtomicI64 = AtomicI64::new(0);
/// How far the wall clock is ahead, in seconds.
pub(crate) static AHEAD: AtomicI64 = AtomicI64::new(0);
/// How often the wall clock was asked.
pub(crate) static ASKED: AtomicI64 = AtomicI64::new(0);

fn refuse(errno: libc::c_int) {
    // SAFETY: the place of this thread's own error number.
    unsafe { *libc::__errno_location() = errno };
}

/// mmap(2).
///
/// # Safety
/// That of mmap(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    address: *mut libc::c_void,
    len: libc::size_t,
    protection: libc::c_int,
    flags: libc::c_int,
    fd: libc::c_int,
    offset: libc::off_t,
) -> *mut libc::c_void {
    if flags & libc::MAP_SHARED != 0 && NO_MEMORY.load(Ordering::SeqCst) {
        refuse(libc::ENOMEM);
        return libc::MAP_FAILED;
    }
    // SAFETY: what the caller has promised for mmap(2), handed on as it is.
    unsafe { libc::syscall(libc::SYS_mmap, address, len, protection, flags, fd, offset) as *mut libc::c_void }
}

/// memfd_create(2).
///
/// # Safety
/// That of memfd_create(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn memfd_create(name: *const libc::c_char, flags: libc::c_uint) -> libc::c_int {
    if NO_MEMFD.load(Ordering::SeqCst) {
        refuse(libc::ENOMEM);
        return -1;
    }
    // SAFETY: what the caller has promised for memfd_create(2), handed on as it is.
    unsafe { libc::syscall(libc::SYS_memfd_create, name, flags) as libc::c_int }
}

/// posix_spawnp(3), by which the standard library starts processes.
///
/// # Safety
/// That of posix_spawnp(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_spawnp(
    pid: *mut libc::pid_t,
    program: *const libc::c_char,
    actions: *const libc::posix_spawn_file_actions_t,
    attributes: *const libc::posix_spawnattr_t,
    arguments: *const *mut libc::c_char,
    environment: *const *mut libc::c_char,
) -> libc::c_int {
    match NO_SPAWN.load(Ordering::SeqCst) {
        // SAFETY: what the caller has promised, handed on as it is. The programs of these plays are given by their paths, for
        // which this is the same.
        0 => unsafe { libc::posix_spawn(pid, program, actions, attributes, arguments, environment) },
        errno => errno as libc::c_int,
    }
}

/// clock_gettime(2).
///
/// # Safety
/// That of clock_gettime(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: what the caller has promised for clock_gettime(2), handed on as it is.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0 && (clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE) {
        ASKED.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the kernel has just written to it.
        unsafe { (*time).tv_sec += AHEAD.load(Ordering::SeqCst) };
    }
    result as libc::c_int
}
