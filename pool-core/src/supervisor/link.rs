//! The supervisor's side of one worker process: its descriptors, buffers and board.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollFlags};
use pool_ipc::{Board, FrameReader, FrameWriter};

use crate::error::{Death, DeathCause};
use crate::memory::{self, OomCounter};
use crate::output::{OutputStream, Splitter, Tail};
use crate::supervisor::event::{Incarnation, KillReason, Ticket};
use crate::supervisor::launch::Launched;
use crate::supervisor::routes::Routes;
use crate::supervisor::token::{Source, Token};
use crate::supervisor::watched::Watched;
use crate::sys::process::{self, ExitStatus, Remains};

/// A worker process and what connects us to it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) who: Incarnation,
    pub(crate) pid: u32,
    pub(crate) pidfd: Watched,
    pub(crate) board: Board,
    pub(crate) tasks: Option<Watched>,
    pub(crate) results: Option<Watched>,
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    /// The last ticket that was offered on the board. The state machine may have decided to send later ones, which the
    /// worker cannot have started: their slots are still about older tickets.
    pub(crate) offered: Ticket,
    /// Whether frames have been queued since the last flush.
    pub(crate) dirty: bool,
    /// Bytes written when the board was inspected last.
    pub(crate) written_then: u64,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
    pub(crate) tail: Tail,
    /// Which tasks it knows, once it has said hello.
    pub(crate) routes: Option<Arc<Routes>>,
    /// Its largest resident set when it said hello, what it inherited from us included.
    base_max_rss: u64,
    sampled_peak: Option<u64>,
    /// Why we killed it, if we did.
    pub(crate) killed: Option<KillReason>,
    /// Its death is of no interest to the state machine any more.
    pub(crate) fenced: bool,
    pub(crate) finished: u64,
}

/// One of the worker's output streams.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) fd: Option<Watched>,
    pub(crate) splitter: Splitter,
    /// Lines that found the queue full; while there are some, nothing more is read.
    pub(crate) stalled: Option<Vec<u8>>,
}

impl Stream {
    fn new(fd: Watched) -> Self {
        Self { fd: Some(fd), splitter: Splitter::default(), stalled: None }
    }
}

impl Link {
    pub(crate) fn new(who: Incarnation, launched: Launched, frame_limit: u32, epoll: &Arc<Epoll>) -> Self {
        let watched = |fd| Watched::new(fd, epoll);
        Self {
            who,
            pid: launched.pid,
            pidfd: watched(launched.pidfd),
            board: launched.board,
            tasks: Some(watched(launched.tasks)),
            results: Some(watched(launched.results)),
            reader: FrameReader::new(frame_limit),
            writer: FrameWriter::new(),
            offered: 0,
            dirty: false,
            written_then: 0,
            stdout: Stream::new(watched(launched.stdout)),
            stderr: Stream::new(watched(launched.stderr)),
            tail: Tail::default(),
            routes: None,
            base_max_rss: u64::MAX,
            sampled_peak: None,
            killed: None,
            fenced: false,
            finished: 0,
        }
    }

    /// Has epoll report its death, its results and its output.
    pub(crate) fn watch(&mut self) -> io::Result<()> {
        let token = |source| Token { who: self.who, source };
        self.pidfd.watch(EpollFlags::EPOLLIN, token(Source::Death))?;
        for (fd, source) in [
            (&mut self.results, Source::Results),
            (&mut self.stdout.fd, Source::Output(OutputStream::Stdout)),
            (&mut self.stderr.fd, Source::Output(OutputStream::Stderr)),
        ] {
            if let Some(fd) = fd {
                fd.watch(EpollFlags::EPOLLIN, token(source))?;
            }
        }
        Ok(())
    }

    pub(crate) fn stream(&mut self, stream: OutputStream) -> &mut Stream {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }

    /// The worker has said hello with this much resident memory, inherited memory included.
    pub(crate) fn set_base(&mut self, base_max_rss: u64) {
        self.base_max_rss = base_max_rss;
    }

