//! The supervisor's side of one worker process: its descriptors, buffers and board.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollFlags};
use pool_ipc::{
    Board, Fill, Flush, FrameError, FrameReader, FrameWriter, Gauges, HEADER_LEN, Header, Kind, RingError,
    RingReader, RingWriter, Slot, TaskHead, Wake,
};

use crate::buffer::Args;
use crate::error::{Death, DeathCause};
use crate::ids::TaskId;
use crate::memory::{self, OomCounter, Scales};
use crate::output::{OutputStream, Splitter, Text};
use crate::supervisor::confined::Confined;
use crate::supervisor::engine::seeing::{Doomed, Stages};
use crate::supervisor::event::{Incarnation, KillReason, Ticket};
use crate::supervisor::launch::Launched;
use crate::supervisor::parcels::Parcels;
use crate::supervisor::routes::Routes;
use crate::supervisor::token::{Source, Token};
use crate::supervisor::watched::Watched;
use crate::sync::{across, ready};
use crate::sys::process::{self, ExitStatus, Remains};
use crate::sys::sigpipe;
use crate::sys::standstill::Standstill;
use crate::transport::{BELL, pace_of};
use crate::worker::serve::SCRIBBLED;
use thiserror::Error;

/// A worker process and what connects us to it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) who: Incarnation,
    pub(crate) pid: u32,
    pub(crate) pidfd: Watched,
    pub(crate) board: Board,
    /// What it measures, if it does.
    pub(crate) gauges: Gauges,
    pub(crate) stages: Stages,
    /// The task that it has been told to stop.
    pub(crate) doomed: Option<Doomed>,
    /// While this is open, the kernel lets the worker live. Closed early where signals do not reach it.
    lifeline: Option<OwnedFd>,
    /// The rings that frames travel through; without them they travel through the pipes.
    pub(crate) rings: Option<Rings>,
    /// What passes outside of the frames; kept until it is dead.
    pub(crate) parcels: Parcels,
    /// The task pipe, or the worker's doorbell.
    pub(crate) tasks: Option<Watched>,
    /// The result pipe, or our doorbell.
    pub(crate) results: Option<Watched>,
    /// Nothing more that the worker writes is of interest.
    pub(crate) deaf: bool,
    /// Results may have been destroyed: garbage came instead of them, or their ring has been overwritten.
    pub(crate) suspect: bool,
    /// The latest note of its pace that we have looked at.
    pace_note: u64,
    /// The oldest ticket it held when its result ring was salvaged for the first time.
    pub(crate) salvaged_from: Option<Ticket>,
    /// The last ticket that it has started, as it has said when it gave up.
    pub(crate) ran_up_to: Option<Ticket>,
    /// The latest bytes of the doorbell.
    last_words: Vec<u8>,
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    /// The last ticket that was offered on the board. The state machine may have decided to send later ones, which the
    /// worker cannot have started: their slots are still about older tickets.
    pub(crate) offered: Ticket,
    /// Whether frames have been queued since the last flush.
    pub(crate) dirty: bool,
    /// Whether it is in the engine's list of busy workers.
    pub(crate) busy: bool,
    /// Whether it may spin while it waits for tasks.
    pub(crate) may_spin: bool,
    /// Bytes sent when the board was inspected last.
    pub(crate) sent_then: u64,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
    /// Which tasks it knows, once it has said hello.
    pub(crate) routes: Option<Arc<Routes>>,
    /// Its largest resident set when it said hello, what it inherited from us included.
    base_max_rss: u64,
    sampled_peak: Option<u64>,
    /// Why we killed it, if we did.
    pub(crate) killed: Option<KillReason>,
    /// Its death is of no interest to the state machine any more.
    pub(crate) fenced: bool,
    /// Whether it is dead, and cannot be reaped yet.
    pub(crate) held: bool,
    /// It has been killed, and does not die because it sleeps in the kernel.
    pub(crate) stuck: bool,
    standstill: Standstill,
    pub(crate) finished: u64,
    /// It has begun to build a state.
    pub(crate) preparing: bool,
    scales: Option<Scales>,
    /// Its private memory when it was looked at last, in bytes.
    pub(crate) private: u64,
    /// It has been given tasks since it was last looked at with an empty hand.
    pub(crate) unweighed: bool,
    /// What is kept of its limits and its sandbox, until it is gone.
    pub(crate) confined: Confined,
}

/// Our ends of a worker's rings.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) tasks: RingWriter,
    pub(crate) results: RingReader,
}

/// One of the worker's output streams.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) fd: Option<Watched>,
    pub(crate) splitter: Splitter,
    /// Lines that found the queue full; while there are some, nothing more is read.
    pub(crate) stalled: Option<Text>,
}

