//! What workers print: read, cut into lines, forwarded.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::epoll::EpollFlags;
use pool_ipc::Slot;

use super::{BACKLOG, Engine};
use crate::error::TaskOutput;
use crate::output::{Forwarder, Lines, Output, OutputStream};
use crate::supervisor::event::{Incarnation, Ticket};
use crate::supervisor::link::Link;
use crate::supervisor::token::{Source, Token};

/// Reads that empty a pipe. A grandchild that has escaped may go on writing for ever.
const PIPE_READS: usize = 8;

impl Engine {
    /// Reads what a dead worker had printed.
    pub(super) fn last_words(&mut self, link: &mut Link) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            read_output(&mut self.forwarder, &mut self.buffer, link, stream, PIPE_READS);
            let (worker, pid, greeted) = (link.who.worker, link.pid, link.routes.is_some());
            let left = link.stream(stream);
            let stalled = left.stalled.take();
            let last = left.splitter.finish().filter(|_| greeted || stream == OutputStream::Stderr);
            for text in stalled.into_iter().chain(last) {
                let lines = Lines { worker, pid, stream, text };
                if let Err(lines) = self.forwarder.send(lines) {
                    if self.backlog.len() < BACKLOG {
                        self.backlog.push_back(lines);
                    } else {
                        tracing::warn!(
                            pool = self.pool,
                            pid,
                            "output of a dead worker is dropped: this program's own output is blocked"
                        );
                    }
                }
            }
        }
    }

    /// What the oldest task of a worker, which has this ticket, has printed so far.
    pub(super) fn printed_by(&mut self, who: Incarnation, ticket: Ticket) -> Option<TaskOutput> {
        let task = self.machine.head(who).and_then(|head| head.task(ticket));
        let link = self.links.get_mut(who.index())?.as_mut().filter(|link| link.who == who)?;
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            read_output(&mut self.forwarder, &mut self.buffer, link, stream, PIPE_READS);
        }
        let since_ns = match link.board.observe(ticket) {
            Slot::Claimed { since_ns } => since_ns,
            // It has just finished, and the time is its own unless the next one has begun.
            _ => link.board.latest_start_ns(),
        };
        let since = Some(link.started_at(since_ns, Instant::now()));
        TaskOutput::some(link.stdout.said(task, since), link.stderr.said(task, since))
    }

    /// Tries again to forward what found the queue full.
    pub(super) fn retry_output(&mut self) {
        while let Some(lines) = self.backlog.pop_front() {
            if let Err(lines) = self.forwarder.send(lines) {
                self.backlog.push_front(lines);
                return;
            }
        }
        for link in self.links.iter_mut().flatten().chain(&mut self.dying) {
            for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                let (worker, pid, who) = (link.who.worker, link.pid, link.who);
                let state = link.stream(stream);
                let Some(text) = state.stalled.take() else { continue };
                match self.forwarder.send(Lines { worker, pid, stream, text }) {
                    Ok(()) => {
                        let token = Token { who, source: Source::Output(stream) };
                        if let Some(fd) = &mut state.fd
                            && let Err(error) = fd.watch(EpollFlags::EPOLLIN, token)
                        {
                            tracing::error!(pid, %error, "cannot watch the output of a worker");
                        }
                    }
                    Err(lines) => {
                        state.stalled = Some(lines.text);
                        return;
                    }
                }
            }
        }
    }

    /// Hands the forwarder over, with the last output queued, so that it can be waited for outside of the lock.
    pub(crate) fn take_forwarder(&mut self) -> Forwarder {
        let mut forwarder = std::mem::replace(
            &mut self.forwarder,
            Forwarder::new(Output::Null, self.pool.clone(), Arc::new(|| {})),
        );
        while let Some(lines) = self.backlog.pop_front() {
            if forwarder.send(lines).is_err() {
                break;
            }
        }
        forwarder
    }
}

/// Reads an output stream, `reads` times at most, and forwards whole lines.
pub(super) fn read_output(
    forwarder: &mut Forwarder,
    buffer: &mut [u8],
    link: &mut Link,
    stream: OutputStream,
    reads: usize,
) {
    let (worker, pid, greeted) = (link.who.worker, link.pid, link.routes.is_some());
    for _ in 0..reads {
        let state = match stream {
            OutputStream::Stdout => &mut link.stdout,
            OutputStream::Stderr => &mut link.stderr,
        };
        let Some(fd) = state.fd.as_mut().filter(|_| state.stalled.is_none()) else { return };
        let bytes = match nix::unistd::read(fd.as_fd(), buffer) {
            Ok(0) => {
                state.fd = None;
                return;
            }
            Ok(read) => &buffer[..read],
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EAGAIN) => return,
            Err(error) => {
                tracing::warn!(pid, %error, "cannot read the output of a worker");
                state.fd = None;
                return;
            }
        };
        if stream == OutputStream::Stdout && !greeted {
            continue;
        }
        let Some(text) = state.splitter.feed(Instant::now(), bytes) else { continue };
        if let Err(lines) = forwarder.send(Lines { worker, pid, stream, text }) {
            // The worker will block when its pipe is full, as it would on a terminal that does not scroll.
            // Taken out of epoll altogether: a hang-up would be reported without end.
            state.stalled = Some(lines.text);
            if let Err(error) = fd.unwatch() {
                tracing::error!(pid, %error, "cannot pause the output of a worker");
            }
        }
    }
}
