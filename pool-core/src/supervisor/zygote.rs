//! The process that forks workers, as the launcher sees it.
//!
//! # States
//! ```text
//!          warm                 its word: ready
//! Absent ────────▶ Warming ────────────────────▶ Ready ──▶ a worker for each request
//!   ▲                 │                            │
//!   │  dead, killed   │                            │
//!   └─────────────────┴────────────────────────────┘
//!        refused, or too often dead before it was ready ──▶ Unfit, for ever
//! ```
//! Only the reactor thread comes here: the workers' death signals are bound to the thread whose child the zygote is, which the
//! workers inherit with `CLONE_PARENT`. Nothing waits for a zygote to become ready; until then workers are spawned.
//!
//! # A request
//! Three descriptors go over the socket (`Part`): the worker's boot socket, in which everything waits that a spawned worker
//! finds on its standard input, and its standard output and error. One packet comes back (`Answer`): from the *child*, with
//! its process id, or from the zygote if there is no child. It carries no descriptor, which could be lost where this process
//! has no number left for it, and the child with it.
//!
//! # Races
//! * The zygote dies, is killed or stopped before it has forked: no child answers. After [`PATIENCE`] it is killed, and it alone.
//!   The socket then ends with an answer of a child that there is after all, or with the end of the file once everybody who
//!   could have answered is dead. Only then the worker is spawned in its place, so that nobody else reads the same boot socket.
//! * A child is killed before it could answer: it is still in the process group of the zygote, because it leaves that after
//!   its answer. Whoever is found dead in that group when the zygote is buried is reaped with it.
//! * A child has answered and not left the group: it is put into its own from here, too, before anything else is done, so that
//!   neither the end of the zygote hits it, nor a kill of its own group misses it.
//! * The zygote is no child of this process but of a program in between, and so would be the workers: nobody could wait for
//!   them. The first of them is killed, and the zygote is unfit.
//! * This process dies: the zygote has a death signal, and its socket ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv, send};
use pool_ipc::boot::{send_descriptor, socket_pair};

use crate::supervisor::launch::may_pass;
use crate::supervisor::token::ZYGOTE;
use crate::sys::process;

/// The value of the boot variable that says to a process that it is a zygote.
pub(crate) const ZYGOTE_BOOT: &str = "zygote";

/// What `ps` shows of a zygote, with room for what a worker is called.
pub(crate) fn title(pool: &str) -> String {
    format!("{pool}: zygote{:16}", "")
}

/// How long an answer may take before the zygote is given up. Usually it takes a fraction of a millisecond; the reactor does
/// nothing else meanwhile.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a killed process may take to die. One that takes longer is stuck in the kernel.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Zygotes that die before they are ready until there is no further one.
const MOST_FAILURES: u32 = 3;

/// The descriptors of a request, in the order in which they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Part {
    Boot = 1,
    Stdout = 2,
    Stderr = 3,
}

/// What comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The zygote waits for requests.
    Ready,
    /// The worker with this process id, from itself.
    Forked(u32),
    /// There is no worker, because the zygote has several threads.
    Threads,
    /// There is no worker, because of this error of the operating system.
    Os(i32),
}

impl Answer {
    /// Sends it, without waiting.
    pub(crate) fn send(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        send(socket.as_raw_fd(), &self.encode().to_le_bytes(), flags)?;
        Ok(())
    }

    fn encode(self) -> u64 {
        let (kind, value) = match self {
            Self::Ready => (1, 0),
            Self::Forked(pid) => (2, pid),
            Self::Threads => (3, 0),
            Self::Os(errno) => (4, errno as u32),
        };
        kind << 32 | u64::from(value)
    }

    fn decode(bits: u64) -> Option<Self> {
        let value = bits as u32;
        match bits >> 32 {
            1 => Some(Self::Ready),
            2 => Some(Self::Forked(value)),
            3 => Some(Self::Threads),
            4 => Some(Self::Os(value as i32)),
            _ => None,
        }
    }
}

/// A worker that has been forked.
#[derive(Debug)]
pub(crate) struct Forked {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
}

/// The zygote of a pool, or why there is none.
#[derive(Debug, Default)]
pub(crate) struct Zygote {
    state: State,
    /// How many have died before they were ready.
    failures: u32,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Absent,
    Warming(Process),
    Ready(Process),
    Unfit,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    pidfd: OwnedFd,
    socket: OwnedFd,
    epoll: Arc<Epoll>,
}

