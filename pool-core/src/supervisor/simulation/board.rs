//! The claim board with the semantics of `pool_ipc::Board`, and as few slots as the ticket window allows.

use std::time::Instant;

use crate::supervisor::event::Ticket;

/// What a slot says about a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Offered,
    Claimed(Instant),
    Taken,
    Finished,
    Foreign,
}

#[derive(Debug)]
pub(super) struct Board {
    slots: Vec<(Ticket, Mark)>,
}

impl Board {
    pub(super) fn new(slots: u64) -> Self {
        Self { slots: vec![(0, Mark::Foreign); slots as usize] }
    }

    fn slot(&mut self, ticket: Ticket) -> &mut (Ticket, Mark) {
        let index = (ticket % self.slots.len() as u64) as usize;
        &mut self.slots[index]
    }

    /// Opens a ticket for claiming, and returns the ticket whose slot it takes over.
    pub(super) fn offer(&mut self, ticket: Ticket) -> Ticket {
        std::mem::replace(self.slot(ticket), (ticket, Mark::Offered)).0
    }

    pub(super) fn take_back(&mut self, ticket: Ticket) -> bool {
        self.step(ticket, Mark::Taken, |mark| mark == Mark::Offered)
    }

    pub(super) fn claim(&mut self, ticket: Ticket, now: Instant) -> bool {
        self.step(ticket, Mark::Claimed(now), |mark| mark == Mark::Offered)
    }

    pub(super) fn finish(&mut self, ticket: Ticket) {
        self.step(ticket, Mark::Finished, |mark| matches!(mark, Mark::Claimed(_)));
    }

    fn step(&mut self, ticket: Ticket, to: Mark, from: impl Fn(Mark) -> bool) -> bool {
        let slot = self.slot(ticket);
        let fits = slot.0 == ticket && from(slot.1);
        if fits {
            slot.1 = to;
        }
        fits
    }

    /// Task code overwrites the page.
    pub(super) fn scribble(&mut self) {
        self.slots.fill((0, Mark::Foreign));
    }

    /// Whether a ticket that cannot be claimed was taken back, for all that the board says.
    pub(super) fn is_withdrawn(&self, ticket: Ticket) -> bool {
        let (found, mark) = self.slots[(ticket % self.slots.len() as u64) as usize];
        found > ticket || found == ticket && mark == Mark::Taken
    }

    pub(super) fn observe(&self, ticket: Ticket) -> Mark {
        let (found, mark) = self.slots[(ticket % self.slots.len() as u64) as usize];
        if found == ticket { mark } else { Mark::Foreign }
    }
}
