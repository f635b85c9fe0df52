//! Seats: the workers in an order that outlives them, for batches whose pieces go to the workers in turns.
//!
//! Every active worker sits in a *seat*, unless it is leaving; so many seats as workers are wanted count. Piece `i` of such a batch
//! is *pinned* to the seat `i mod n` when it is submitted, and waits in a [lane](super::lanes) for that seat. A worker sits in the
//! seat with the number of its place if that is free, and in the first free one otherwise, and stays there for as long as it
//! is active: so the same worker gets the pieces of a seat, in this batch and in the next one, and its replacement or the spare that
//! takes over gets them after it.
//!
//! # Who serves a pin
//! Whoever sits in the seat; with fewer seats than there were, seats are counted anew (`pin mod n`). While nobody sits there:
//! * If somebody is coming, the pieces wait. Coming is who starts, stands by, or dies and will be replaced, and who is missing and has
//!   not been started yet. An elastic pool that lacks a worker in such a seat starts one, even if others are idle.
//! * If nobody is coming, because a worker has failed again and again and waits for its back-off, or starts for the third
//!   time, the pieces go to those that there are: to the one with the number `pin mod k` among these `k`.
//!
//! Of an elastic pool, who stands in is given nothing ahead, because somebody is started only for what waits.
//!
//! So a pinned piece never waits without somebody who serves it, or comes to. Who is given up is not always told by an event after
//! which something is handed out: what waited for him is handed over when all is decided (`Machine::hand_over`).
//!
//! # Events and races
//! * *A worker dies, is condemned, leaves or retires.* Its seat is free. What it held and had not begun is requeued in its lane.
//! * *A worker was given as many tasks as it may be,* and some are taken back. It sits until it retires, so nothing has moved.
//! * *Fewer workers.* Those in the seats that no longer count move up into free ones. Those that are too many and busy leave, and
//!   their seats are free at once.
//! * *A suspect waits for its worker to become empty, and the seat changes.* It is released, and waits for whoever serves it now.
//! * *A worker holds something for a seat that it does not serve any more:* it stood in for somebody who sits there now, or there
//!   are fewer seats, or others stand in. What it has not begun is asked back (`Machine::call_back_astray`), and waits for whoever
//!   serves the seat now: what it runs may take for ever.

use std::time::Instant;

use super::Machine;
use crate::supervisor::slot::{Phase, Slot};

/// Nobody's place.
const NOBODY: u32 = u32::MAX;
/// A worker that starts after so many unexplained deaths in its place is not waited for.
const HOPELESS: usize = 2;

/// Who sits where.
#[derive(Debug, Default)]
pub(super) struct Seats {
    /// By seat: the place of the worker, or [`NOBODY`].
    seats: Vec<u32>,
    /// Whether anything has changed since it was last looked who holds what is for others now.
    changed: bool,
    /// Whether anybody may hold what is for a seat in which he does not sit, so that it is worth while to look.
    strays: bool,
    /// Whether somebody may be waited for no longer.
    given_up: bool,
}

impl Seats {
    /// Whether somebody may serve other seats than when it was last looked.
    #[inline]
    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// It is looked now; whether anybody may hold what is for another seat than his own.
    pub(super) fn forget_change(&mut self) -> bool {
        self.changed = false;
        self.strays
    }

    /// Somebody is given something for a seat in which he does not sit.
    pub(super) fn note_stray(&mut self) {
        self.strays = true;
    }

    /// Nothing is for anybody in particular.
    pub(super) fn forget_strays(&mut self) {
        self.strays = false;
    }

    /// Another number of seats may count: what was for one of them may be for another.
    pub(super) fn recount(&mut self) {
        (self.changed, self.strays) = (true, true);
    }

    /// The place of the worker in a seat.
    pub(super) fn worker(&self, seat: usize) -> Option<usize> {
        self.seats.get(seat).filter(|place| **place != NOBODY).map(|place| *place as usize)
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.workers().count()
    }

    /// The places of all workers in seats.
    pub(super) fn workers(&self) -> impl Iterator<Item = usize> {
        self.seats.iter().filter(|place| **place != NOBODY).map(|place| *place as usize)
    }

    fn is_free(&self, seat: usize) -> bool {
        self.worker(seat).is_none()
    }

    fn seat(&mut self, seat: usize, index: usize) {
        if self.seats.len() <= seat {
            self.seats.resize(seat + 1, NOBODY);
        }
        self.seats[seat] = index as u32;
    }

    /// How many there are up to the last one that is taken.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }
}

impl<P> Machine<P> {
    /// The seat that a piece of a batch is for now, and how many there are.
    pub(super) fn pin_of(&self, piece: u64) -> (u32, u32) {
        let seats = self.sizing.most.max(1);
        ((piece % seats as u64) as u32, seats as u32)
    }

    fn seat_of(&self, pin: u32) -> usize {
        pin as usize % self.sizing.most.max(1)
    }

