//! Whose turn it is to compute what is not there.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files;
use super::key::StoreKey;
use super::lease::{HELD, Lease, Sight};
use super::{Inner, Store};

/// How soon what somebody else computes is looked for again, at first and at most.
const SOON: Duration = Duration::from_millis(2);
const LATE: Duration = Duration::from_millis(250);

/// What is to be done about a result that is wanted.
#[derive(Debug)]
pub enum Claim {
    /// It is here.
    Found(Vec<u8>),
    /// It is for the caller to compute: then it publishes it, and drops the lease.
    Held(Lease),
    /// Somebody else computes it: see [`Store::look_again`].
    Busy(Box<Waiting>),
    /// It is for the caller to compute, whoever else may do so.
    Alone,
}

/// Somebody who waits for what somebody else computes.
#[derive(Debug)]
pub struct Waiting {
    key: StoreKey,
    owner: u64,
    /// The lease, as it was seen last, and since when it has looked like that.
    sight: Sight,
    since: Instant,
    begun: Instant,
    pub(super) delay: Duration,
    due: Instant,
}

impl Waiting {
    /// When to look again.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Which result it waits for.
    #[must_use]
    pub fn key(&self) -> &StoreKey {
        &self.key
    }
}

impl Store {
    /// Looks for a result, and if there is none, for who computes it.
    ///
    /// `owner` says for whom the result is wanted: what a thread does for one owner may be held up by what it does for another, so
    /// these do not wait for each other. 0 is for those that nothing holds up.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// use pool_store::{Claim, Store, StoreKey};
    ///
    /// let (store, key) = (Store::open(dir)?, StoreKey::of_call("compute", 0, "fn() -> u8", b""));
    /// let Claim::Held(lease) = store.claim(&key, 0) else { panic!("nobody else uses this directory") };
    /// let Claim::Busy(waiting) = store.claim(&key, 0) else { panic!("it is being computed") };
    /// store.put(&key, &[b"1"])?;
    /// drop(lease);
    /// assert!(matches!(store.look_again(waiting), Claim::Found(result) if result == b"1"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn claim(&self, key: &StoreKey, owner: u64) -> Claim {
        let inner = &self.inner;
        if let Some(found) = inner.find(key) {
            return Claim::Found(found);
        }
        let claim = match inner.options.single_flight {
            true => inner.turn(key, owner),
            false => Claim::Alone,
        };
        match &claim {
            Claim::Busy(_) => drop(inner.counters.waited.one()),
            Claim::Held(_) | Claim::Alone => drop(inner.counters.misses.one()),
            Claim::Found(_) => {}
        }
        claim
    }

    /// Looks again for what somebody else computes. It is the caller's turn when that has ended without a result: with an error, or
    /// with its process. After [`max_wait`](crate::StoreBuilder::max_wait) it is the caller's turn in any case.
    #[must_use]
    pub fn look_again(&self, waiting: Box<Waiting>) -> Claim {
        let inner = &self.inner;
        let claim = inner.again(waiting);
        if matches!(claim, Claim::Held(_) | Claim::Alone) {
            inner.counters.misses.one();
        }
        claim
    }
}

impl Inner {
    /// Takes the lease, if nobody has it.
    fn turn(self: &Arc<Self>, key: &StoreKey, owner: u64) -> Claim {
        let taken = match Lease::create(self, self.files.lease(key), owner) {
            Ok(Some(lease)) => {
                // It may have been published in between.
                return self.find(key).map_or(Claim::Held(lease), Claim::Found);
            }
            Ok(None) => self.sight(key),
            Err(error) => Err(error),
        };
        match taken {
            Ok(Some(sight)) if self.holds_up(&sight, owner) => Claim::Alone,
            Ok(Some(sight)) => Claim::Busy(Box::new(Waiting::new(*key, owner, sight))),
            // It has just been released.
            Ok(None) => self.find(key).map_or(Claim::Alone, Claim::Found),
            Err(error) => {
                tracing::debug!(%error, %key, "no lease can be had");
                Claim::Alone
            }
        }
    }

    fn again(self: &Arc<Self>, mut waiting: Box<Waiting>) -> Claim {
        let key = waiting.key;
        if let Some(found) = self.find(&key) {
            return Claim::Found(found);
        }
        if waiting.begun.elapsed() >= self.options.max_wait {
            tracing::warn!(%key, "a result that somebody else computes is not waited for any longer");
            return Claim::Alone;
        }
        let sight = match self.sight(&key) {
            Ok(Some(sight)) => sight,
            Ok(None) => return waiting.goes_on(self.turn(&key, waiting.owner)),
            Err(error) => {
                tracing::debug!(%error, %key, "a lease cannot be read");
                return Claim::Alone;
            }
        };
        if sight != waiting.sight {
            if sight.record != waiting.sight.record {
                // The one before has failed: so may this one, as quickly.
                waiting.delay = SOON;
            }
            (waiting.sight, waiting.since) = (sight, Instant::now());
        }
        let unchanged = waiting.since.elapsed() > waiting.sight.time(self.options.lease_time);
        if unchanged || waiting.sight.is_stale(self.options.lease_time, self.now()) {
            match self.take_over(&waiting) {
                Ok(()) => return waiting.goes_on(self.turn(&key, waiting.owner)),
                Err(error) => {
                    tracing::debug!(%error, %key, "a stale lease cannot be removed");
                    return Claim::Alone;
                }
            }
        }
        waiting.later();
        Claim::Busy(waiting)
    }

    /// Removes a stale lease, if it still is the one that was seen.
    pub(super) fn take_over(&self, waiting: &Waiting) -> io::Result<()> {
        let is_it =
            |path: &std::path::Path| matches!(Sight::at(path), Ok(Some(sight)) if sight == waiting.sight);
        match files::remove_if(&self.files.lease(&waiting.key), is_it) {
            Ok(true) => {
                self.counters.taken_over.one();
                tracing::info!(key = %waiting.key, holder = ?waiting.sight.record, "took a stale lease over");
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sight(&self, key: &StoreKey) -> io::Result<Option<Sight>> {
        Sight::at(&self.files.lease(key))
    }

    /// Whether this very thread would have to do something else before what it waits for is computed.
    fn holds_up(&self, sight: &Sight, owner: u64) -> bool {
        let Some(record) = &sight.record else { return false };
        HELD.of(record.nonce).is_some_and(|(other, thread)| {
            other != 0 && other != owner && thread == std::thread::current().id()
        })
    }
}

impl Waiting {
    fn new(key: StoreKey, owner: u64, sight: Sight) -> Self {
        let now = Instant::now();
        // What is stale already is found out at once.
        Self { key, owner, sight, since: now, begun: now, delay: SOON, due: now }
    }

    fn later(&mut self) {
        self.due = Instant::now() + self.delay;
        self.delay = (self.delay * 3 / 2).min(LATE);
    }

    /// What has come of another turn, as the same waiting.
    fn goes_on(&self, claim: Claim) -> Claim {
        match claim {
            Claim::Busy(mut again) => {
                // Whoever held it has failed: so may the next one, as quickly.
                again.begun = self.begun;
                again.later();
                Claim::Busy(again)
            }
            claim => claim,
        }
    }
}
