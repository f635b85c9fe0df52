//! What lies behind an item that may run for ever does not stay there if somebody else could do it, be he idle or busy with what
//! ends. Where somebody is idle and may do anything, see [`check_work_conservation`](World::check_work_conservation).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fact::{Fact, Item};
use super::process::Process;
use super::seats::Server;
use super::world::World;

/// From so long on an item is one that others need not wait for.
const LONG: Duration = Duration::from_millis(50);

/// Items that somebody holds and that are for somebody else, and since when.
pub(super) type Astray = BTreeMap<(u64, Item), Instant>;

impl World<'_> {
    /// What a worker holds behind its head and has not begun.
    fn unbegun<'a>(&'a self, process: &'a Process) -> impl Iterator<Item = (Item, &'a Fact)> {
        let generation = process.who.generation.get();
        let facts = process.assigned.values().skip(1).map(|item| (*item, &self.facts[*item as usize - 1]));
        facts.filter(move |(_, fact)| {
            !fact.resolved && fact.claims.iter().all(|claim| claim.generation != generation)
        })
    }

    /// How long it takes until what is called back is there.
    fn way_back(&self) -> Duration {
        if self.scenario.remote { 2 * self.delay() } else { Duration::ZERO }
    }

    /// Nobody keeps what is for a seat that somebody else serves, whatever either of them does.
    pub(super) fn check_astray(&mut self) {
        let mut astray: Vec<(u64, Item)> = Vec::new();
        if self.batches.iter().any(|batch| batch.ordered) && !self.broken && !self.terminated {
            for process in self.living().filter(|process| process.is_working() && process.linked) {
                let pinned = self.unbegun(process).filter_map(|(item, fact)| Some((item, fact.pin?)));
                let is_for_another = |(_, pin): &(Item, usize)| match self.server(*pin, usize::MAX) {
                    Server::Sits(place) | Server::Stands(Some(place)) => place != process.who.index(),
                    _ => false,
                };
                let generation = process.who.generation.get();
                astray.extend(pinned.filter(is_for_another).map(|(item, _)| (generation, item)));
            }
        }
        let patience = self.way_back();
        self.astray.retain(|item, _| astray.contains(item));
        for (generation, item) in astray {
            let since = *self.astray.entry((generation, item)).or_insert(self.now);
            assert!(
                self.now < since + patience,
                "item {item} lies with {generation} since {:?}, and is for another one: {:?}, {:#?}",
                self.now.duration_since(since),
                self.seating(),
                self.machine.slots()
            );
        }
    }

    /// Nobody is given an item while an older one of its lane lies behind one that has run for long; unless it has just come `back`:
    /// who is idle takes over half of what lies there, and the next one half of the rest.
    pub(super) fn check_overtaken(&mut self, back: &[Item]) {
        let builds =
            if self.scenario.temper.prepares > 0 { 2 * self.scenario.config.init_timeout } else { LONG };
        let patience = 2 * LONG + builds + 2 * self.delay();
        let fresh = |item: &&Item| {
            let fact = &self.facts[**item as usize - 1];
            fact.claims.is_empty() && fact.pin.is_none() && !back.contains(item)
        };
        let given: Vec<Item> = self.handed.iter().map(|(_, item)| item).filter(fresh).copied().collect();
        if given.is_empty() {
            return;
        }
        let is_overtaken = |(item, fact): &(Item, &Fact)| {
            let lane = fact.lane();
            let overtakes = |given: &Item| given > item && self.facts[*given as usize - 1].lane() == lane;
            fact.claims.is_empty() && given.iter().any(overtakes)
        };
        // Nobody may have come for more until now: then it is being called back, and the next one gets it.
        let is_called_back =
            |process: &Process| process.called_back.is_some_and(|asked| self.now <= asked + self.way_back());
        let is_stuck = |process: &&Process| {
            process.is_working()
                && process.linked
                && self.now > process.head_since + patience
                && !is_called_back(process)
        };
        for process in self.living().filter(is_stuck) {
            let overtaken = self.unbegun(process).find(is_overtaken);
            assert!(
                overtaken.is_none(),
                "{given:?} are given out, and an older one lies behind what takes long: {overtaken:?}, {process:?}"
            );
        }
    }
}
