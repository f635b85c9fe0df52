//! A child that lives, and of which nothing will come any more.
//!
//! The kernel tells the parent of a process when *all* its threads have ended. When the first one ends alone (`exit(2)`, which is what a
//! seccomp filter does that kills threads), nobody is told: the process is a zombie whose other threads live on. And a process that
//! has asked its parent to debug it (`PTRACE_TRACEME`) stops at each signal, until its parent looks, which ours never does. `/proc`
//! shows both; see proc_pid_status(5).

use std::os::fd::BorrowedFd;

use super::process;

/// What `/proc/<pid>/status` says of a child.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    state: u8,
    parent: u32,
    tracer: u32,
}

impl Status {
    fn parse(text: &[u8]) -> Option<Self> {
        // The name is in a line of its own: a line break in it is escaped.
        let field = |name: &str| {
            let value = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()));
            value.map(<[u8]>::trim_ascii)
        };
        let number = |name| std::str::from_utf8(field(name)?).ok()?.parse().ok();
        Some(Self {
            state: *field("State:")?.first()?,
            parent: number("PPid:")?,
            tracer: number("TracerPid:")?,
        })
    }

    /// Why the thread that runs the tasks of a child of this program will never run again, if that is so. `is_over` is whether its
    /// end has been reported, `is_mine` whether a thread is one of this program's.
    fn standstill(
        &self,
        own: u32,
        is_over: impl FnOnce() -> bool,
        is_mine: impl FnOnce(u32) -> bool,
    ) -> Option<&'static str> {
        match self.state {
            // `/proc` is that of another namespace.
            _ if self.parent != own => None,
            b'Z' if !is_over() => {
                Some("the thread that runs its tasks has ended, and others of its threads live on")
            }
            b't' if is_mine(self.tracer) => Some(
                "it has asked to be debugged by this program (PTRACE_TRACEME), and has stopped at a signal",
            ),
            _ => None,
        }
    }
}

/// Why the thread that runs a child's tasks will never run again, if that is so and its end will not be reported.
///
/// `child` is the number of the child that `pidfd` refers to; it has not been reaped.
pub(crate) fn standstill(child: u32, pidfd: BorrowedFd<'_>) -> Option<&'static str> {
    let status = Status::parse(&std::fs::read(format!("/proc/{child}/status")).ok()?)?;
    status.standstill(std::process::id(), || process::is_over(pidfd), is_thread_of_mine)
}

/// A parent debugs by the thread that has started the child.
fn is_thread_of_mine(thread: u32) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{thread}")).exists()
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
        let (own, tracer, living) = (5, 6, || false);
        let stands = |state, parent, is_over: bool| {
            let status = Status { state, parent, tracer };
            status.standstill(own, || is_over, |thread| thread == tracer).is_some()
        };
        assert!(stands(b'Z', own, false) && stands(b't', own, false));
        assert!(!stands(b'Z', own, true), "its end will be reported");
        assert!(!stands(b'Z', 4, false) && !stands(b't', 4, false), "another one of this number");
        assert!([b'R', b'S', b'D', b'T', b'X'].iter().all(|state| !stands(*state, own, false)));
        let debugged = Status { state: b't', parent: own, tracer };
        assert_eq!(debugged.standstill(own, living, |_| false), None, "its debugger will look");
        assert!(is_thread_of_mine(std::process::id()) && !is_thread_of_mine(0));
    }

    #[test]
    fn whoever_lives_does_not_stand_still() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pidfd = process::pidfd_open(child.id()).unwrap();
        use std::os::fd::AsFd;
        assert_eq!(standstill(child.id(), pidfd.as_fd()), None);
        // Dead: it will be reported.
        drop(child.stdin.take());
        while !process::is_over(pidfd.as_fd()) {
            std::thread::yield_now();
        }
        assert_eq!(standstill(child.id(), pidfd.as_fd()), None);
        child.wait().unwrap();
        assert_eq!(standstill(child.id(), pidfd.as_fd()), None);
    }
}