impl Zygote {
    /// Starts a zygote if there is none. `spawn` gets its end of the socket, and returns its process id and pidfd.
    pub(crate) fn warm(
        &mut self,
        pool: &str,
        epoll: &Arc<Epoll>,
        spawn: impl FnOnce(OwnedFd) -> io::Result<(u32, OwnedFd)>,
    ) {
        if !matches!(self.state, State::Absent) {
            return;
        }
        let started = socket_pair().and_then(|(socket, theirs)| {
            let (pid, pidfd) = spawn(theirs)?;
            Ok(Process { pid, pidfd, socket, epoll: Arc::clone(epoll) })
        });
        match started {
            Ok(process) => {
                tracing::debug!(pool, pid = process.pid, "zygote spawned");
                // Where that is refused, its death is noticed with the next request.
                if let Err(error) = epoll.add(&process.pidfd, EpollEvent::new(EpollFlags::EPOLLIN, ZYGOTE)) {
                    tracing::debug!(pool, %error, "the death of the zygote will be noticed late");
                }
                self.state = State::Warming(process);
            }
            Err(error) => {
                tracing::debug!(pool, %error, "zygote cannot be spawned");
                self.failed(pool);
            }
        }
    }

    /// Forks a worker that has these descriptors. `None`: it has to be spawned.
    ///
    /// # Errors
    /// There was a worker that could not be kept, or it is not known whether there is one: nobody else must be given these
    /// descriptors.
    pub(crate) fn fork(
        &mut self,
        pool: &str,
        boot: BorrowedFd<'_>,
        stdout: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
    ) -> io::Result<Option<Forked>> {
        self.hear(pool);
        let State::Ready(process) = &self.state else { return Ok(None) };
        let sent = [(Part::Boot, boot), (Part::Stdout, stdout), (Part::Stderr, stderr)]
            .into_iter()
            .try_for_each(|(part, fd)| send_descriptor(process.socket.as_fd(), part as u64, fd));
        if let Err(error) = sent {
            // The rest of a request that was not sent whole is dropped with the next one.
            if error.kind() == io::ErrorKind::BrokenPipe {
                self.bury(pool);
            }
            return Ok(None);
        }
        let mut heard = process.next(PATIENCE);
        if matches!(heard, Heard::Nothing) {
            tracing::warn!(pool, pid = process.pid, "the zygote does not answer; killing it");
            process.kill();
            heard = process.next(LAST_PATIENCE);
        }
        match heard {
            Heard::Answer(Answer::Forked(pid)) => self.adopt(pool, pid),
            Heard::Answer(answer @ (Answer::Threads | Answer::Os(_))) => {
                self.refused(pool, answer);
                Ok(None)
            }
            Heard::Answer(Answer::Ready) | Heard::End => {
                self.bury(pool);
                Ok(None)
            }
            Heard::Nothing => {
                self.bury(pool);
                self.unfit(pool, "it is stuck in the kernel");
                Err(io::Error::from_raw_os_error(libc::EAGAIN))
            }
        }
    }

    /// The zygote has died, or so it was reported.
    pub(crate) fn look(&mut self, pool: &str) {
        // It may have been ready before.
        self.hear(pool);
        let (State::Warming(process) | State::Ready(process)) = &self.state else { return };
        if is_readable(process.pidfd.as_fd(), Duration::ZERO) {
            self.bury(pool);
        }
    }

    /// Kills the zygote, and waits for its end.
    pub(crate) fn end(&mut self, pool: &str) {
        self.bury(pool);
        self.state = State::Unfit;
    }

    /// Takes the word that a new zygote gives of itself, if it has come.
    fn hear(&mut self, pool: &str) {
        let State::Warming(process) = &self.state else { return };
        match process.next(Duration::ZERO) {
            Heard::Nothing => {}
            Heard::Answer(Answer::Ready) => {
                tracing::debug!(pool, pid = process.pid, "zygote ready");
                if let State::Warming(process) = std::mem::take(&mut self.state) {
                    self.state = State::Ready(process);
                }
            }
            Heard::Answer(refused @ (Answer::Threads | Answer::Os(_))) => self.refused(pool, refused),
            Heard::Answer(Answer::Forked(_)) | Heard::End => self.bury(pool),
        }
    }

    fn refused(&mut self, pool: &str, answer: Answer) {
        match answer {
            Answer::Threads => {
                self.unfit(pool, "it has threads: `pool_core::init()` should be the first line of main()");
            }
            Answer::Os(errno) => {
                let error = io::Error::from_raw_os_error(errno);
                if may_pass(&error) {
                    tracing::debug!(pool, %error, "the zygote could not fork");
                } else {
                    self.unfit(pool, &error.to_string());
                }
            }
            Answer::Ready | Answer::Forked(_) => {}
        }
    }

