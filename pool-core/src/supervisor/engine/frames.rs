//! What workers write: frames, turned into events.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use pool_ipc::{Failure, Fill, Hello, Kind, MessageError};

use super::{CLOSED_PIPES_GRACE, Engine};
use crate::arena::IDLE;
use crate::error::{BrokenReason, TaskError};
use crate::outcome::Results;
use crate::reply::Reply;
use crate::supervisor::event::{Event, Incarnation, Ticket};
use crate::supervisor::link::Link;
use crate::supervisor::machine::Machine;
use crate::supervisor::routes::Routes;
use crate::supervisor::token::{Source, Token};

impl Engine {
    /// Reads what a worker has written, `reads` times at most, and reports it.
    pub(super) fn read_results(&mut self, now: Instant, index: usize, reads: usize) {
        for _ in 0..reads {
            let Some(Some(link)) = self.links.get_mut(index) else { return };
            let who = link.who;
            if link.deaf {
                return;
            }
            let filled = match link.fill() {
                Ok(filled) => filled,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.salvage(now, index);
                    return self.machine.on(now, Event::Violation(who, error.to_string()));
                }
                Err(error) => {
                    tracing::debug!(pid = link.pid, %error, "a pipe of a worker is broken");
                    Fill::Eof
                }
            };
            match filled {
                Fill::WouldBlock => return,
                Fill::Eof => return self.pipe_closed(now, index),
                Fill::Bytes(_) => {
                    if let Some(pace) = link.pace() {
                        self.machine.measured(who, pace);
                    }
                    if !self.report_frames(now, index) {
                        return;
                    }
                }
            }
        }
    }

    /// A worker has closed a pipe: it is dying, and the pidfd will tell; or it lives on, which a deadline finds out.
    pub(super) fn pipe_closed(&mut self, now: Instant, index: usize) {
        let Some(Some(link)) = self.links.get_mut(index) else { return };
        link.results = None;
        self.closed_pipes.push((now + CLOSED_PIPES_GRACE, link.who));
    }

    /// Everything older than this ticket has its result in the ring, by the worker's own account. If they have not been found
    /// there, a position lies.
    pub(super) fn find_results(&mut self, now: Instant, who: Incarnation, ticket: Ticket) {
        let missing =
            |machine: &Machine<Results>| machine.head(who).is_some_and(|head| head.span.first < ticket);
        if !missing(&self.machine) || !self.live(who).is_some_and(|link| link.rings.is_some() && !link.deaf) {
            return;
        }
        self.salvage(now, who.index());
        // What is still missing then was never written; whoever asks has his own word for that.
        if !missing(&self.machine) {
            let what = "the writer's position in its result ring has been overwritten";
            self.machine.on(now, Event::Violation(who, what.to_owned()));
        }
    }

    /// Reports what can still be found in a ring whose positions have been overwritten: results in their order, as far as they
    /// are sound.
    pub(super) fn salvage(&mut self, now: Instant, index: usize) {
        let Some(Some(link)) = self.links.get_mut(index) else { return };
        if let Some(head) = self.machine.head(link.who) {
            link.suspect = true;
            link.salvage(head.span.first);
        }
        while self.report_run(now, index, 1) {}
        self.links[index].iter_mut().for_each(Link::turn_deaf);
    }

    /// Empties a doorbell. What is in it has no meaning, whoever has written it, but for the last words of a worker that
    /// gives up.
    pub(super) fn answer_the_door(&mut self, now: Instant, index: usize) {
        let Some(Some(link)) = self.links.get_mut(index) else { return };
        let Some(doorbell) = &link.results else { return };
        match nix::unistd::read(doorbell, &mut self.buffer) {
            Ok(0) => self.pipe_closed(now, index),
            Ok(count) => link.note_last_words(&self.buffer[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(pid = link.pid, %error, "cannot read the doorbell of a worker");
                self.pipe_closed(now, index);
            }
        }
    }

    /// Reports the results that come first among what has been read, if they are those of the head and of what was given to
    /// the worker together with it; whether there were any. Looked for only if the head has `least` items left.
    fn report_run(&mut self, now: Instant, index: usize, least: u32) -> bool {
        let Some(Some(link)) = self.links.get_mut(index) else { return false };
        let who = link.who;
        let Some(head) = self.machine.head(who).filter(|head| head.span.count >= least) else { return false };
        let Ok(Some(run)) = link.reader.next_run(Kind::Done, head.span.first, head.span.count) else {
            return false;
        };
        let (count, results) = (run.count, Results::Run(run.bytes.to_vec()));
        link.finished += u64::from(count);
        link.parcels.answered(head.span.first + u64::from(count) - 1);
        self.machine.on(now, Event::Finished(who, head.span.first, count, results));
        true
    }

    /// Reports the whole frames that have been read; false once the worker has broken the protocol.
    pub(super) fn report_frames(&mut self, now: Instant, index: usize) -> bool {
        let sound = self.report_all(now, index);
        self.machine.reported(now);
        sound
    }

    fn report_all(&mut self, now: Instant, index: usize) -> bool {
        let limit = self.frame_limit as usize;
        loop {
            let Some(Some(link)) = self.links.get_mut(index) else { return false };
            let who = link.who;
            let hello = link.routes.is_some();
            // What is usual first: results of what the worker was given together, looked through and passed on together.
            if hello && self.report_run(now, index, 2) {
                continue;
            }
            let Some(Some(link)) = self.links.get_mut(index) else { return false };
            let frame = match link.reader.next_frame() {
                Ok(None) => return true,
                Ok(Some(frame)) => frame,
                Err(error) if hello => {
                    // Results of other tasks may stand behind it; it is looked for them until the worker is dead.
                    link.reader.resync();
                    link.suspect = true;
                    self.machine
                        .on(now, Event::Garbage(who, format!("a frame that makes no sense: {error}")));
                    continue;
                }
                Err(error) => {
                    link.turn_deaf();
                    self.machine
                        .on(now, Event::Violation(who, format!("a frame that makes no sense: {error}")));
                    return false;
                }
            };
            match (frame.kind, hello) {
                (Kind::Done, true) => {
                    let (ticket, reply) = (frame.ticket, reply_of(frame.payload));
                    link.finished += 1;
                    link.parcels.answered(ticket);
                    self.machine.report(now, who, ticket, 1, Results::One(reply));
                }
                (Kind::DoneAt, true) => {
                    let (ticket, reply) = (frame.ticket, link.parcels.accept(&frame.payload, limit));
                    link.finished += 1;
                    link.parcels.answered(ticket);
                    self.tidy_at.get_or_insert(now + IDLE);
                    let event = match reply {
                        Ok(reply) => Event::Finished(who, ticket, 1, Results::One(reply)),
                        Err(what) => Event::Violation(who, what),
                    };
                    self.machine.on(now, event);
                }
                (Kind::Forget, true) if link.parcels.forget(&frame.payload) => {}
                (Kind::Failed, true) => {
                    let (ticket, failure) = (frame.ticket, Failure::decode(&frame.payload));
                    link.finished += 1;
                    link.parcels.answered(ticket);
                    let event = match failure {
                        Ok(failure) => {
                            let mut error = self.task_error(who, failure);
                            if matches!(error, TaskError::Panicked { .. }) {
                                error.attach(self.printed_by(who, ticket));
                            }
                            Event::Failed(who, ticket, error)
                        }
                        Err(error) => {
                            Event::Violation(who, format!("a failure report that makes no sense: {error}"))
                        }
                    };
                    self.machine.on(now, event);
                }
                (Kind::Refused, true) => link.ran_up_to = Some(frame.ticket),
                (Kind::Bye, true) if self.machine.is_retiring(who) => {
                    // It has nothing more to say. Its doorbell stays, so that it can ring for this.
                    link.deaf = true;
                    return false;
                }
                (Kind::Preparing | Kind::Prepared | Kind::Unfit | Kind::ExitNote, _) => {
                    let (kind, payload) = (frame.kind, frame.payload.into_owned());
                    if !self.note_state(now, who, kind, &payload) {
                        return false;
                    }
                }
                (Kind::Hello, false) => {
                    let hello = Hello::decode(&frame.payload);
                    self.greet(now, who, hello);
                }
                (kind, _) => {
                    link.turn_deaf();
                    self.machine.on(now, Event::Violation(who, format!("an unexpected {kind:?} frame")));
                    return false;
                }
            }
        }
    }

    pub(super) fn greet(&mut self, now: Instant, who: Incarnation, hello: Result<Hello, MessageError>) {
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => {
                let why = match error {
                    MessageError::Version { theirs, ours } => format!(
                        "it speaks protocol version {theirs}, this program speaks {ours}; \
                         build both with the same version of pool-core"
                    ),
                    other => format!("its hello makes no sense: {other}"),
                };
                let executable = self.executable.clone();
                let reason = BrokenReason::Incompatible { executable, why };
                return self.machine.on(now, Event::Unusable(who, reason));
            }
        };
        let build_id = hex(&hello.build_id);
        let routes = match &self.routes {
            Some(routes) if routes.made_from(&hello.tasks) => Arc::clone(routes),
            _ => Arc::new(Routes::new(&self.executable, hello.tasks)),
        };
        self.routes = Some(Arc::clone(&routes));
        self.discard_banner(who);
        let Some(link) = self.links.get_mut(who.index()).and_then(Option::as_mut) else { return };
        link.set_base(hello.base_max_rss);
        link.routes = Some(routes);
        let token = Token { who, source: Source::Results };
        if let Some(fd) = &mut link.results
            && let Err(error) = fd.rewatch(&self.lead.results, EpollFlags::EPOLLIN, token)
        {
            let what = format!("its result pipe cannot be watched: {error}");
            return self.machine.on(now, Event::Violation(who, what));
        }
        self.seeing.ready(link, now, &build_id);
        self.machine.on(now, Event::Ready(who));
    }

    pub(super) fn task_error(&self, who: Incarnation, failure: Failure) -> TaskError {
        let job = self.machine.head(who).and_then(|head| head.unit).and_then(|(unit, _)| self.job(unit));
        let task = job.map_or_else(|| "(ended)".to_owned(), |job| job.shown());
        match failure {
            Failure::Panicked { message, location, backtrace } => {
                TaskError::Panicked { message, location, backtrace, output: None }
            }
            Failure::Decode(message) => TaskError::Decode { task, message },
            Failure::Encode(message) => TaskError::Encode { task, message },
            Failure::UnknownTask { .. } => {
                TaskError::UnknownTask { task, executable: self.executable.clone() }
            }
        }
    }
}

/// What has been read, without a copy if it has memory of its own.
fn reply_of(payload: Cow<'_, [u8]>) -> Reply {
    match payload {
        Cow::Borrowed(bytes) => Reply::from(bytes),
        Cow::Owned(bytes) => Reply::from(bytes),
    }
}

/// At most 20 bytes, as they are printed by other tools.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}
