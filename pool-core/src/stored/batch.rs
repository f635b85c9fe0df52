//! The stored items of a batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pool_store::{Store, Waiting};

use super::writers::{Write, Writers};
use super::{Answer, Looks, Mine, Renewals, key_of};
use crate::buffer::Args;
use crate::call::CallOptions;
use crate::handle::Decode;
use crate::inbox::{Inbox, Landed};
use crate::job::{Run, Sink};
use crate::outcome::Results;
use crate::reply::Reply;
use crate::supervisor::shared::Shared;
use crate::task::TaskEntry;

/// Most items that are put aside without taking room: each has to be looked for.
pub(crate) const MOST_ASIDE: usize = 256;
/// How many items are held for a worker, besides those that are aside. Each has a lease, so that other programs cannot run it.
pub(crate) const HELD: usize = 16;
/// Fewer are not worth to be waited for.
pub(crate) const LEAST_HELD: usize = 64;

/// What a batch keeps of its stored items. It is driven by the thread that drives the batch.
pub(crate) struct Stored<R> {
    /// Which batch it is, to the stores.
    owner: u64,
    /// By item.
    mine: HashMap<usize, Mine>,
    aside: Vec<Aside<R>>,
    looks: Looks,
    renewals: Renewals,
    writers: Writers,
}

/// An item of a batch whose arguments are encoded.
pub(crate) struct Item<R> {
    pub(crate) index: usize,
    pub(crate) kind: u16,
    pub(crate) entry: &'static TaskEntry,
    pub(crate) args: Args,
    pub(crate) options: Option<Box<CallOptions>>,
    pub(crate) decode: Decode<R>,
}

/// An item that somebody else computes.
struct Aside<R> {
    item: Item<R>,
    store: Store,
    waiting: Box<Waiting>,
}

/// What has become of an item that was asked for.
pub(crate) enum Asked<R> {
    Found(Item<R>, Reply),
    Run(Item<R>),
    Aside,
}

impl<R> Stored<R> {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            owner: NEXT.fetch_add(1, Ordering::Relaxed),
            mine: HashMap::new(),
            aside: Vec::new(),
            looks: Looks::default(),
            renewals: Renewals::default(),
            writers: Writers::new(shared),
        }
    }

    /// How many items are aside.
    pub(crate) fn aside(&self) -> usize {
        self.aside.len()
    }

    /// When something is to be done.
    pub(crate) fn due(&self) -> Option<Instant> {
        let look = self.looks.next(self.aside.iter().map(|aside| aside.waiting.due()).min());
        look.into_iter().chain(self.renewals.due).min()
    }

    /// Asks the store for an item.
    pub(crate) fn ask(&mut self, store: Store, item: Item<R>) -> Asked<R> {
        let key = key_of(item.entry, &item.args);
        let claim = store.claim(&key, self.owner);
        let answer = Answer::of(&store, key, item.entry, claim, &|encoded| (item.decode)(encoded).is_ok());
        self.answered(store, item, answer)
    }

    fn answered(&mut self, store: Store, item: Item<R>, answer: Answer) -> Asked<R> {
        match answer {
            Answer::Found(reply) => Asked::Found(item, reply),
            Answer::Mine(mine) => {
                self.renewals.add(&mine);
                self.mine.insert(item.index, mine);
                Asked::Run(item)
            }
            Answer::Aside(waiting) => {
                self.aside.push(Aside { item, store, waiting });
                Asked::Aside
            }
        }
    }

    /// Renews leases, and looks again for what is aside, as far as it is time. Says what is aside no longer.
    pub(crate) fn tend(&mut self, now: Instant) -> Vec<Asked<R>> {
        self.renewals.carry_out(now, self.mine.values_mut());
        let mut changed = Vec::new();
        let mut looks = std::mem::take(&mut self.looks);
        looks.carry_out(now, (0..self.aside.len()).rev(), |at| {
            if self.aside[at].waiting.due() > now {
                return false;
            }
            let Aside { item, store, waiting } = self.aside.swap_remove(at);
            let key = *waiting.key();
            let claim = store.look_again(waiting);
            let answer =
                Answer::of(&store, key, item.entry, claim, &|encoded| (item.decode)(encoded).is_ok());
            // What is still aside goes to the end, which has been looked at.
            match self.answered(store, item, answer) {
                Asked::Aside => {}
                asked => changed.push(asked),
            }
            true
        });
        self.looks = looks;
        changed
    }

    /// Everything that is aside, which is not waited for any longer.
    pub(crate) fn give_up(&mut self) -> impl Iterator<Item = Item<R>> {
        std::mem::take(&mut self.aside).into_iter().map(|aside| aside.item)
    }

    /// Takes results that are to be written from what has landed. They land again when they have been written.
    pub(crate) fn screen(&mut self, landed: &mut Vec<Landed>, inbox: &Arc<Inbox>) {
        if self.mine.is_empty() {
            return;
        }
        for Landed { run, count, outcome } in std::mem::take(landed) {
            let items = run.index..run.index + count as usize;
            if !items.clone().any(|index| self.mine.contains_key(&index)) {
                landed.push(Landed { run, count, outcome });
                continue;
            }
            match outcome {
                Err(error) => {
                    items.for_each(|index| drop(self.mine.remove(&index)));
                    landed.push(Landed { run, count, outcome: Err(error) });
                }
                Ok(Results::One(reply)) => self.landed(run, reply, landed, inbox),
                Ok(Results::Run(frames)) => {
                    let mut bytes = run.bytes;
                    for (index, frame) in items.zip(pool_ipc::frames(&frames)) {
                        let run = Run { index, bytes: std::mem::take(&mut bytes), kind: run.kind };
                        self.landed(run, Reply::from(frame), landed, inbox);
                    }
                }
            }
        }
    }

    fn landed(&mut self, run: Run, reply: Reply, landed: &mut Vec<Landed>, inbox: &Arc<Inbox>) {
        match self.mine.remove(&run.index) {
            Some(mine) => self.writers.push(Write { mine, reply, sink: Sink::Batch(Arc::clone(inbox), run) }),
            None => landed.push(Landed { run, count: 1, outcome: Ok(Results::One(reply)) }),
        }
    }
}
