//! The bound on single tasks: who submits one more than there may be waits at the gate.
//!
//! Every task with a handle takes a *place* before it is submitted, and leaves it when its outcome is delivered. There are as
//! many places as the queue limit and the workers together. Without a limit nothing is counted.
//!
//! # States
//!
//! ```text
//!              a place is free                    all are taken
//! submitter ──────────────────▶ inside    submitter ───────────▶ waiting ──▶ inside
//!                                                     an outcome is delivered, the pool
//!                                                     grows, or takes no more tasks
//! ```
//!
//! # Races
//! * *The last place is wanted twice.* A compare-and-swap decides; the other one waits.
//! * *A place becomes free while a submitter falls asleep.* Who waits leads or follows, as for an outcome
//!   ([`lead`](crate::supervisor::lead)). A leader is kicked after outcomes are delivered. A follower says, under the lock, that
//!   it waits, fence, and looks once more; whoever leaves gives the place up, fence, and looks whether somebody waits. One
//!   of the two sees the other.
//! * *Somebody who has just come takes the place that a sleeper is woken for.* The sleeper waits again; each place that
//!   becomes free wakes somebody, so no place stays free while somebody waits.
//! * *The pool takes no more tasks while submitters wait.* The gate stands open then, and the pool itself says why it refuses.
//! * *Wakers.* Places are left before wakers run, so that a waker that submits finds that of its own task.
//! * *The lead.* Nobody enters with the lead in its hand: it would follow itself for ever.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::outcome::Watched;
use crate::supervisor::lead::Wait;
use crate::supervisor::shared::Shared;
use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, fence, now};

/// Where submitters of single tasks wait.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Most tasks that may wait besides those that could run.
    limit: Option<usize>,
    /// Places; those of running tasks are among them.
    places: AtomicUsize,
    taken: AtomicUsize,
    /// The pool takes no more tasks, so that nobody need wait.
    open: AtomicBool,
    /// Who sleeps here.
    waiting: AtomicUsize,
    lock: Mutex<()>,
    left: Condvar,
}

/// A place inside, which is left when this is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Gate);

impl Place<'_> {
    /// The task has been submitted: its outcome leaves the place.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.leave(1);
    }
}

impl Gate {
    pub(crate) fn new(limit: Option<usize>, workers: usize) -> Self {
        Self {
            limit,
            places: AtomicUsize::new(limit.map_or(usize::MAX, |limit| limit.saturating_add(workers))),
            taken: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            lock: Mutex::new(()),
            left: Condvar::new(),
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// How many workers there are, and whether the pool takes tasks. True if somebody who waits may go on because of it.
    pub(crate) fn adjust(&self, workers: usize, takes_tasks: bool) -> bool {
        let Some(limit) = self.limit else { return false };
        let places = limit.saturating_add(workers);
        // Its callers have the lock of the pool, so nothing changes in between.
        let grows = self.places.load(Ordering::Relaxed) < places;
        let opens = !takes_tasks && !self.open.load(Ordering::Relaxed);
        self.places.store(places, Ordering::Relaxed);
        if opens {
            self.open.store(true, Ordering::Relaxed);
        }
        if grows || opens {
            self.wake(usize::MAX);
        }
        grows || opens
    }

    /// Takes a place, and waits until there is one.
    pub(crate) fn enter(&self, shared: &Shared) -> Place<'_> {
        while !self.take() {
            shared.wait_for(&Room(self), None);
        }
        Place(self)
    }

    /// Takes a place, if one is free.
    pub(crate) fn try_enter(&self) -> Option<Place<'_>> {
        self.take().then(|| Place(self))
    }

    fn take(&self) -> bool {
        if self.open.load(Ordering::Relaxed) {
            // Whoever is refused leaves, too.
            self.taken.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let places = self.places.load(Ordering::Relaxed);
        let one_more = |taken: usize| (taken < places).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// So many have ended.
    pub(crate) fn leave(&self, ended: usize) {
        self.taken.fetch_sub(ended, Ordering::SeqCst);
        self.wake(ended);
    }

    fn wake(&self, places: usize) {
        fence(Ordering::SeqCst);
        if places == 0 || self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        // Whoever has said that it waits has the lock, or sleeps.
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        match places {
            1 => self.left.notify_one(),
            _ => self.left.notify_all(),
        }
    }

    fn has_room(&self) -> bool {
        self.open.load(Ordering::Relaxed)
            || self.taken.load(Ordering::Relaxed) < self.places.load(Ordering::Relaxed)
    }
}

/// A free place.
struct Room<'a>(&'a Gate);

impl Wait for Room<'_> {
    fn is_over(&self) -> bool {
        self.0.has_room()
    }

    /// One place or another: workers need not say when each task has ended, as long as they have others.
    fn is_bulk(&self) -> bool {
        true
    }

    /// It does not watch, so that workers ring as rarely as they would without it: somebody reads their results before they
    /// have nothing left.
    fn follow(&self, _: &Watched, _: impl FnOnce(), deadline: Option<Instant>) {
        let gate = self.0;
        let mut guard = gate.lock.lock().unwrap_or_else(PoisonError::into_inner);
        gate.waiting.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while !gate.has_room() {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now()));
            guard = match left {
                None => gate.left.wait(guard).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => gate.left.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        gate.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn there_are_as_many_places_as_the_limit_and_the_workers() {
        let gate = Gate::new(Some(2), 1);
        let mut inside: Vec<_> = (0..3).filter_map(|_| gate.try_enter()).collect();
        assert!(inside.len() == 3 && gate.try_enter().is_none());
        inside.pop();
        let again = gate.try_enter();
        assert!(again.is_some() && gate.try_enter().is_none());
        // A task that has been submitted leaves when it has ended.
        again.unwrap().keep();
        assert!(gate.try_enter().is_none());
        gate.leave(1);
        assert!(gate.try_enter().is_some());
    }

    #[test]
    fn it_follows_the_number_of_workers_and_stands_open_when_no_task_is_taken() {
        let gate = Gate::new(Some(0), 1);
        gate.try_enter().unwrap().keep();
        assert!(gate.try_enter().is_none());
        assert!(gate.adjust(2, true), "it grows");
        gate.try_enter().unwrap().keep();
        assert!(!gate.adjust(1, true) && gate.try_enter().is_none(), "it shrinks, and two are inside");
        gate.leave(1);
        assert!(gate.try_enter().is_none());
        assert!(gate.adjust(1, false) && !gate.adjust(1, false), "once");
        assert!((0..10).all(|_| gate.try_enter().is_some()));
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let gate = Gate::new(None, 1);
        assert!(!gate.is_limited() && !gate.adjust(5, false));
    }

    #[test]
    fn whoever_sleeps_is_woken_and_no_place_is_given_twice() {
        const THREADS: usize = 4;
        const ROUNDS: usize = 2000;
        let gate = Gate::new(Some(1), 1);
        let inside = AtomicUsize::new(0);
        let watched = Watched::default();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let place = loop {
                            match gate.try_enter() {
                                Some(place) => break place,
                                None => Room(&gate).follow(&watched, || (), None),
                            }
                        };
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(place);
                    }
                });
            }
        });
        assert_eq!((gate.taken.into_inner(), gate.waiting.into_inner()), (0, 0));
    }
}