impl Stream {
    fn new(fd: Watched, marked: bool) -> Self {
        Self { fd: Some(fd), splitter: Splitter::new(marked), stalled: None }
    }

    /// The end of what a task has printed that was started at `since`, as text.
    pub(crate) fn said(&self, task: Option<TaskId>, since: Option<Instant>) -> String {
        self.splitter.tail(task, since)
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
            gauges: launched.gauges,
            stages: Stages::new(Instant::now()),
            doomed: None,
            rings: launched.rings,
            lifeline: Some(launched.lifeline),
            parcels: Parcels::new(launched.socket),
            deaf: false,
            suspect: false,
            pace_note: 0,
            salvaged_from: None,
            ran_up_to: None,
            last_words: Vec::new(),
            tasks: Some(watched(launched.tasks)),
            results: Some(watched(launched.results)),
            reader: FrameReader::new(frame_limit),
            writer: FrameWriter::new(),
            offered: 0,
            dirty: false,
            busy: false,
            may_spin: false,
            sent_then: 0,
            stdout: Stream::new(watched(launched.stdout), launched.marks),
            stderr: Stream::new(watched(launched.stderr), launched.marks),
            routes: None,
            base_max_rss: u64::MAX,
            sampled_peak: None,
            killed: None,
            fenced: false,
            held: false,
            stuck: false,
            standstill: Standstill::default(),
            finished: 0,
            preparing: false,
            scales: None,
            private: 0,
            unweighed: false,
            confined: launched.confined,
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

    /// Reads more of what the worker has written, up to some amount.
    pub(crate) fn fill(&mut self) -> io::Result<Fill> {
        let Some(rings) = &mut self.rings else {
            return self.results.as_ref().map_or(Ok(Fill::WouldBlock), |pipe| self.reader.fill(pipe.as_fd()));
        };
        let (filled, waits_for_room) = self.reader.fill_from(&mut rings.results)?;
        if waits_for_room && let Err(error) = self.ring_the_bell() {
            // It is dying, or has closed its pipes: that shows elsewhere. What it has written counts.
            tracing::debug!(pid = self.pid, %error, "cannot ring a worker that waits for room");
        }
        Ok(filled)
    }

    /// How many nanoseconds its latest tasks took each, by its own account, if there is news of that.
    pub(crate) fn pace(&mut self) -> Option<u64> {
        let note = self.rings.as_ref()?.results.note();
        (std::mem::replace(&mut self.pace_note, note) != note).then(|| pace_of(note))
    }

    /// Whether the worker has written something, as far as can be told without a system call.
    pub(crate) fn has_news(&mut self) -> bool {
        // A position that makes no sense is news, too.
        !self.deaf && self.rings.as_mut().is_some_and(|rings| across(|| rings.results.available()) != Ok(0))
    }

    /// Wants to be rung for what comes from now on; whether there is something to read before that.
    pub(crate) fn arm(&mut self, wake: Wake) -> bool {
        !self.deaf && self.rings.as_mut().is_some_and(|rings| across(|| rings.results.raise(wake)) != Ok(0))
    }

    /// Wants no bell.
    pub(crate) fn disarm(&mut self) {
        if let Some(rings) = &mut self.rings {
            rings.results.disarm();
        }
    }

    /// Queues a frame whose payload begins with `head`; the rest is kept alive until it has been sent.
    pub(crate) fn push(
        &mut self,
        kind: Kind,
        ticket: Ticket,
        head: &[u8],
        rest: &Arc<Vec<u8>>,
    ) -> Result<(), PushError> {
        if let Some(rings) = &mut self.rings
            && self.writer.is_empty()
            && rings.tasks.frame(kind, ticket, &[head, rest])?
        {
            return Ok(());
        }
        Ok(self.writer.push(kind, ticket, head, rest)?)
    }

    /// As [`push`](Self::push), for a payload whose rest may have to be copied.
    pub(crate) fn push_copy(
        &mut self,
        kind: Kind,
        ticket: Ticket,
        head: &[u8],
        rest: &[u8],
    ) -> Result<(), PushError> {
        if let Some(rings) = &mut self.rings
            && self.writer.is_empty()
            && rings.tasks.frame(kind, ticket, &[head, rest])?
        {
            return Ok(());
        }
        Ok(self.writer.push_copy(kind, ticket, &[head, rest].concat())?)
    }

    /// Queues arguments that are in shared memory: where they are, or if need be themselves.
    pub(crate) fn push_shared(
        &mut self,
        ticket: Ticket,
        head: &TaskHead,
        args: &Args,
    ) -> Result<(), PushError> {
        match self.parcels.lend(ticket, args) {
            Some(locator) => self.push_copy(Kind::TaskAt, ticket, &head.encode(), &locator.encode()),
            None => self.push_copy(Kind::Task, ticket, &head.encode(), args),
        }
    }

    /// Queues what the worker should know of memory that is free again; whether there was anything.
    pub(crate) fn push_news(&mut self) -> Result<bool, PushError> {
        let Some(news) = self.parcels.news() else { return Ok(false) };
        for (kind, payload) in news {
            self.push_copy(kind, 0, &payload, &[])?;
        }
        Ok(true)
    }

    /// Sends what has been queued, as far as there is room.
    pub(crate) fn flush(&mut self) -> io::Result<Flush> {
        let Some(rings) = &mut self.rings else {
            return match &self.tasks {
                Some(pipe) => sigpipe::without_sigpipe(|| self.writer.flush(pipe.as_fd())),
                None => Ok(Flush::Done),
            };
        };
        let mut bell = false;
        let flushed = loop {
            if self.writer.is_empty() {
                break Flush::Done;
            }
            let flushed = self.writer.flush_into(&mut rings.tasks)?;
            if flushed == Flush::Done {
                break flushed;
            }
            // The worker rings when there is room.
            let room = rings.tasks.wait_for_room(self.writer.pending_bytes())?;
            bell |= room.ring;
            if !room.now {
                break flushed;
            }
        };
        bell |= across(|| rings.tasks.publish());
        if bell {
            self.ring_the_bell()?;
        }
        Ok(flushed)
    }

    /// Bytes sent to the worker so far.
    pub(crate) fn sent(&self) -> u64 {
        self.rings.as_ref().map_or_else(|| self.writer.written(), |rings| rings.tasks.written())
    }

    /// Wakes the worker.
    fn ring_the_bell(&self) -> io::Result<()> {
        let Some(pipe) = &self.tasks else { return Ok(()) };
        match ready::tell(|| sigpipe::without_sigpipe(|| nix::unistd::write(pipe, &[BELL]))) {
            // A full pipe wakes it, too.
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what is left in the result ring, whatever its positions say, but for results that are older than `head`.
    pub(crate) fn salvage(&mut self, head: Ticket) {
        let Some(rings) = &self.rings else { return };
        self.reader.salvage_from(&rings.results);
        let mut next = *self.salvaged_from.get_or_insert(head);
        while next < head
            && let Ok(Some(run)) =
                self.reader.next_run(Kind::Done, next, u32::try_from(head - next).unwrap_or(u32::MAX))
        {
            next += u64::from(run.count);
        }
    }

    /// These bytes came out of the doorbell: bells, and in the end what a worker says that gives up.
    pub(crate) fn note_last_words(&mut self, bytes: &[u8]) {
        let kept = self.last_words.len().min(HEADER_LEN);
        self.last_words.drain(..self.last_words.len() - kept);
        self.last_words.extend_from_slice(&bytes[bytes.len().saturating_sub(HEADER_LEN)..]);
        let end = self.last_words.len().checked_sub(HEADER_LEN).map(|start| &self.last_words[start..]);
        if let Some(Ok(header)) = end.and_then(<[u8]>::first_chunk).map(|header| Header::decode(header, 0))
            && header.kind == Kind::Refused
        {
            self.ran_up_to = Some(header.ticket);
        }
    }

    /// Whether a dead worker had started a task that it held and whose result is missing, as its board and its last words
    /// tell. For the oldest one, a board that makes no sense says yes, for the others no: they cannot have been claimed, unless
    /// results have been destroyed.
    pub(crate) fn had_started(&self, ticket: Ticket, oldest: bool, cause: &DeathCause) -> bool {
        if ticket > self.offered {
            return false;
        }
        let refused = *cause == DeathCause::Exited(SCRIBBLED);
        if let (true, Some(last)) = (refused, self.ran_up_to) {
            return ticket <= last;
        }
        match self.board.observe(ticket) {
            Slot::Offered | Slot::Taken => false,
            Slot::Claimed { .. } | Slot::Finished => true,
            Slot::Foreign => self.suspect || (oldest && !refused),
        }
    }

    /// Nothing more that the worker writes is of interest.
    pub(crate) fn turn_deaf(&mut self) {
        self.deaf = true;
        self.results = None;
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

    /// How much private memory it has, in bytes; `None` if it is gone.
    pub(crate) fn weigh(&mut self) -> Option<u64> {
        let pid = self.pid;
        let scales = match &mut self.scales {
            Some(scales) => scales,
            none => none.insert(Scales::of(pid)?),
        };
        self.private = scales.private()?;
        Some(self.private)
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
            // By its number, then, which is its own while it lives.
            if !process::is_over(self.pidfd.as_fd()) {
                process::kill_child(self.pid);
            }
            // This program has given up privileges that the worker still has: the kernel kills it with those of the worker.
            self.lifeline = None;
        }
        self.kill_group();
    }

    /// Kills what is left of the process group. The worker must not have been reaped.
    pub(crate) fn kill_group(&self) {
        if let Err(error) = process::kill_group(self.pidfd.as_fd(), self.pid) {
            tracing::warn!(pid = self.pid, %error, "cannot kill the process group of a worker");
        }
        self.confined.kill();
    }

    /// Collects the exit status, if the worker is dead.
    pub(crate) fn reap(&self) -> io::Result<Option<Remains>> {
        process::reap(self.pidfd.as_fd())
    }

    /// Why it will neither answer what it runs nor die, if that shows.
    pub(crate) fn standstill(&mut self) -> Option<&'static str> {
        self.standstill.look(self.pid, self.pidfd.as_fd())
    }

    /// What can be told of a worker that is dead and cannot be reaped, because somebody debugs it, or that is stuck.
    pub(crate) fn held_remains(&self) -> Option<Remains> {
        let status = match process::is_over(self.pidfd.as_fd()) {
            true => process::shown_status(self.pid),
            // It has been killed, and that will be its end.
            false if self.stuck => None,
            false => return None,
        };
        Some(Remains { status, max_rss: None, cpu_time: None })
    }

    /// Is not heard of any more: it is dead, its death has been told, and it cannot be reaped yet.
    pub(crate) fn hold(&mut self) {
        (self.held, self.fenced) = (true, true);
        (self.tasks, self.results, self.stdout.fd, self.stderr.fd) = (None, None, None, None);
        if let Err(error) = self.pidfd.unwatch() {
            tracing::error!(pid = self.pid, %error, "cannot stop watching a dead worker");
        }
    }

    /// When the oldest task was claimed, as the board says.
    pub(crate) fn started_at(&self, since_ns: u64, now: Instant) -> Instant {
        let age = pool_ipc::now_ns().saturating_sub(since_ns);
        now.checked_sub(Duration::from_nanos(age)).unwrap_or(now)
    }

    /// The death report, without the task.
    pub(crate) fn death(&self, remains: &Remains, oom: &mut OomCounter, executable: &str) -> Death {
        let cause = match (remains.status, &self.killed) {
            // A kill of ours explains a SIGKILL; any other end came before it.
            (Some(ExitStatus::Signalled { signal: libc::SIGKILL, .. }) | None, Some(why)) => requested(why),
            (Some(ExitStatus::Signalled { signal: libc::SIGKILL, core_dumped }), None) => {
                match self.confined.out_of_memory() {
                    Some(cause) => {
                        // In the counter of this program it shows, too.
                        oom.skip();
                        cause
                    }
                    None => match oom.explain() {
                        Some(evidence) => DeathCause::OutOfMemory { evidence },
                        None => DeathCause::Signalled { signal: libc::SIGKILL, core_dumped },
                    },
                }
            }
            (Some(ExitStatus::Signalled { signal, core_dumped }), _) => {
                let limit = self.confined.limit_behind(signal, remains.cpu_time);
                limit.unwrap_or(DeathCause::Signalled { signal, core_dumped })
            }
            (Some(ExitStatus::Exited(code)), _) => DeathCause::Exited(code),
            (None, None) => DeathCause::StatusLost,
        };
        let cause = match cause {
            DeathCause::StartFailed { .. } => cause,
            // It has shown that it is a worker.
            other if self.preparing => other,
            other if self.routes.is_none() && !matches!(other, DeathCause::Terminated) => {
                let hint = if matches!(other, DeathCause::Exited(_)) {
                    "; is `pool_core::init()` the first line of its main(), or `pool_core::test_worker!();` at the root of the \
                     test crate?"
                } else {
                    ""
                };
                DeathCause::StartFailed {
                    why: format!("{executable} {other} before it reported as a worker{hint}"),
                }
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
            stderr_tail: self.stderr.said(None, None),
            stdout_tail: self.stdout.said(None, None),
        }
    }
}

/// Why a frame cannot be queued.
#[derive(Debug, Error)]
pub(crate) enum PushError {
    /// The frame is to blame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The worker has overwritten the ring.
    #[error(transparent)]
    Ring(#[from] RingError),
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
        KillReason::MemoryLimit { rss, limit } => DeathCause::MemoryLimit { rss: *rss, limit: *limit },
        KillReason::ProcessLimit(limit) => DeathCause::ProcessLimit { limit: *limit },
        KillReason::InitTimeout(limit) => DeathCause::StartFailed {
            why: format!("it did not build its state within {limit:?} (init_timeout)"),
        },
        KillReason::Terminated | KillReason::ExitTimeout => DeathCause::Terminated,
    }
}
