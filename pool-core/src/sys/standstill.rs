//! A child that lives, and of which nothing will come any more.
//!
//! The kernel tells the parent of a process when *all* its threads have ended. When the first one ends alone (`exit(2)`, which is what a
//! seccomp filter does that kills threads), nobody is told: the process is a zombie whose other threads live on. And a process that
//! has asked its parent to debug it (`PTRACE_TRACEME`) stops at each signal, until its parent looks, which ours never does. `/proc`
//! shows both; see proc_pid_status(5).
//!
//! A process that dies looks like the former for a moment, or for as long as one of its threads needs to die: its first thread has
//! ended, and others have not. But these have SIGKILL pending, or have taken it up and are on their way out (see proc_pid_stat(5)
//! for their flags). Nothing shows that of a thread between the moment in which it ends the process (`exit_group(2)`) and that in
//! which it is marked as exiting; it does not sleep there. So who is not asleep is believed to live on when he is seen again, some
//! time later.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::process;

/// Flags of a thread: it is on its way out, and has taken up a signal that ends it (`PF_EXITING`, `PF_SIGNALED`).
const LEAVING: u64 = 0x4 | 0x400;
/// SIGKILL in a set of signals.
const KILLED: u64 = 1 << (libc::SIGKILL - 1);

/// Who runs after so long is not on his way out.
const AGAIN: Duration = Duration::from_millis(100);

/// What `/proc/<pid>/status` says of a child.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    state: u8,
    parent: u32,
    tracer: u32,
}

impl Status {
    fn parse(text: &[u8]) -> Option<Self> {
        let number = |name| field(text, name)?.parse().ok();
        Some(Self {
            state: *field(text, "State:")?.as_bytes().first()?,
            parent: number("PPid:")?,
            tracer: number("TracerPid:")?,
        })
    }

    /// What has become of the first thread of a child of this program, if it will not run again by itself. `is_over` is whether the
    /// end of the child has been reported, `is_mine` whether a thread is one of this program's.
    fn halt(
        &self,
        own: u32,
        is_over: impl FnOnce() -> bool,
        is_mine: impl FnOnce(u32) -> bool,
    ) -> Option<Halt> {
        match self.state {
            // `/proc` is that of another namespace.
            _ if self.parent != own => None,
            b'Z' if !is_over() => Some(Halt::Ended),
            b't' if is_mine(self.tracer) => Some(Halt::Stopped),
            _ => None,
        }
    }
}

/// Why a thread does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    /// It has ended before others of its process.
    Ended,
    /// It waits for this program, which is its debugger.
    Stopped,
}

/// How those live on that are left of a child whose first thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rest {
    /// All are dying.
    Dies,
    /// Somebody runs, or is on his way out.
    Runs,
    /// Somebody waits for something.
    Sleeps,
}

/// Looks at a child at which nothing moves.
#[derive(Debug, Default)]
pub(crate) struct Standstill {
    /// Since when its first thread has ended, and others have not died.
    seen: Option<Instant>,
}

impl Standstill {
    /// Why the thread that runs a child's tasks will never run again, if that is so and its end will not be reported.
    ///
    /// `child` is the number of the child that `pidfd` refers to; it has not been reaped.
    pub(crate) fn look(&mut self, child: u32, pidfd: BorrowedFd<'_>) -> Option<&'static str> {
        let status = Status::parse(&std::fs::read(format!("/proc/{child}/status")).ok()?)?;
        match status.halt(std::process::id(), || process::is_over(pidfd), is_thread_of_mine)? {
            Halt::Ended => {
                let lives = match rest(child)? {
                    Rest::Dies => {
                        self.seen = None;
                        false
                    }
                    Rest::Runs => self.seen.get_or_insert_with(Instant::now).elapsed() >= AGAIN,
                    Rest::Sleeps => true,
                };
                lives.then_some("the thread that runs its tasks has ended, and others of its threads live on")
            }
            Halt::Stopped => Some(
                "it has asked to be debugged by this program (PTRACE_TRACEME), and has stopped at a signal",
            ),
        }
    }
}

/// What the other threads do of a child whose first one has ended.
fn rest(child: u32) -> Option<Rest> {
    let threads = std::fs::read_dir(format!("/proc/{child}/task")).ok()?;
    // Who cannot be read has ended.
    threads.map_while(Result::ok).filter_map(|thread| alone(&thread.path())).max()
}

/// What a thread does, if it has not ended.
fn alone(thread: &Path) -> Option<Rest> {
    // In this order: what is pending no longer has been taken up.
    let status = std::fs::read(thread.join("status")).ok()?;
    let stat = std::fs::read(thread.join("stat")).ok()?;
    let pending = u64::from_str_radix(field(&status, "SigPnd:")?, 16).ok()?;
    let state = *field(&status, "State:")?.as_bytes().first()?;
    Some(match state {
        b'Z' | b'X' => return None,
        _ if pending & KILLED != 0 || flags(&stat)? & LEAVING != 0 => Rest::Dies,
        b'R' | b'D' => Rest::Runs,
        _ => Rest::Sleeps,
    })
}

/// The flags in what `/proc/<pid>/stat` says, behind the name, the state and five numbers.
fn flags(stat: &[u8]) -> Option<u64> {
    let behind = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[behind + 1..]).ok()?.split_ascii_whitespace();
    fields.nth(6)?.parse().ok()
}

