//! What must be true of tasks that are for one seat only: they are given to whoever sits there, or, where nobody does or comes to,
//! to one of the others; and nobody who sits changes seats without a need.

use std::collections::BTreeMap;

use super::fact::{Fact, Item, Lane};
use super::process::Process;
use super::world::World;
use crate::supervisor::event::Incarnation;
use crate::supervisor::slot::{Phase, Slot};

/// Who sits where.
pub(super) type Seating = Vec<Option<Incarnation>>;

/// Who is to be given what is for a seat.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// The worker in this place, because it sits there.
    Sits(usize),
    /// Nobody yet: somebody is about to start who has not failed.
    Comes,
    /// Nobody sits there, and it depends whether somebody is waited for; if not, the worker in this place stands in.
    Unclear(Option<usize>),
    /// Nobody sits there; the worker in this place stands in, if anybody does.
    Stands(Option<usize>),
}

impl World<'_> {
    pub(super) fn seating(&self) -> Seating {
        let who = |place: usize| self.machine.slots()[place].incarnation();
        self.machine.seating().into_iter().map(|place| place.map(who)).collect()
    }

    /// Of those that start, only the ones up to this generation count: others have begun after the choice was made.
    pub(super) fn server(&self, pin: usize, latest: usize) -> Server {
        let seating = self.machine.seating();
        if let Some(place) = seating.get(pin % self.most as usize).copied().flatten() {
            return Server::Sits(place);
        }
        let starts = |slot: &Slot| match &slot.phase {
            Phase::Starting { .. } => slot.strikes.is_empty() && slot.generation.get() <= latest as u64,
            // Who has failed before may have been killed in this event, when the choice had been made.
            Phase::Dying { going, .. } => !going && slot.strikes.is_empty(),
            _ => false,
        };
        if self.machine.slots().iter().any(starts) {
            return Server::Comes;
        }
        let there: Vec<usize> = seating.into_iter().flatten().collect();
        let stands = there.get(pin.checked_rem(there.len()).unwrap_or(0)).copied();
        // Somebody else may come once these are gone, or what they hold.
        let is_on_its_way = |slot: &Slot| match &slot.phase {
            Phase::Retiring { .. } | Phase::Dying { .. } | Phase::Starting { .. } => true,
            Phase::Ready(ready) => ready.is_going() || !slot.active,
            Phase::Waiting { .. } | Phase::Stopped => false,
        };
        match self.machine.slots().iter().any(is_on_its_way) {
            true => Server::Unclear(stands),
            false => Server::Stands(stands),
        }
    }

    /// What was given out during this event went to those that it was for.
    pub(super) fn check_seats(&mut self, (before, latest): &(Seating, usize)) {
        let after = self.seating();
        for (seat, who) in before.iter().enumerate().take(self.most as usize) {
            let moved = who.and_then(|who| after.iter().position(|other| *other == Some(who)));
            assert!(moved.is_none_or(|now| now == seat), "{who:?} moves from {seat}: {before:?}, {after:?}");
        }
        let handed = std::mem::take(&mut self.handed);
        for (place, item) in &handed {
            let fact = &self.facts[*item as usize - 1];
            let Some(pin) = fact.pin else { continue };
            let (server, again) = (self.server(pin, *latest), !fact.claims.is_empty());
            match server {
                Server::Sits(sits) => {
                    assert_eq!(sits, *place, "item {item} for seat {pin} went astray: {after:?}");
                    self.sights.seated += 1;
                }
                Server::Stands(Some(stands)) | Server::Unclear(Some(stands)) => {
                    assert_eq!(stands, *place, "item {item} for seat {pin} went astray: {after:?}");
                    self.sights.unseated += 1;
                }
                _ => panic!("item {item} for seat {pin} went to {place}, and should wait: {after:?}"),
            }
            self.sights.reseated += u64::from(again);
        }
        self.handed = handed;
    }

    /// Whether a worker may be given what waits in a lane.
    pub(super) fn may_serve(&self, place: usize, lane: &Lane) -> bool {
        lane.pin.is_none_or(|pin| self.server(pin, usize::MAX) == Server::Sits(place))
    }

    pub(super) fn is_loose(&self, item: Item) -> bool {
        self.facts[item as usize - 1].pin.is_none()
    }

    /// Items that have not ended and are for anybody.
    pub(super) fn unresolved_loose(&self) -> usize {
        let loose = self.parcels.iter().filter(|(key, _)| self.is_loose(key.id.get()));
        loose.map(|(_, parcel)| (parcel.end - parcel.done) as usize).sum()
    }

    /// Whether a worker holds more than it runs that somebody else could do.
    pub(super) fn hoards(&self, process: &Process) -> bool {
        process.assigned.values().skip(1).any(|item| self.is_loose(*item))
    }

    /// Items that only somebody in his seat can do, but for one for each seat.
    pub(super) fn bound_to_seats(&self) -> usize {
        if self.scenario.config.staffing.least.is_none() || self.batches.iter().all(|batch| !batch.ordered) {
            return 0;
        }
        let pins = self.facts.iter().filter(|fact| !fact.resolved).filter_map(|fact| fact.pin);
        let mut items: BTreeMap<usize, usize> = BTreeMap::new();
        for pin in pins.filter(|pin| matches!(self.server(*pin, usize::MAX), Server::Sits(_))) {
            *items.entry(pin % self.most as usize).or_default() += 1;
        }
        items.values().map(|items| items - 1).sum()
    }

    /// An item that waits for a worker which has nothing to do.
    pub(super) fn keeps_a_seat_waiting(&self) -> Option<Item> {
        let idle = |place: usize| {
            self.living().any(|process| {
                process.who.index() == place && process.is_working() && process.assigned.is_empty()
            })
        };
        let waits = |item: &Item| {
            let with = self.living().any(|process| process.assigned.values().any(|held| held == item));
            let pin = self.facts[*item as usize - 1].pin.filter(|_| !with);
            match pin.map(|pin| self.server(pin, usize::MAX)) {
                Some(Server::Sits(place) | Server::Stands(Some(place))) => idle(place),
                _ => false,
            }
        };
        let pinned = self.parcels.iter().filter(|(key, _)| !self.is_loose(key.id.get()));
        let firsts = pinned.filter_map(|(key, parcel)| parcel.items(*key).next());
        let mut firsts: Vec<Item> = firsts.collect();
        firsts.sort_unstable();
        firsts.into_iter().find(waits)
    }

    /// Whether a task waits for a worker that is never done with what it runs.
    pub(super) fn waits_for_ever(&self, fact: &Fact) -> bool {
        let Some(pin) = fact.pin else { return false };
        let mut stuck = self.living().filter(|process| process.runs_for_ever());
        match self.server(pin, usize::MAX) {
            Server::Sits(place) => stuck.any(|process| process.who.index() == place),
            // By then everybody has come who is needed, so nobody stands in. One that is about to go sits nowhere, and keeps others from beginning.
            _ => stuck.any(|process| {
                self.slot_of(process).is_some_and(|slot| match &slot.phase {
                    Phase::Ready(ready) => ready.is_going(),
                    _ => false,
                })
            }),
        }
    }
}