    /// A worker has become active.
    pub(super) fn sit(&mut self, index: usize) {
        let most = self.sizing.most;
        // Where more may be started than there are, some seats may stay free: not one that something waits for.
        let needed = if self.sizing.least < most { self.needed_seats() } else { Vec::new() };
        let suits = |seat: &usize| needed.is_empty() || needed.contains(seat);
        let own = Some(index).filter(|seat| *seat < most && self.seats.is_free(*seat)).filter(suits);
        let seat = own
            .or_else(|| needed.first().copied())
            .or_else(|| (0..).find(|seat| self.seats.is_free(*seat)))
            .unwrap_or(index);
        self.seats.seat(seat, index);
        self.seats.changed = true;
    }

    /// A worker is active no longer, or about to go.
    pub(super) fn rise(&mut self, index: usize) {
        self.seats.changed = true;
        self.seats.seats.iter_mut().filter(|place| **place == index as u32).for_each(|place| *place = NOBODY);
        self.move_up();
    }

    /// Those in seats that do not count take free ones that do.
    pub(super) fn move_up(&mut self) {
        loop {
            while self.seats.seats.last() == Some(&NOBODY) {
                self.seats.seats.pop();
            }
            let last = self.seats.seats.len();
            let Some(free) = (0..self.sizing.most.min(last)).find(|seat| self.seats.is_free(*seat)) else {
                return;
            };
            if last <= self.sizing.most {
                return;
            }
            let Some(place) = self.seats.seats.pop() else { return };
            self.seats.seats[free] = place;
        }
    }

    /// Whether a worker that serves a pin only stands in for somebody.
    pub(super) fn stands_in(&self, index: usize, pin: u32) -> bool {
        self.seats.worker(self.seat_of(pin)) != Some(index)
    }

    /// Whether a worker stands in for somebody who is started only as long as something waits for him, as in an elastic pool. What
    /// somebody holds does not wait: so whoever stands in there holds nothing ahead.
    pub(super) fn is_stopgap(&self, index: usize, pin: u32) -> bool {
        self.sizing.least < self.sizing.most && self.stands_in(index, pin)
    }

    /// The free seats that something waits for.
    pub(super) fn needed_seats(&self) -> Vec<usize> {
        if !self.queue.is_pinned() {
            return Vec::new();
        }
        let suspects = self.suspects.iter(&self.units).filter_map(|(_, unit)| self.queue.pin(unit.lane));
        let seats = self.queue.pins().chain(suspects).map(|pin| self.seat_of(pin));
        let mut needed: Vec<usize> = seats.filter(|seat| self.seats.is_free(*seat)).collect();
        needed.sort_unstable();
        needed.dedup();
        needed
    }

    /// Items of lanes with work whose seat is taken, but for one for each seat.
    pub(super) fn bound_to_seats(&self) -> usize {
        let pinned =
            self.queue.waiting().filter_map(|lane| Some((self.seat_of(self.queue.pin(lane)?), lane)));
        let mut taken: Vec<(usize, u32)> =
            pinned.filter(|(seat, _)| self.seats.worker(*seat).is_some()).collect();
        taken.sort_unstable();
        let items: usize = taken.iter().map(|(_, lane)| self.queue.left(*lane)).sum();
        taken.dedup_by_key(|(seat, _)| *seat);
        items - taken.len()
    }

    /// Who is given what is pinned to a seat, unless that waits for somebody who comes.
    pub(super) fn server(&self, pin: u32) -> Option<usize> {
        if let Some(index) = self.seats.worker(self.seat_of(pin)) {
            return Some(index);
        }
        let taken = self.seats.taken();
        if taken == 0 || self.awaits_somebody() {
            return None;
        }
        self.seats.workers().nth(pin as usize % taken)
    }

    /// Whether somebody is coming who may take a free seat.
    pub(super) fn awaits_somebody(&self) -> bool {
        self.least_staff() > self.crew.staffed || self.slots.iter().any(comes)
    }

    /// The next one in a place starts, or will later: perhaps so much later that nobody waits for him.
    pub(super) fn note_successor(&mut self, index: usize) {
        self.seats.given_up |= !comes(&self.slots[index]);
    }

    /// If somebody is waited for no longer: gives what is for his seat to others.
    #[inline]
    pub(super) fn hand_over(&mut self, now: Instant) {
        if self.seats.given_up {
            self.after_giving_up(now);
        }
    }

    #[cold]
    fn after_giving_up(&mut self, now: Instant) {
        while std::mem::take(&mut self.seats.given_up) && self.queue.is_pinned() {
            self.dispatch(now);
            // Those that were idle are not, so more may be missing. It ends when there are as many as there may be.
            self.staff(now);
        }
    }
}

/// Whether somebody is coming in this place.
fn comes(slot: &Slot) -> bool {
    match &slot.phase {
        Phase::Starting { .. } => slot.strikes.len() < HOPELESS,
        Phase::Dying { going, .. } => !going,
        Phase::Ready(ready) => !slot.active && !ready.is_going(),
        Phase::Waiting { .. } | Phase::Retiring { .. } | Phase::Stopped => false,
    }
}
