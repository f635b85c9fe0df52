//! Who is woken by results: the engine's part of [`lead`](crate::supervisor::lead).

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use pool_ipc::Wake;

use super::{Engine, READS_A_TURN};
use crate::supervisor::event::Event;
use crate::supervisor::spin::Turn;
use crate::supervisor::token::Token;
use crate::sync;

/// How long bells that are to ring late rest after they have been armed; less than workers are given work for.
const REST: Duration = Duration::from_micros(500);
/// Tasks that are submitted between two looks at the rings.
const HARVEST: u32 = 128;

/// What a leader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leading {
    /// It reads results, or is about to.
    Awake,
    AsleepForOne,
    AsleepForMany,
}

impl Engine {
    /// Somebody has taken the lead, and waits for many outcomes or for one; or gives it up.
    pub(crate) fn lead(&mut self, leader: Option<Leading>) {
        if leader == Some(Leading::Awake) && self.leader != leader {
            self.disarm_bells();
            self.arm_bells_at = None;
        }
        self.leader = leader;
    }

    fn disarm_bells(&mut self) {
        for link in self.links.iter_mut().flatten().filter(|link| link.busy) {
            link.disarm();
        }
    }

    /// The time has come at which bells are to be armed.
    pub(super) fn arm_bells_in_time(&mut self, now: Instant) {
        if self.arm_bells_at.take_if(|at| *at <= now + REST / 2).is_some() {
            if self.leader.is_none() && (now < self.bells_rest_until || self.read_rings()) {
                // They go on.
                self.arm_bells_at = Some(now + REST);
            } else {
                self.bells_rest_until = now;
                self.arm_bells();
            }
        }
    }

    /// Tasks have been submitted, and are handed out; a single one may wait for others that are to come. Now and then, whoever
    /// submits many reads what has become of them, and always before a worker is woken that another one might make needless.
    pub(crate) fn hand_out(&mut self, now: Instant, single: bool) {
        self.unread += 1;
        if self.unread >= HARVEST && self.leader.is_none() {
            self.unread = 0;
            self.read_rings();
            self.bells_rest_until = now + REST;
        }
        let sleeps = matches!(self.leader, Some(Leading::AsleepForOne | Leading::AsleepForMany));
        if single && !sleeps && self.machine.may_wait(now) {
            return;
        }
        if self.machine.would_wake(now) {
            self.read_rings();
        }
        self.machine.on(now, Event::Pump);
    }

    /// The leader is busy with something else.
    pub(crate) fn step_aside(&mut self) {
        if self.leader.is_some() {
            self.lead(None);
            self.arm_bells();
        }
    }

    /// A task has been given to a worker.
    pub(super) fn note_busy(&mut self, index: usize) {
        self.mark_dirty(index);
        let wake = self.bell();
        let Some(Some(link)) = self.links.get_mut(index) else { return };
        if link.rings.is_none() || link.busy {
            return;
        }
        link.busy = true;
        // Before the task is published, so that no result comes unannounced.
        match wake {
            // An idle worker that has written something, of all things: it is read by the reactor.
            Some(wake) => self.needs_reactor |= link.arm(wake),
            None => link.disarm(),
        }
        self.busy.push(index);
        self.permit_spinning(index);
    }

    /// Busy workers may spin while there is a core for each of them, and one for whoever gives them work. `index` has been added,
    /// or is the last one that has been removed.
    fn permit_spinning(&mut self, index: usize) {
        let may_spin = self.busy.len() < self.cores;
        let all = self.busy.len() + usize::from(may_spin) == self.cores;
        let others = if all { self.busy.as_slice() } else { &[] };
        for index in others.iter().chain([&index]) {
            if let Some(Some(link)) = self.links.get_mut(*index)
                && link.may_spin != may_spin
            {
                link.may_spin = may_spin;
                link.board.allow_spinning(may_spin);
            }
        }
    }

    /// When workers are to ring.
    fn bell(&self) -> Option<Wake> {
        match self.leader {
            Some(Leading::Awake) => None,
            Some(Leading::AsleepForOne) => Some(Wake::Each),
            Some(Leading::AsleepForMany) | None if self.lead.watched.any() => Some(Wake::Each),
            None if self.arm_bells_at.is_some() => None,
            Some(Leading::AsleepForMany) | None => Some(Wake::Low),
        }
    }

