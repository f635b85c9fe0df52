//! Who has a lease, and whether that process still lives.
//!
//! A process is told from all others by the boot of its kernel, its namespace of process ids, its id, and when it was started.
//! Whether another one lives can be told only where all but the last two are the same: a process id means nothing on another host,
//! nor in another container. A start is written in the clock of its time namespace, so that one must be the same, too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Process {
    /// For people: the name of the host.
    pub(crate) host: String,
    /// Identifies the boot of the kernel; empty where it is not known.
    pub(crate) boot: String,
    /// Numbers of the namespaces of process ids and of time; 0 where they are not known.
    pub(crate) namespaces: [u64; 2],
    pub(crate) pid: i32,
    /// When it was started, in ticks of the kernel; 0 where that is not known.
    pub(crate) start: u64,
}

/// What is known of another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Lives,
    Gone,
    /// It is this one.
    Own,
    /// It is somewhere else.
    Unknown,
}

impl Process {
    /// This one.
    pub(crate) fn own() -> Self {
        static OWN: Mutex<Option<Process>> = Mutex::new(None);
        let pid = std::process::id().cast_signed();
        let look = || Self {
            host: line("/proc/sys/kernel/hostname"),
            boot: line("/proc/sys/kernel/random/boot_id"),
            namespaces: [namespace("pid"), namespace("time")],
            pid,
            start: stat("/proc/self/stat").map_or(0, |stat| stat.start),
        };
        // In a forked child it is another process, and the lock may be held for ever.
        let Ok(mut own) = OWN.try_lock() else { return look() };
        match &*own {
            Some(known) if known.pid == pid => known.clone(),
            _ => own.insert(look()).clone(),
        }
    }

    /// Whether it still lives, as far as this process can tell.
    pub(crate) fn life(&self) -> Life {
        let own = Self::own();
        let alike = own.boot == self.boot && own.namespaces == self.namespaces;
        if !alike || self.boot.is_empty() || self.namespaces[0] == 0 || self.pid <= 0 {
            return Life::Unknown;
        }
        if self.pid == own.pid && self.start == own.start {
            return Life::Own;
        }
        match kill(Pid::from_raw(self.pid), None) {
            Err(Errno::ESRCH) => Life::Gone,
            // EPERM: it is somebody else's.
            _ if !proc_is_ours(own.pid) => Life::Lives,
            _ => match stat(&format!("/proc/{}/stat", self.pid)) {
                Some(stat) if stat.dead || (self.start != 0 && stat.start != self.start) => Life::Gone,
                // What cannot be read may be hidden.
                _ => Life::Lives,
            },
        }
    }
}

/// Whether the process ids in `/proc` are those of this process's namespace.
fn proc_is_ours(pid: i32) -> bool {
    fs::read_link("/proc/self").is_ok_and(|link| link == Path::new(&pid.to_string()))
}

struct Stat {
    start: u64,
    dead: bool,
}

fn stat(path: &str) -> Option<Stat> {
    parse(&fs::read_to_string(path).ok()?)
}

fn parse(text: &str) -> Option<Stat> {
    // The name of the program may contain anything, also parentheses.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let dead = matches!(fields.next()?, "Z" | "X");
    Some(Stat { start: fields.nth(18)?.parse().ok()?, dead })
}

fn namespace(kind: &str) -> u64 {
    fs::metadata(format!("/proc/self/ns/{kind}")).map_or(0, |meta| meta.ino())
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().replace(['\n', '\r'], " ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn this_process_lives_and_one_with_its_number_but_another_start_does_not() {
        let own = Process::own();
        assert_ne!(own.start, 0);
        assert_eq!(own.life(), Life::Own);
        assert_eq!(Process { host: "another name".into(), ..own.clone() }.life(), Life::Own);
        assert_eq!(Process { start: own.start - 1, ..own.clone() }.life(), Life::Gone);
        assert_eq!(Process { boot: "another".into(), ..own.clone() }.life(), Life::Unknown);
        assert_eq!(Process { boot: String::new(), ..own.clone() }.life(), Life::Unknown);
        assert_eq!(
            Process { namespaces: [own.namespaces[0] + 1, own.namespaces[1]], ..own.clone() }.life(),
            Life::Unknown
        );
        assert_eq!(Process { start: 0, ..own }.life(), Life::Lives);
    }

    #[test]
    fn a_child_lives_until_it_has_ended_also_if_nobody_has_reaped_it() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let start = stat(&format!("/proc/{pid}/stat")).unwrap().start;
        let process = Process { pid, start, ..Process::own() };
        assert_eq!(process.life(), Life::Lives);
        child.kill().unwrap();
        // Its end of the pipe is closed before it is a zombie, and that is waited for without reaping it.
        let id = nix::sys::wait::Id::Pid(Pid::from_raw(pid));
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(id, flags).unwrap();
        assert_eq!(process.life(), Life::Gone);
        child.wait().unwrap();
        assert_eq!(process.life(), Life::Gone);
    }

    #[test]
    fn a_program_may_be_called_anything() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        let stat = parse(&format!("7 (a) R (b) {rest}")).unwrap();
        assert_eq!((stat.start, stat.dead), (4711, false));
        assert!(parse(&format!("7 (a) {}", rest.replacen('S', "Z", 1))).unwrap().dead);
        assert!(parse("7 (a) S 1").is_none() && parse("").is_none());
    }
}
