//! Landlock: a process gives up files, and signals to others.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a ruleset is about, of `linux/landlock.h`.
pub(crate) mod access {
    pub(crate) const EXECUTE: u64 = 1 << 0;
    pub(crate) const WRITE_FILE: u64 = 1 << 1;
    pub(crate) const READ_FILE: u64 = 1 << 2;
    pub(crate) const READ_DIR: u64 = 1 << 3;
    pub(crate) const MAKE_CHAR: u64 = 1 << 6;
    pub(crate) const MAKE_BLOCK: u64 = 1 << 11;
    pub(crate) const TRUNCATE: u64 = 1 << 14;
    pub(crate) const IOCTL_DEV: u64 = 1 << 15;
}

const SYS_CREATE_RULESET: libc::c_long = 444;
const SYS_ADD_RULE: libc::c_long = 445;
const SYS_RESTRICT_SELF: libc::c_long = 446;
/// The version that tells signals and abstract sockets of others apart.
const SCOPES_SINCE: u32 = 6;

/// The version of Landlock that the kernel has, from 1 on.
pub(crate) fn abi() -> io::Result<u32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag no memory is passed.
    let abi = unsafe { libc::syscall(SYS_CREATE_RULESET, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// Whether the kernel can deny signals to processes outside alone.
pub(crate) fn has_scopes() -> bool {
    abi().is_ok_and(|abi| abi >= SCOPES_SINCE)
}

/// All rights to files that this version knows.
pub(crate) fn all_rights(abi: u32) -> u64 {
    let bits = match abi {
        ..=1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << bits) - 1
}

/// What is to be denied, and the exceptions.
#[derive(Debug)]
pub(crate) struct Ruleset {
    fd: OwnedFd,
    files: u64,
}

/// `struct landlock_ruleset_attr`.
#[repr(C)]
struct RulesetAttr {
    files: u64,
    net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

impl Ruleset {
    /// Denies these rights to all files, TCP if it is to be denied, and what else concerns processes outside, as far as the
    /// kernel's version knows it.
    pub(crate) fn new(abi: u32, files: u64, deny_network: bool) -> io::Result<Self> {
        /// `SCOPE_ABSTRACT_UNIX_SOCKET`.
        const SOCKETS: u64 = 1;
        /// `SCOPE_SIGNAL`.
        const SIGNALS: u64 = 2;
        let has_scopes = abi >= SCOPES_SINCE;
        let attr = RulesetAttr {
            files,
            // Binding and connecting.
            net: if deny_network && abi >= 4 { 3 } else { 0 },
            scoped: if has_scopes { SIGNALS | if deny_network { SOCKETS } else { 0 } } else { 0 },
        };
        // SAFETY: the structure is valid for the call. A kernel that knows less of it accepts zeros behind that.
        let fd = unsafe { libc::syscall(SYS_CREATE_RULESET, &raw const attr, size_of::<RulesetAttr>(), 0) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just returned this descriptor, and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, files })
    }

    /// Allows these rights to a file, or to all beneath a directory.
    pub(crate) fn allow(&self, beneath: BorrowedFd<'_>, rights: u64) -> io::Result<()> {
        const RULE_PATH_BENEATH: libc::c_int = 1;
        let rule = PathBeneath { allowed: rights & self.files, parent: beneath.as_raw_fd() };
        // SAFETY: the structure is valid for the call.
        let failed = unsafe {
            libc::syscall(SYS_ADD_RULE, self.fd.as_raw_fd(), RULE_PATH_BENEATH, &raw const rule, 0)
        };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Binds the calling thread and those that it starts from now on, for good. It needs `no_new_privs`.
    pub(crate) fn restrict_self(self) -> io::Result<()> {
        // SAFETY: two integers.
        let failed = unsafe { libc::syscall(SYS_RESTRICT_SELF, self.fd.as_raw_fd(), 0) };
        if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