    /// Reads what workers have published in their rings; whether there was anything.
    pub(crate) fn read_rings(&mut self) -> bool {
        let mut found = false;
        let mut place = 0;
        while let Some(&index) = self.busy.get(place) {
            let Some(Some(link)) = self.links.get_mut(index) else {
                self.busy.swap_remove(place);
                continue;
            };
            if !link.writer.is_empty() && !link.dirty {
                // It may have made room.
                link.dirty = true;
                self.dirty.push(index);
            }
            if link.has_news() {
                found = true;
                self.now = sync::now();
                self.read_results(self.now, index, READS_A_TURN);
            }
            if self.machine.load(index) > 0 {
                place += 1;
            } else {
                self.busy.swap_remove(place);
                if let Some(Some(link)) = self.links.get_mut(index) {
                    link.busy = false;
                }
                self.permit_spinning(index);
            }
        }
        if found {
            self.spin.found();
        }
        found
    }

    /// Whether the leader should look once more before it sleeps: while there is a core for it besides those of the busy
    /// workers.
    pub(crate) fn spin(&mut self) -> Turn {
        if self.busy.is_empty() || self.busy.len() >= self.cores { Turn::Sleep } else { self.spin.turn() }
    }

    /// The leader has offered its core to others, and was away for so long.
    pub(crate) fn was_away(&mut self, away: Duration) {
        self.spin.was_away(away);
    }

    /// The leader is about to sleep; false if it is to look first whether what it waits for has come.
    pub(crate) fn fall_asleep(&mut self, bulk: bool) -> bool {
        if !self.muted {
            self.mute(sync::now(), true);
        }
        self.leader = Some(if bulk { Leading::AsleepForMany } else { Leading::AsleepForOne });
        self.arm_bells();
        self.settled.is_empty() && !self.machine.has_actions()
    }

    /// Whether the leader was about to sleep when it looked whether what it waits for has come: bells are armed, and what
    /// came before has been read.
    pub(crate) fn is_dozing(&self) -> bool {
        matches!(self.leader, Some(Leading::AsleepForMany | Leading::AsleepForOne))
    }

    /// Has workers announce their results as early as somebody wants to know them, and reads what they will not announce.
    ///
    /// Once is enough, however fast they go on: bells stay armed, and ring for what comes after the look at the ring.
    ///
    /// Where nobody waits for anything, they are told to ring late, and not more often than once in a while: whoever submits many
    /// tasks one by one would otherwise be disturbed by every worker that has finished the few it had. The timer arms them then.
    pub(crate) fn arm_bells(&mut self) {
        let Some(wake) = self.bell().filter(|_| !self.busy.is_empty()) else { return };
        if self.leader.is_none() && wake == Wake::Low {
            let now = sync::now();
            if now < self.bells_rest_until {
                self.arm_bells_at = Some(self.bells_rest_until);
                return self.disarm_bells();
            }
            self.bells_rest_until = now + REST;
        }
        self.arm_bells_at = None;
        let mut found = false;
        for index in &self.busy {
            if let Some(Some(link)) = self.links.get_mut(*index) {
                found |= link.arm(wake);
            }
        }
        if found {
            self.read_rings();
        }
    }

    /// Somebody wants to know how things are: reads what workers have published.
    pub(crate) fn glance(&mut self) {
        if self.leader != Some(Leading::Awake) {
            self.read_rings();
            self.arm_bells();
        }
    }

    /// Results may be there: reads what the epoll set of the results shows.
    pub(crate) fn on_results(&mut self, now: Instant) {
        let mut events = [EpollEvent::empty(); 64];
        let ready = match self.lead.results.wait(&mut events, EpollTimeout::ZERO) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => return,
            Err(error) => {
                return self.machine.on(now, Event::Fault(format!("epoll_wait for results: {error}")));
            }
        };
        for bits in events[..ready].iter().map(EpollEvent::data) {
            if let Some(token) = Token::decode(bits) {
                self.on_ready(now, token);
            }
        }
        if self.leader != Some(Leading::Awake) {
            // The bells that have been rung are off.
            self.arm_bells();
        }
    }

    pub(super) fn mute(&mut self, now: Instant, muted: bool) {
        match self.lead.mute(&self.epoll, muted) {
            Ok(()) => self.muted = muted,
            Err(error) => {
                self.machine.on(now, Event::Fault(format!("cannot change who is told of results: {error}")));
            }
        }
    }
}