    /// Takes over a worker that has answered.
    fn adopt(&mut self, pool: &str, pid: u32) -> io::Result<Option<Forked>> {
        let pidfd = process::pidfd_open(pid);
        if let Err(error) = process::set_group(pid) {
            return match pidfd {
                // It is dead and reaped, as children are where SIGCHLD is ignored: that is for the supervisor to find out.
                Ok(pidfd) if is_readable(pidfd.as_fd(), Duration::ZERO) => Ok(Some(Forked { pid, pidfd })),
                Ok(pidfd) => {
                    if let Err(error) = process::pidfd_kill(pidfd.as_fd()) {
                        tracing::warn!(pool, pid, %error, "cannot kill a worker that is no child of this program");
                    }
                    is_readable(pidfd.as_fd(), LAST_PATIENCE);
                    self.unfit(pool, &format!("its workers are no children of this program ({error})"));
                    Ok(None)
                }
                Err(error) => Err(error),
            };
        }
        match pidfd {
            Ok(pidfd) => {
                self.failures = 0;
                Ok(Some(Forked { pid, pidfd }))
            }
            Err(error) => {
                // Without a pidfd its death would go unnoticed: it must not live. It leads its group, and it is our child.
                process::kill_child(pid);
                process::reap_group(pid, Instant::now() + LAST_PATIENCE);
                Err(error)
            }
        }
    }

    /// Kills the zygote if it lives, and reaps it and whoever has died in its process group.
    fn bury(&mut self, pool: &str) {
        let (process, was_ready) = match std::mem::take(&mut self.state) {
            State::Warming(process) => (process, false),
            State::Ready(process) => (process, true),
            state @ (State::Absent | State::Unfit) => {
                self.state = state;
                return;
            }
        };
        process.bury(pool);
        if !was_ready {
            self.failed(pool);
        }
    }

    fn failed(&mut self, pool: &str) {
        self.failures += 1;
        if self.failures >= MOST_FAILURES {
            self.unfit(pool, "it does not start");
        }
    }

    /// There will be no zygote any more; said once, because this state is not left.
    fn unfit(&mut self, pool: &str, why: &str) {
        if let State::Warming(process) | State::Ready(process) =
            std::mem::replace(&mut self.state, State::Unfit)
        {
            process.bury(pool);
        }
        tracing::warn!(pool, why, "workers cannot be forked by a zygote; they are spawned");
    }
}

/// What has come from the zygote or a child of it.
enum Heard {
    Answer(Answer),
    /// Nothing, in the time that was given.
    Nothing,
    /// Nothing ever will.
    End,
}

impl Process {
    fn next(&self, patience: Duration) -> Heard {
        if !is_readable(self.socket.as_fd(), patience) {
            return Heard::Nothing;
        }
        let mut bits = [0; 8];
        match recv(self.socket.as_raw_fd(), &mut bits, MsgFlags::MSG_DONTWAIT) {
            Ok(8) => Answer::decode(u64::from_le_bytes(bits)).map_or(Heard::End, Heard::Answer),
            Err(Errno::EAGAIN | Errno::EINTR) => Heard::Nothing,
            Ok(_) | Err(_) => Heard::End,
        }
    }

    /// Kills the zygote, and not its group: a child of it may be about to answer. Whether it has not been reaped yet.
    fn kill(&self) -> bool {
        match process::pidfd_kill(self.pidfd.as_fd()) {
            Ok(()) => true,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false,
            Err(error) => {
                tracing::warn!(pid = self.pid, %error, "cannot kill the zygote");
                true
            }
        }
    }

    fn bury(self, pool: &str) {
        // Closing it would not take it out where a forked child of this program has it, too.
        if let Err(error) = self.epoll.delete(&self.pidfd)
            && error != Errno::ENOENT
        {
            tracing::error!(pool, %error, "cannot take the zygote out of epoll");
        }
        // If somebody else has reaped it, its number may be another group's by now.
        if self.kill() {
            if let Err(error) = process::kill_group(self.pidfd.as_fd(), self.pid) {
                tracing::warn!(pid = self.pid, %error, "cannot kill the process group of the zygote");
            }
            // One that this program may not kill any more, because it has given up privileges, ends with its socket.
            drop(self.socket);
            process::reap_group(self.pid, Instant::now() + LAST_PATIENCE);
        }
        tracing::debug!(pool, pid = self.pid, "zygote gone");
    }
}

/// Waits until a descriptor can be read, be it for its end.
fn is_readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).as_millis();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            Ok(0) if left > 0 => {}
            other => return other != Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_the_way() {
        for answer in [Answer::Ready, Answer::Forked(u32::MAX), Answer::Threads, Answer::Os(libc::EAGAIN)] {
            assert_eq!(Answer::decode(answer.encode()), Some(answer));
        }
        assert_eq!(Answer::decode(7), None);
    }
}
