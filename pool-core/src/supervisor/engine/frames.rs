//! What workers write: frames, turned into events.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use pool_ipc::{Failure, Fill, Hello, Kind, MessageError};

use super::{CLOSED_PIPES_GRACE, Engine};
use crate::error::{BrokenReason, TaskError};
use crate::supervisor::event::{Event, Incarnation};
use crate::supervisor::routes::Routes;

impl Engine {
    /// Reads what a worker has written, `reads` times at most, and reports it.
    pub(super) fn read_results(&mut self, now: Instant, index: usize, reads: usize) {
        for _ in 0..reads {
            let Some(Some(link)) = self.links.get_mut(index) else { return };
            let who = link.who;
            let Some(results) = &link.results else { return };
            let filled = match link.reader.fill(results.as_fd()) {
                Ok(filled) => filled,
                Err(error) => {
                    tracing::warn!(pid = link.pid, %error, "cannot read the result pipe");
                    Fill::Eof
                }
            };
            match filled {
                Fill::WouldBlock => return,
                Fill::Eof => {
                    // It is dying, and the pidfd will tell; or it has closed its pipes, which a deadline finds out.
                    link.results = None;
                    self.closed_pipes.push((now + CLOSED_PIPES_GRACE, who));
                    return;
                }
                Fill::Bytes(_) => {
                    if !self.report_frames(now, index) {
                        return;
                    }
                }
            }
        }
    }

    /// Reports the whole frames that have been read; false once the worker has broken the protocol.
    pub(super) fn report_frames(&mut self, now: Instant, index: usize) -> bool {
        loop {
            let Some(Some(link)) = self.links.get_mut(index) else { return false };
            let who = link.who;
            let hello = link.routes.is_some();
            let frame = match link.reader.next_frame() {
                Ok(None) => return true,
                Ok(Some(frame)) => frame,
                Err(error) if hello => {
                    // Results of other tasks may stand behind it; it is looked for them until the worker is dead.
                    link.reader.resync();
                    self.machine
                        .on(now, Event::Garbage(who, format!("a frame that makes no sense: {error}")));
                    continue;
                }
                Err(error) => {
                    link.results = None;
                    self.machine
                        .on(now, Event::Violation(who, format!("a frame that makes no sense: {error}")));
                    return false;
                }
            };
            match (frame.kind, hello) {
                (Kind::Done, true) => {
                    let (ticket, payload) = (frame.ticket, frame.payload.into_owned());
                    link.finished += 1;
                    self.machine.on(now, Event::Finished(who, ticket, payload));
                }
                (Kind::Failed, true) => {
                    let (ticket, failure) = (frame.ticket, Failure::decode(&frame.payload));
                    link.finished += 1;
                    let event = match failure {
                        Ok(failure) => Event::Failed(who, ticket, self.task_error(who, failure)),
                        Err(error) => {
                            Event::Violation(who, format!("a failure report that makes no sense: {error}"))
                        }
                    };
                    self.machine.on(now, event);
                }
                (Kind::Bye, true) if self.machine.is_retiring(who) => {
                    // It has nothing more to say.
                    link.results = None;
                    return false;
                }
                (Kind::Hello, false) => {
                    let hello = Hello::decode(&frame.payload);
                    self.greet(now, who, hello);
                }
                (kind, _) => {
                    link.results = None;
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
        let discard = &mut self.buffer;
        let Some(link) = self.links.get_mut(who.index()).and_then(Option::as_mut) else { return };
        link.set_base(hello.base_max_rss);
        // What it printed before it was a worker (a banner of its main, say) is not for anybody.
        if let Some(fd) = &link.stdout.fd {
            while matches!(nix::unistd::read(fd.as_fd(), discard), Ok(read) if read == discard.len()) {}
        }
        link.routes = Some(routes);
        tracing::debug!(pool = self.pool, worker = %who.worker, pid = link.pid, build_id, "worker ready");
        self.machine.on(now, Event::Ready(who));
    }

    pub(super) fn task_error(&self, who: Incarnation, failure: Failure) -> TaskError {
        let job = self.machine.head(who).and_then(|(_, task)| task).and_then(|task| self.jobs.get(task));
        let task = job.map_or_else(|| "(ended)".to_owned(), |job| job.shown().to_owned());
        match failure {
            Failure::Panicked { message, location, backtrace } => {
                TaskError::Panicked { message, location, backtrace }
            }
            Failure::Decode(message) => TaskError::Decode { task, message },
            Failure::Encode(message) => TaskError::Encode { task, message },
            Failure::State(message) => TaskError::State { task, message },
            Failure::UnknownTask { .. } => {
                TaskError::UnknownTask { task, executable: self.executable.clone() }
            }
        }
    }
}

/// At most 20 bytes, as they are printed by other tools.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}
