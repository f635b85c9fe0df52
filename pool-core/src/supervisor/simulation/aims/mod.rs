//! Coincidences that nobody waits for are arranged.
//!
//! Most transitions of the machine are rare because two things have to meet: something is on its way, and before it is there the worker,
//! the task or the pool has become something else. A pool with *aims* looks for such pairs of a state and an event of the
//! [tables](super::coverage). At every moment, also between the decision of the machine and what the shell makes of it, it is looked whether
//! somebody is in the state. If so the event is [let happen](inject), if the world allows it: a task writes what it should not,
//! a caller cancels, a signal arrives. If not, somebody is [brought closer](approach) to it. Everything of it happens to the simulated
//! world, and nothing is told to the machine that has not happened, so all that is checked elsewhere is checked here.
//!
//! Every pair that is rare, or ignored, is an aim of some pools.

mod approach;
mod inject;

use super::coverage::{
    BatchEvent, BatchState, Coverage, PoolEvent, PoolState, UnitEvent, UnitState, WorkerEvent, WorkerState,
    rare,
};
use super::random::Random;
use super::world::World;
use crate::supervisor::event::{Action, Incarnation, TaskKey};
use crate::supervisor::machine::Place;

/// One pool of so many has aims.
const ONE_OF: u64 = 3;
/// How many it has.
const AIMS: usize = 3;
/// Where in a seed it stands which is its only aim, if it has one aim only.
const SHIFT: u32 = 48;

/// A state, and what is to happen in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aim {
    Worker(WorkerState, WorkerEvent),
    Unit(UnitState, UnitEvent),
    Batch(BatchState, BatchEvent),
    Pool(PoolState, PoolEvent),
}

impl Aim {
    /// Everything that is rare, or ignored.
    pub(super) fn all() -> Vec<Self> {
        let workers = rare::<WorkerState>().map(|(state, event)| Self::Worker(state, event));
        let units = rare::<UnitState>().map(|(state, event)| Self::Unit(state, event));
        let batches = rare::<BatchState>().map(|(state, event)| Self::Batch(state, event));
        let pools = rare::<PoolState>().map(|(state, event)| Self::Pool(state, event));
        workers.chain(units).chain(batches).chain(pools).collect()
    }

    /// What the pool with this seed aims at.
    pub(super) fn of_seed(seed: u64, random: &mut Random) -> Vec<Self> {
        let all = Self::all();
        if let Some(only) = (seed >> SHIFT).checked_sub(1) {
            return all.get(only as usize).copied().into_iter().collect();
        }
        if !seed.is_multiple_of(ONE_OF) {
            return Vec::new();
        }
        // What suits the first one need not suit the others.
        (0..AIMS).map(|_| random.pick(&all)).collect()
    }

    /// The seed of the pool with this number among those that aim at the rare pair in this place, and at nothing else.
    pub(super) fn seed(place: usize, number: u64) -> u64 {
        (place as u64 + 1) << SHIFT | number
    }

    pub(super) fn was_hit(self, coverage: &Coverage) -> bool {
        let count = match self {
            Self::Worker(state, event) => coverage.workers.get(state, event),
            Self::Unit(state, event) => coverage.units.get(state, event),
            Self::Batch(state, event) => coverage.batches.get(state, event),
            Self::Pool(state, event) => coverage.pools.get(state, event),
        };
        count > 0
    }
}

/// Whether a worker in this state holds nothing.
fn is_empty(state: WorkerState) -> bool {
    use WorkerState as Is;
    let rests = matches!(state, Is::Spare | Is::Idle | Is::IdleBuilding);
    rests || matches!(state, Is::KilledEmpty | Is::Retiring | Is::RetiringBuilding | Is::RetiringKilled)
}

/// Whether nobody is there, or somebody else by now.
fn is_gone(state: WorkerState) -> bool {
    matches!(state, WorkerState::Outdated | WorkerState::Vacant | WorkerState::BackingOff)
}