    /// Kills the worker and its process group. Its memory is looked at first: afterwards there is nothing left to see.
    pub(crate) fn kill(&mut self, why: KillReason) {
        if self.killed.is_none() {
            self.sampled_peak = memory::resident(self.pid).map(|(_, peak)| peak);
            self.killed = Some(why);
        }
        if let Err(error) = process::pidfd_kill(self.pidfd.as_fd()) {
            // ESRCH: it has been reaped by somebody else, so its number may belong to another process by now.
            if error.raw_os_error() == Some(libc::ESRCH) {
                return;
            }
            tracing::warn!(pid = self.pid, %error, "cannot kill worker through its pidfd");
        }
        self.kill_group();
    }

    /// Kills what is left of the process group. The worker must not have been reaped.
    pub(crate) fn kill_group(&self) {
        if let Err(error) = process::kill_group(self.pidfd.as_fd(), self.pid) {
            tracing::warn!(pid = self.pid, %error, "cannot kill the process group of a worker");
        }
    }

    /// Collects the exit status, if the worker is dead.
    pub(crate) fn reap(&self) -> io::Result<Option<Remains>> {
        process::reap(self.pidfd.as_fd())
    }

    /// When the oldest task was claimed, as the board says.
    pub(crate) fn started_at(&self, since_ns: u64, now: Instant) -> Instant {
        let age = pool_ipc::now_ns().saturating_sub(since_ns);
        now.checked_sub(Duration::from_nanos(age)).unwrap_or(now)
    }

    /// The death report, without the task.
    pub(crate) fn death(&self, remains: &Remains, oom: &mut OomCounter) -> Death {
        let cause = match (remains.status, &self.killed) {
            // A kill of ours explains a SIGKILL; any other end came before it.
            (Some(ExitStatus::Signalled { signal: libc::SIGKILL, .. }) | None, Some(why)) => requested(why),
            (Some(ExitStatus::Signalled { signal: libc::SIGKILL, core_dumped }), None) => match oom.explain()
            {
                Some(evidence) => DeathCause::OutOfMemory { evidence },
                None => DeathCause::Signalled { signal: libc::SIGKILL, core_dumped },
            },
            (Some(ExitStatus::Signalled { signal, core_dumped }), _) => {
                DeathCause::Signalled { signal, core_dumped }
            }
            (Some(ExitStatus::Exited(code)), _) => DeathCause::Exited(code),
            (None, None) => DeathCause::StatusLost,
        };
        let cause = match cause {
            DeathCause::StartFailed { .. } => cause,
            other if self.routes.is_none() && !matches!(other, DeathCause::Terminated) => {
                let hint = if matches!(other, DeathCause::Exited(_)) {
                    "; is `pool_core::init()` the first line of its main(), or `pool_core::test_worker!();` at the root of the \
                     test crate?"
                } else {
                    ""
                };
                DeathCause::StartFailed { why: format!("it {other} before it reported as a worker{hint}") }
            }
            other => other,
        };
        let exact = remains.max_rss.filter(|rss| *rss > self.base_max_rss);
        Death {
            pid: self.pid,
            worker: self.who.worker,
            cause,
            task: None,
            task_id: None,
            ran_for: None,
            peak_rss: exact.max(self.sampled_peak),
            stderr_tail: self.tail.text(None),
        }
    }
}

fn requested(why: &KillReason) -> DeathCause {
    match why {
        KillReason::Timeout => DeathCause::TaskTimeout,
        KillReason::Cancelled => DeathCause::Cancelled,
        KillReason::Violation(what) => DeathCause::ProtocolViolation { what: what.clone() },
        KillReason::Unresponsive(waited) => DeathCause::Unresponsive { waited: *waited },
        KillReason::StartTimeout(limit) => DeathCause::StartFailed {
            why: format!("it did not report as a worker within {limit:?} (start_timeout)"),
        },
        KillReason::Terminated | KillReason::ExitTimeout => DeathCause::Terminated,
    }
}
