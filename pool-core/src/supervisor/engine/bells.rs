//! Who is woken by results: the engine's part of [`lead`](crate::supervisor::lead).

use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollTimeout};

use pool_ipc::Wake;

use super::{Engine, READS_A_TURN};
use crate::supervisor::event::Event;
use crate::supervisor::token::{KICK, Token};

/// How often bells are armed again because something has come meanwhile, before the reactor is told to go on with that.
const ARMING_ROUNDS: usize = 8;

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
            for link in self.links.iter_mut().flatten().filter(|link| link.busy) {
                link.disarm();
            }
        }
        self.leader = leader;
    }

    /// The leader is busy with something else.
    pub(crate) fn step_aside(&mut self) {
        if self.leader == Some(Leading::Awake) {
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
        let quiet = match wake {
            Some(wake) => link.arm(wake),
            None => {
                link.disarm();
                true
            }
        };
        // An idle worker that has written something, of all things: it is read by the reactor.
        self.needs_reactor |= !quiet;
        self.busy.push(index);
    }

    /// When workers are to ring.
    fn bell(&self) -> Option<Wake> {
        match self.leader {
            Some(Leading::Awake) => None,
            Some(Leading::AsleepForOne) => Some(Wake::Each),
            Some(Leading::AsleepForMany) | None if self.lead.watched.any() => Some(Wake::Each),
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
            if link.has_news() {
                found = true;
                self.now = Instant::now();
                self.read_results(self.now, index, READS_A_TURN);
            }
            if self.machine.load(index) > 0 {
                place += 1;
            } else {
                self.busy.swap_remove(place);
                if let Some(Some(link)) = self.links.get_mut(index) {
                    link.busy = false;
                }
            }
        }
        if found {
            self.spin.found();
        }
        found
    }

    /// Whether the leader should look once more before it sleeps: while there is a core for it besides those of the busy
    /// workers.
    pub(crate) fn spin(&mut self) -> bool {
        !self.busy.is_empty() && self.busy.len() < self.cores && self.spin.turn()
    }

    /// The leader is about to sleep; false if there is something to read instead.
    pub(crate) fn fall_asleep(&mut self, bulk: bool) -> bool {
        if !self.muted {
            self.mute(Instant::now(), true);
        }
        self.lead(Some(if bulk { Leading::AsleepForMany } else { Leading::AsleepForOne }));
        let quiet = self.arm_busy();
        if !quiet {
            self.lead(Some(Leading::Awake));
        }
        quiet
    }

    /// Arms the bells of busy workers; false if there is something to read already.
    fn arm_busy(&mut self) -> bool {
        let Some(wake) = self.bell() else { return true };
        let mut quiet = true;
        for index in &self.busy {
            if let Some(Some(link)) = self.links.get_mut(*index) {
                quiet &= link.arm(wake);
            }
        }
        quiet
    }

    /// Has workers announce their results as early as somebody wants to know them, and reads what is there.
    pub(crate) fn arm_bells(&mut self) {
        // Bounded, because workers may go on for ever; the bell of one that has been read empty rings for what comes later.
        for _ in 0..ARMING_ROUNDS {
            if self.arm_busy() {
                return;
            }
            self.read_rings();
        }
        self.needs_reactor = true;
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
            match Token::decode(bits) {
                Some(token) => self.on_ready(now, token),
                None if bits == KICK => self.lead.kicked(),
                None => {}
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
