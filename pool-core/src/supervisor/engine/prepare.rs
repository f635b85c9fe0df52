//! What workers say of their states, turned into events.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use pool_ipc::{ExitNote, Kind, MAX_STATE_NAME, Unfit};

use super::Engine;
use crate::error::BrokenReason;
use crate::supervisor::event::{Event, Incarnation};

impl Engine {
    /// A worker has written something about a state; false once it has broken the protocol.
    #[cold]
    pub(super) fn note_state(&mut self, now: Instant, who: Incarnation, kind: Kind, payload: &[u8]) -> bool {
        let event = match kind {
            Kind::Preparing => {
                // Whatever it prints from now on is for somebody.
                self.discard_banner(who);
                match std::str::from_utf8(payload) {
                    Ok(name) if name.len() <= MAX_STATE_NAME => {
                        if let Some(link) = self.live(who) {
                            link.preparing = true;
                        }
                        tracing::debug!(pool = self.pool, worker = %who.worker, state = name, "worker builds a state");
                        Ok(Event::Preparing(who, Arc::from(name)))
                    }
                    _ => Err("a name of a state that is none".to_owned()),
                }
            }
            Kind::Prepared => Ok(Event::Prepared(who)),
            Kind::Unfit => match Unfit::decode(payload) {
                Ok(Unfit { state, why }) if state.is_empty() => {
                    let executable = self.executable.clone();
                    Ok(Event::Unfit(who, BrokenReason::CannotStart { executable, why }))
                }
                Ok(Unfit { state, why }) => {
                    Ok(Event::Unfit(who, BrokenReason::StateFailed { state, why, deaths: Vec::new() }))
                }
                Err(error) => Err(format!("a report about a state that makes no sense: {error}")),
            },
            _ => match ExitNote::decode(payload) {
                Ok(note) if self.machine.is_retiring(who) => {
                    let pid = self.live(who).map_or(0, |link| link.pid);
                    self.exits.push(&self.pool, who.worker, pid, note);
                    return true;
                }
                Ok(_) => Err("an exit value before it was asked to retire".to_owned()),
                Err(error) => Err(format!("an exit value that makes no sense: {error}")),
            },
        };
        match event {
            Ok(event) => {
                self.machine.on(now, event);
                true
            }
            Err(what) => {
                if let Some(link) = self.live(who) {
                    link.turn_deaf();
                }
                self.machine.on(now, Event::Violation(who, what));
                false
            }
        }
    }

    /// What a process printed before it was a worker (a banner of its main, say) is not for anybody.
    pub(super) fn discard_banner(&mut self, who: Incarnation) {
        let discard = &mut self.buffer;
        let Some(link) = self.links.get_mut(who.index()).and_then(Option::as_mut) else { return };
        if link.routes.is_none()
            && !link.preparing
            && let Some(fd) = &link.stdout.fd
        {
            while matches!(nix::unistd::read(fd.as_fd(), discard), Ok(read) if read == discard.len()) {}
        }
    }
}
