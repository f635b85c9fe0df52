//! How a worker denies itself what it is told to.
//!
//! # Order
//! 1. [`limit`], while the process still has its privileges: it joins its control groups, so that whatever it starts is in them,
//!    and takes its limits.
//! 2. Everything is opened that the worker itself needs, and its hello is put together.
//! 3. [`enter`], before a state is built: Landlock binds the calling thread and those that it
//!    starts. A process that has threads by now is refused.
//!
//! After that the worker opens nothing any more. Its pipes, its region and the socket for large payloads are open; memory
//! for large results, and pages of its own, need no rights.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pool_ipc::{Confinement, Jail};

use crate::sys::landlock::{self, Ruleset, access};
use crate::sys::{clone, confine, seccomp};

/// Joins control groups and takes limits. The answer is what limits the processor time of tasks.
///
/// # Errors
/// What cannot be done, for people.
pub(super) fn limit(to: &Confinement) -> Result<Option<confine::CpuTimer>, String> {
    for group in &to.groups {
        let path = OsStr::from_bytes(group);
        // 0 stands for the process that writes it.
        OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(b"0")).map_err(
            |error| format!("it cannot join its control group through {}: {error}", path.display()),
        )?;
    }
    for (resource, name, wanted) in [
        (Resource::RLIMIT_NOFILE, "RLIMIT_NOFILE", to.open_files),
        (Resource::RLIMIT_FSIZE, "RLIMIT_FSIZE", to.file_size),
    ] {
        let Some(wanted) = wanted else { continue };
        let set =
            getrlimit(resource).and_then(|(_, most)| setrlimit(resource, wanted.min(most), wanted.min(most)));
        set.map_err(|error| format!("its {name} cannot be set: {error}"))?;
    }
    if to.cpu_ns == 0 {
        return Ok(None);
    }
    let timer = confine::CpuTimer::new(Duration::from_nanos(to.cpu_ns));
    timer.map(Some).map_err(|error| format!("the processor time of its tasks cannot be limited: {error}"))
}

/// Gives up for good what the sandbox denies.
///
/// # Errors
/// What cannot be given up, for people.
pub(super) fn enter(to: &Confinement) -> Result<(), String> {
    if let Some(scratch) = &to.scratch {
        confine::set_env("TMPDIR", OsStr::from_bytes(scratch));
    }
    let Some(jail) = &to.jail else { return Ok(()) };
    let os = |what: &'static str| {
        move |error: io::Error| format!("its sandbox cannot be entered: {what}: {error}")
    };
    if clone::threads().map_err(os("its threads cannot be counted"))? != 1 {
        return Err("its sandbox cannot be entered: it has threads already, which would stay outside; \
                    `pool_core::init()` should be the first line of main()"
            .to_owned());
    }
    confine::forbid_new_privileges().map_err(os("no_new_privs"))?;
    confine::drop_capabilities().map_err(os("its capabilities cannot be given up"))?;
    if !jail.processes {
        confine::be_killed_with_parent().map_err(os("its death signal"))?;
    }
    match landlock::abi() {
        Ok(abi) => restrict(jail, abi, to.scratch.as_deref())?,
        Err(error) if jail.best_effort => {
            complain(&format!("no Landlock ({error}): files are within its reach"))
        }
        Err(error) => return Err(os("Landlock")(error)),
    }
    let allowed = seccomp::Allowed {
        attributes: !jail.files,
        network: jail.network,
        processes: jail.processes,
        signals: jail.processes && landlock::has_scopes(),
    };
    match seccomp::install(allowed) {
        Ok(()) => Ok(()),
        Err(error) if jail.best_effort => {
            complain(&format!("no seccomp filter ({error}): system calls are within its reach"));
            Ok(())
        }
        Err(error) => Err(os("seccomp")(error)),
    }
}

fn restrict(jail: &Jail, abi: u32, scratch: Option<&[u8]>) -> Result<(), String> {
    let os = |error: io::Error| format!("its sandbox cannot be entered: Landlock: {error}");
    // Also where files are left alone: what is in a ruleset of its own is kept from the memory of others. The one right that is
    // denied then is none that anybody has who has no capabilities.
    let files = if jail.files { landlock::all_rights(abi) } else { access::MAKE_BLOCK };
    let rules = Ruleset::new(abi, files, !jail.network).map_err(os)?;
    let execute = if jail.processes { access::EXECUTE } else { 0 };
    let read = access::READ_FILE | access::READ_DIR | execute;
    let write = files & !(access::EXECUTE | access::MAKE_CHAR | access::MAKE_BLOCK) | execute;
    let listed = [(&jail.read, read), (&jail.write, write)];
    let listed =
        listed.into_iter().flat_map(|(paths, rights)| paths.iter().map(move |path| (&path[..], rights)));
    for (path, rights) in listed.chain(scratch.filter(|_| jail.files).map(|path| (path, write))) {
        allow(&rules, OsStr::from_bytes(path), rights).map_err(|error| {
            format!("its sandbox cannot be entered: {}: {error}", OsStr::from_bytes(path).display())
        })?;
    }
    rules.restrict_self().map_err(os)
}

fn allow(rules: &Ruleset, path: &OsStr, rights: u64) -> io::Result<()> {
    /// The rights that a file can have which is no directory.
    const OF_FILES: u64 =
        access::EXECUTE | access::WRITE_FILE | access::READ_FILE | access::TRUNCATE | access::IOCTL_DEV;
    let beneath: File = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let rights = if beneath.metadata()?.is_dir() { rights } else { rights & OF_FILES };
    rules.allow(beneath.as_fd(), rights)
}

/// Says on stderr, if there is one, what the kernel lacks.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "pool worker works in half a sandbox: {what}");
}
