//! Processes as `/proc` shows them. A process that ends while it is looked at is one that is gone.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The fields of `/proc/<pid>/stat` behind the name, from the state (`R`, `S`, `T`, `Z`, …) on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name is in parentheses, and may contain anything.
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}

/// The state of a process, or `None` when it is gone.
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Whether a process is there and can still run: zombies and the dying are not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The parent of a process.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The process group of a process.
#[must_use]
pub fn group(pid: u32) -> Option<u32> {
    stat(pid)?.get(2)?.parse().ok()
}

/// What a failure report says of a process.
#[must_use]
pub fn describe(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    format!("{pid} [{}] {command}", state(pid).unwrap_or('-'))
}

/// Every process on the machine.
fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The children of this process, zombies included.
#[must_use]
pub fn children() -> BTreeSet<u32> {
    children_of(std::process::id())
}

/// The children of a process, zombies included.
#[must_use]
pub fn children_of(of: u32) -> BTreeSet<u32> {
    all().filter(|pid| parent(*pid) == Some(of)).collect()
}

/// The system call in which the first thread of a process waits, if it does; see proc_pid_syscall(5).
#[must_use]
pub fn system_call(pid: u32) -> Option<i64> {
    fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

/// Every process whose environment contains this text, whoever has become its parent.
#[must_use]
pub fn marked(text: &str) -> BTreeSet<u32> {
    let is_marked = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == text.as_bytes())
    };
    all().filter(is_marked).collect()
}

/// Sends a signal; a process that is gone is none to be told.
pub fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("the kernel's own number"));
    if let Err(error) = kill(pid, signal) {
        assert_eq!(error, nix::errno::Errno::ESRCH, "cannot send {signal} to {pid}");
    }
}

/// The number behind `key` in `/proc/<pid>/status`, in the base given.
#[must_use]
pub fn status(pid: u32, key: &str, base: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    u64::from_str_radix(line.split_ascii_whitespace().next()?, base).ok()
}