impl World<'_> {
    /// Takes the opportunity, if there is one.
    pub(super) fn pursue(&mut self) {
        for index in 0..self.scenario.aims.len() {
            let aim = self.scenario.aims[index];
            if !self.chance(400) || aim.was_hit(&self.coverage) || self.drained {
                continue;
            }
            match aim {
                Aim::Worker(state, WorkerEvent::Unsendable) if !is_gone(state) => self.obstruct(state),
                Aim::Worker(state, event) => self.pursue_worker(state, event),
                Aim::Unit(state, event) => self.pursue_unit(state, event),
                Aim::Batch(..) => self.obstruct(WorkerState::Spoiled),
                Aim::Pool(state, event) if self.pool_state() == state => self.inject_to_pool(event),
                Aim::Pool(state, event) => self.approach_pool(state, event),
            }
        }
    }

    fn pursue_worker(&mut self, state: WorkerState, event: WorkerEvent) {
        if matches!(event, WorkerEvent::TookBack | WorkerEvent::Illegible)
            && is_empty(state)
            && self.entangle(state)
        {
            return;
        }
        let asks = matches!(event, WorkerEvent::TookBack | WorkerEvent::Claimed | WorkerEvent::Illegible);
        let is_there = |who: &Incarnation| WorkerState::of(&self.machine, *who) == state;
        let there: Vec<Incarnation> = match is_gone(state) {
            // Of those that are gone only those of which all has been heard.
            true => {
                let gone = self.processes.iter().filter(|process| process.reported);
                gone.map(|process| process.who).filter(is_there).collect()
            }
            false => self.everybody().filter(is_there).collect(),
        };
        if there.is_empty() {
            if let Some(who) = self.anybody() {
                if asks {
                    self.provoke(who);
                }
                self.approach(who, state);
            }
        } else {
            let who = self.random.pick(&there);
            if asks {
                self.provoke(who);
            }
            match is_gone(state) && !event.is_of_all() {
                true => self.haunt_with(who.generation.get(), event),
                false => self.inject(who.generation.get(), event),
            }
        }
    }

    fn pursue_unit(&mut self, state: UnitState, event: UnitEvent) {
        if event == UnitEvent::Unsendable {
            return self.obstruct_unit(state);
        }
        let is_it = |key: &TaskKey| self.unit_state(*key) == state && self.suits(*key, event);
        let mut there: Vec<TaskKey> = self.parcels.keys().copied().filter(is_it).collect();
        if there.is_empty() {
            return self.approach_unit(state, event);
        }
        // The parcels are in no order.
        there.sort_unstable();
        let key = self.random.pick(&there);
        self.inject_to_unit(key, event);
    }

    /// Whoever is, or was last, in each place.
    fn everybody(&self) -> impl Iterator<Item = Incarnation> {
        let slots = self.machine.slots().iter();
        slots.map(|slot| slot.incarnation()).filter(|who| who.generation.get() > 0)
    }

    /// One of them.
    fn anybody(&mut self) -> Option<Incarnation> {
        let all: Vec<Incarnation> = self.everybody().collect();
        (!all.is_empty()).then(|| self.random.pick(&all))
    }

    /// The worker that has a unit.
    fn holder(&self, key: TaskKey) -> Option<Incarnation> {
        match self.machine.place_of(key)? {
            Place::With(worker) => Some(self.machine.slots()[worker.get() as usize].incarnation()),
            Place::Queued | Place::Suspect => None,
        }
    }

    /// To whom something is to be sent that has not been sent yet, and what: one of those that suit.
    fn addressee(
        &mut self,
        suits: impl Fn(&Self, Incarnation, TaskKey) -> bool,
    ) -> Option<(Incarnation, TaskKey)> {
        let sends = self.pending.iter().filter_map(|action| match action {
            Action::Send { to, task, .. } => Some((*to, *task)),
            _ => None,
        });
        let sends: Vec<_> = sends.filter(|(who, task)| suits(self, *who, *task)).collect();
        (!sends.is_empty()).then(|| self.random.pick(&sends))
    }

    /// Whether a worker is to be asked to give something back, and has not been asked yet.
    fn is_to_be_asked(&self, who: Incarnation) -> bool {
        self.pending.iter().any(|action| matches!(action, Action::TakeBack(of, _) if *of == who))
    }

    /// Whether it is an aim that what is being sent to a worker now cannot be sent.
    pub(super) fn is_to_be_unsendable(&self, who: Incarnation, key: TaskKey) -> bool {
        let is_to_be = |aim: &Aim| match *aim {
            Aim::Worker(state, WorkerEvent::Unsendable) => WorkerState::of(&self.machine, who) == state,
            // Something of it is taken back when nothing is left.
            Aim::Worker(state, WorkerEvent::TookBack | WorkerEvent::Illegible) if is_empty(state) => {
                self.is_to_be_asked(who)
            }
            Aim::Unit(state, UnitEvent::Unsendable) => self.unit_state(key) == state,
            Aim::Batch(BatchState::Aborted, BatchEvent::FatalFailure) => {
                WorkerState::of(&self.machine, who) == WorkerState::Spoiled
            }
            _ => false,
        };
        !self.calm && self.scenario.aims.iter().any(is_to_be)
    }

    /// Whether it is an aim that a worker overwrites its board before it is asked to give something back.
    pub(super) fn is_to_be_illegible(&self, who: Incarnation) -> bool {
        let aim = Aim::Worker(WorkerState::of(&self.machine, who), WorkerEvent::Illegible);
        !self.calm && self.scenario.aims.contains(&aim)
    }
}