/// Who has been given what was for which seat, as long as nobody came or went. This is known from what was handed out alone.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// Who works, and how many are wanted.
    crew: (Vec<u64>, u32),
    /// By seat.
    places: BTreeMap<usize, usize>,
}

impl World<'_> {
    /// As long as everybody is there, and nobody comes, goes, or is told to stop, all pieces for a seat go to one worker, and those
    /// for different seats to different workers.
    pub(super) fn check_pieces(&mut self) {
        let generations: Vec<u64> =
            self.latest.iter().copied().filter(|generation| *generation > 0).collect();
        let is_sound = |generation: &u64| {
            let process = &self.processes[*generation as usize - 1];
            process.is_working() && !process.heavy && process.flagged.is_empty()
        };
        let enough = (self.most + self.scenario.spares) as usize;
        let whole = generations.len() == enough && generations.iter().all(is_sound);
        let crew = (generations, self.most);
        if !whole || self.order.crew != crew {
            self.order = Order { crew: if whole { crew } else { (Vec::new(), 0) }, places: BTreeMap::new() };
            return;
        }
        for (place, item) in &self.handed {
            let Some(pin) = self.facts[*item as usize - 1].pin else { continue };
            let seat = pin % self.most as usize;
            let known = *self.order.places.entry(seat).or_insert(*place);
            assert_eq!(known, *place, "pieces for seat {seat} go to two workers: item {item}");
            let elsewhere = self.order.places.iter().find(|(other, at)| **other != seat && *at == place);
            assert!(elsewhere.is_none(), "{place} is given pieces for seats {seat} and {elsewhere:?}");
            self.sights.ordered += 1;
        }
    }
}