/// The value in a line of a `status` file.
fn field<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    // The name is in a line of its own: a line break in it is escaped.
    let value = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()))?;
    std::str::from_utf8(value.trim_ascii()).ok()
}

/// A parent debugs by the thread that has started the child.
fn is_thread_of_mine(thread: u32) -> bool {
    Path::new(&format!("/proc/self/task/{thread}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_whatever_the_name_is() {
        let text = b"Name:\t) R 1 \xff\\nState:\tS\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t7\n\
            PPid:\t5\nTracerPid:\t6\nUid:\t0\t0\t0\t0\n";
        assert_eq!(Status::parse(text), Some(Status { state: b't', parent: 5, tracer: 6 }));
        assert_eq!(Status::parse(b"Name:\tx\nState:\tZ (zombie)\nPPid:\t5\n"), None);
        assert_eq!(Status::parse(b"State:\t\nPPid:\t5\nTracerPid:\t0\n"), None);
    }

    #[test]
    fn only_a_child_stands_still_whose_end_is_not_reported_or_that_this_program_debugs() {
        let (own, tracer) = (5, 6);
        let halt = |state, parent, is_over: bool| {
            Status { state, parent, tracer }.halt(own, || is_over, |thread| thread == tracer)
        };
        assert_eq!(
            (halt(b'Z', own, false), halt(b't', own, false)),
            (Some(Halt::Ended), Some(Halt::Stopped))
        );
        assert_eq!(halt(b'Z', own, true), None, "its end will be reported");
        let stranger = [halt(b'Z', 4, false), halt(b't', 4, false)];
        assert_eq!(stranger, [None; 2], "another one of this number");
        assert!(b"RSDTX".iter().all(|state| halt(*state, own, false).is_none()));
        let debugged = Status { state: b't', parent: own, tracer };
        assert_eq!(debugged.halt(own, || false, |_| false), None, "its debugger will look");
        assert!(is_thread_of_mine(std::process::id()) && !is_thread_of_mine(0));
    }

    #[test]
    fn flags_are_read_whatever_the_name_is() {
        assert_eq!(flags(b"8 (a) R 1) S 5 8 8 0 -1 4194564 0 0"), Some(4_194_564));
        assert_eq!(flags(b"8 (a) S 5 8 8 0 -1"), None);
        assert_eq!(flags(b""), None);
    }

    #[test]
    fn a_thread_that_waits_sleeps() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: gettid(2) takes nothing.
            tell.send(unsafe { libc::gettid() }).unwrap();
            wait.recv().unwrap_err();
        });
        let tid = told.recv().unwrap();
        let path = std::path::PathBuf::from(format!("/proc/self/task/{tid}"));
        while alone(&path) != Some(Rest::Sleeps) {
            assert_eq!(alone(&path), Some(Rest::Runs));
            std::thread::yield_now();
        }
        drop(done);
        thread.join().unwrap();
    }

    #[test]
    fn whoever_lives_does_not_stand_still() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = process::pidfd_open(child.id()).unwrap();
        use std::os::fd::AsFd;
        assert_eq!(Standstill::default().look(child.id(), pidfd.as_fd()), None);
        // Dead: it will be reported.
        drop(child.stdin.take());
        while !process::is_over(pidfd.as_fd()) {
            std::thread::yield_now();
        }
        assert_eq!(Standstill::default().look(child.id(), pidfd.as_fd()), None);
        child.wait().unwrap();
        assert_eq!(Standstill::default().look(child.id(), pidfd.as_fd()), None);
    }
}
