//! Inner parts for the benchmarks to drive, with the feature `bench-internals` only; no part of the public API.
//!
//! Everything here is as thin as can be, so that it is the part that is measured.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::buffer::Args;
use crate::call::{Call, CallParts, RetryOn};
use crate::handle::decode;
use crate::outcome::{Cell, Results, Watched};
use crate::packed::Packed;
use crate::reply::Reply;
use crate::supervisor::event::{Action, Event, Incarnation, TaskSpec, Ticket};
use crate::supervisor::machine::{Config, Machine};

/// The state machine, with one worker that finishes at once what it is given. A result is a number.
#[derive(Debug)]
pub struct Shop {
    machine: Machine<u32>,
    now: Instant,
    actions: VecDeque<Action<u32>>,
    /// What the worker was given: the first ticket and how many.
    sent: VecDeque<(Incarnation, Ticket, u32)>,
    ended: u64,
}

impl Default for Shop {
    fn default() -> Self {
        Self::new()
    }
}

impl Shop {
    /// The worker is ready.
    pub fn new() -> Self {
        let now = Instant::now();
        let config = Config { start_up: Duration::ZERO, cores: 2, ..Config::of(1) };
        let machine = Machine::new(config, now);
        let mut shop = Self { machine, now, actions: VecDeque::new(), sent: VecDeque::new(), ended: 0 };
        let who = shop.machine.slots()[0].incarnation();
        shop.on(Event::Ready(who));
        shop
    }

    /// A task with so many items: submits it, hands it out, and finishes it, all items that are handed out together at once.
    /// Returns how many items have ended since the start.
    #[inline]
    pub fn serve(&mut self, items: u32) -> u64 {
        let spec = TaskSpec {
            count: items,
            chunk: 0,
            limit: None,
            retries: 0,
            retry_on: RetryOn::DEATH,
            group: None,
            priority: 0,
            piece: None,
            size: items as usize,
        };
        // It is refused by a pool that has been closed only.
        let _ = self.machine.submit(&spec);
        self.on(Event::Pump);
        while let Some((who, ticket, count)) = self.sent.pop_front() {
            self.now += Duration::from_nanos(200) * count;
            self.on(Event::Finished(who, ticket, count, count));
        }
        self.ended
    }

    fn on(&mut self, event: Event<u32>) {
        self.machine.on(self.now, event);
        self.machine.exchange(&mut self.actions);
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Send { to, ticket, count, .. } => self.sent.push_back((to, ticket, count)),
                Action::Resolve { count, .. } => self.ended += u64::from(count),
                _ => {}
            }
        }
    }
}

/// The places where outcomes wait for the handles of their tasks.
#[derive(Debug)]
pub struct Cells {
    /// The task that all of them are for.
    parts: CallParts<u64>,
    cells: Vec<Arc<Cell>>,
    watched: Watched,
}

impl Cells {
    /// Cells for tasks like this one, whose arguments can be encoded.
    pub fn new(call: Call<u64>) -> Self {
        Self { parts: call.into_parts(), cells: Vec::new(), watched: Watched::default() }
    }

    /// Makes so many, once all others have been dropped.
    pub fn open(&mut self, count: u32) {
        self.close();
        let Ok(args) = &self.parts.args else { return };
        for _ in 0..count {
            self.cells.push(Arc::new(Cell::new(self.parts.entry, args.clone(), None)));
        }
    }

    /// Drops all.
    pub fn close(&mut self) {
        self.cells.clear();
    }

    /// Has a result come for each.
    pub fn settle(&self, result: &[u8]) {
        for cell in &self.cells {
            // Nobody has registered a callback.
            drop(cell.settle(Ok(Results::One(Reply::from(result))), &self.watched));
        }
    }

    /// Decodes the results, and returns their sum.
    pub fn get(&self) -> u64 {
        let CallParts { entry, decode: convert, .. } = &self.parts;
        let get = |cell: &Arc<Cell>| match cell.look(|reply| decode(entry.name, *convert, reply.encoded())) {
            Some(Ok(Ok(value))) => value,
            _ => 0,
        };
        self.cells.iter().map(get).sum()
    }
}

/// Packs the arguments of so many items as a `map` submits them; returns the bytes.
pub fn pack(args: &Args, items: u32) -> usize {
    let mut packed = Packed::with_capacity(items as usize, 8 * items as usize);
    for _ in 0..items {
        packed.push(args);
    }
    packed.size()
}
