//! Results that are remembered in a [`Store`]: for the items of batches ([`batch`]), and for single calls ([`single`]).
//!
//! # States of a call
//!
//! ```text
//!                found
//!  asked ─────────────────────────────────────────────▶ ended
//!   │  │ somebody else computes it        found          ▲
//!   │  └───────────────▶ aside ──────────────────────────┤
//!   │ not found            │ nobody computes it any more │
//!   └──────────▶ mine ◀────┘                             │
//!                 │  it fails, or its pool ends          │
//!                 ├──────────────────────────────────────┤
//!                 │ a result      published, or not      │
//!                 └──────▶ being written ────────────────┘
//! ```
//!
//! An outcome is reported when its result has been written, so whoever has it finds it the next time. What is aside holds nothing
//! up: it is looked for again now and then, while other calls run.
//!
//! # Events and races
//! * *The same call twice in a batch.* The second one is aside until the first one has been written.
//! * *A call is aside when its batch, its deadline or its pool ends.* It is looked at once more then, and ends with them.
//! * *A lease is lost* because this program was suspended, or does not ask an iterator for results. Somebody else computes the same;
//!   whoever publishes first has published.
//! * *A thread waits for what is held by a batch that the same thread drives.* It does not wait: see [`Store::claim`].
//! * *What is found cannot be decoded*: by a task that was changed without a new version. It is removed, and computed.

pub(crate) mod batch;
pub(crate) mod single;
mod writers;

use std::time::{Duration, Instant};

use pool_store::{Claim, Lease, OnWriteError, Store, StoreKey, Waiting};

use crate::error::TaskError;
use crate::reply::{Encoded, Reply};
use crate::task::TaskEntry;

/// How postcard begins an `Err`.
const ERR: u8 = 1;
/// Renewed so many times while it holds, a lease survives two renewals that are late.
const RENEWALS: u32 = 3;

/// The key of the result of a call.
pub(crate) fn key_of(entry: &TaskEntry, args: &[u8]) -> StoreKey {
    StoreKey::of_call(entry.name, entry.version, entry.types(), args)
}

/// A result that is computed here, and where it is to be remembered.
#[derive(Debug)]
pub(crate) struct Mine {
    store: Store,
    key: StoreKey,
    /// `Err` is not kept.
    fallible: bool,
    lease: Option<Lease>,
}

/// What is to be done about a call.
pub(crate) enum Answer {
    Found(Reply),
    /// It is to run.
    Mine(Mine),
    Aside(Box<Waiting>),
}

impl Answer {
    /// What the store says. `decodes`: whether it is a result.
    pub(crate) fn of(
        store: &Store,
        key: StoreKey,
        entry: &TaskEntry,
        claim: Claim,
        decodes: &dyn Fn(Encoded<'_>) -> bool,
    ) -> Self {
        let mine = |lease| Self::Mine(Mine { store: store.clone(), key, fallible: entry.fallible, lease });
        match claim {
            Claim::Found(body) => {
                let reply = Reply::from(body);
                if decodes(reply.encoded()) {
                    return Self::Found(reply);
                }
                tracing::warn!(task = entry.name, %key, "a stored result cannot be decoded: was its task changed without a new version?");
                if let Err(error) = store.remove(&key) {
                    tracing::debug!(%error, "it cannot be removed");
                }
                mine(None)
            }
            Claim::Held(lease) => mine(Some(lease)),
            Claim::Alone => mine(None),
            Claim::Busy(waiting) => Self::Aside(waiting),
        }
    }
}

impl Mine {
    /// Remembers a result, and returns what is to be reported.
    fn write(self, mut reply: Reply) -> Result<Reply, TaskError> {
        // What is written is what is returned, whatever its worker does to its memory.
        reply.detach();
        let written = reply.with_pieces(|parts| {
            let is_error = self.fallible && parts.iter().find_map(|part| part.first()) == Some(&ERR);
            if is_error && !self.store.keeps_errors() { Ok(false) } else { self.store.put(&self.key, parts) }
        });
        match written {
            Err(error) if self.store.on_write_error() == OnWriteError::Fail => Err(TaskError::Store(error)),
            // The store has told of it.
            _ => Ok(reply),
        }
    }

    /// Has the lease hold on; one that is lost is forgotten.
    fn renew(&mut self) {
        if self.lease.as_ref().is_some_and(|lease| !lease.renew()) {
            self.lease = None;
        }
    }

    /// How often it wants to be renewed.
    fn pace(&self) -> Option<Duration> {
        self.lease.as_ref().map(|_| self.store.lease_time() / RENEWALS)
    }
}

/// Looking for what is aside takes no more than a tenth of a thread, however much there is, and however far away.
#[derive(Debug, Default)]
struct Looks {
    /// No looks until then.
    rest: Option<Instant>,
}

impl Looks {
    /// How long may be looked at a time.
    const ROUND: Duration = Duration::from_millis(10);
    /// How much longer nothing is looked for then.
    const REST: u32 = 9;

    /// When to look, where the first is due then.
    fn next(&self, due: Option<Instant>) -> Option<Instant> {
        due.map(|due| self.rest.map_or(due, |rest| rest.max(due)))
    }

    /// Looks for one after the other, as long as it may; `look` tells whether it had to.
    fn carry_out<T>(&mut self, now: Instant, all: impl Iterator<Item = T>, mut look: impl FnMut(T) -> bool) {
        if self.rest.is_some_and(|rest| now < rest) {
            return;
        }
        let mut looked = false;
        for one in all {
            looked |= look(one);
            if looked && now.elapsed() > Self::ROUND {
                break;
            }
        }
        if looked {
            self.rest = Some(Instant::now() + now.elapsed() * Self::REST);
        }
    }
}

/// When the leases of many want to be renewed.
#[derive(Debug, Default)]
struct Renewals {
    due: Option<Instant>,
}

impl Renewals {
    fn add(&mut self, mine: &Mine) {
        self.due = mine.pace().map(|pace| Instant::now() + pace).into_iter().chain(self.due).min();
    }

    /// Renews all, if it is time.
    fn carry_out<'a>(&mut self, now: Instant, all: impl Iterator<Item = &'a mut Mine>) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        for mine in all {
            mine.renew();
            self.add(mine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_takes_a_tenth_of_the_time_and_reaches_everything() {
        let mut looks = Looks::default();
        let begun = Instant::now();
        let mut seen = Vec::new();
        looks.carry_out(begun, 0..100, |n| {
            std::thread::sleep(Duration::from_millis(1));
            seen.push(n);
            true
        });
        assert!((1..=11).contains(&seen.len()), "a round is short: {}", seen.len());
        let rest = looks.next(Some(begun)).unwrap();
        assert!(rest >= begun + Looks::ROUND * Looks::REST);
        looks.carry_out(begun, 0..100, |_| panic!("it rests"));
        looks.carry_out(rest, seen.len()..100, |n| {
            seen.push(n);
            true
        });
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        let mut idle = Looks::default();
        idle.carry_out(begun, 0..100, |_| false);
        assert!(idle.rest.is_none() && idle.next(None).is_none() && idle.next(Some(rest)) == Some(rest));
    }
}
