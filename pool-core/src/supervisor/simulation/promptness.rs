//! Nothing waits for long that need not wait: a reference for what the machine is to do *in time*. It knows what really happened,
//! and the configuration; it neither asks the machine anything nor shares a line with it.
//!
//! How long is long follows from how late news are in this world. A bound is generous by a few such delays, because what
//! matters is that there is one: a timer that is not set again shows as a wait without end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fact::{Answers, Item};
use super::process::{Process, Stage};
use super::world::World;
use crate::supervisor::event::{Event, Ticket};

/// Since when something waits that should not wait for long.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Items that nobody holds while somebody is idle.
    idle: BTreeMap<Item, Instant>,
}

impl World<'_> {
    /// How late the supervisor may be, all told: for a timer, an answer, and what comes of it.
    pub(super) fn delay(&self) -> Duration {
        let hop = match (self.scenario.sluggish, self.scenario.remote) {
            (false, false) => 5,
            (false, true) => 60,
            (true, false) => 400,
            (true, true) => 500,
        };
        Duration::from_millis(8 * hop) + self.leapt
    }

    pub(super) fn check_promptness(&mut self) {
        if self.terminated || self.broken || self.drained {
            self.waits.idle.clear();
            return;
        }
        for process in self.living() {
            self.check_start(process);
            self.check_claim(process);
            self.check_run(process);
            self.check_exit(process);
        }
        self.check_overdue_batches();
        self.check_waits();
    }

    /// Whoever does not say hello in time is killed.
    fn check_start(&self, process: &Process) {
        if !process.is_starting() {
            return;
        }
        let config = &self.scenario.config;
        let states = config.states as u32;
        let most = config.start_timeout * (states + 1) + config.init_timeout * (states + 1) + self.delay();
        let had = self.now.duration_since(process.spawned_at);
        assert!(had <= most, "{:?} has had {had:?} to start: {process:?}", process.who);
    }

    /// Whoever leaves his next task unclaimed is killed.
    fn check_claim(&self, process: &Process) {
        let sound = process.is_working() && process.linked && !process.misbehaved;
        if !sound || process.stage != Stage::Stuck || process.current.is_some() || process.assigned.is_empty()
        {
            return;
        }
        // Until the result of the one before has been read, the next one is not known to be due.
        if process.assigned.first_key_value().is_some_and(|(head, _)| process.has_answered(*head)) {
            return;
        }
        let config = &self.scenario.config;
        let builds = process.preparing.map_or(Duration::ZERO, |_| config.init_timeout);
        // What arrives meanwhile counts as movement.
        let since = process.head_since.max(process.arrivals).max(process.preparing.unwrap_or(self.base));
        let most = 3 * config.claim_timeout + builds + self.delay();
        let had = self.now.duration_since(since.min(self.now));
        assert!(had <= most, "{:?} has had {had:?} to claim its next task: {process:?}", process.who);
    }

    /// A task that has a limit, or that nobody wants any more, does not run for much longer.
    fn check_run(&self, process: &Process) {
        // Whoever is stuck behind a written result no longer runs it, for all that the supervisor knows.
        let is_behind = process.stage == Stage::Stuck && process.is_behind;
        let runs = matches!(process.stage, Stage::Running(_) | Stage::Stuck) && !is_behind;
        let sound = process.is_working() && process.linked && !process.misbehaved;
        let Some((ticket, item)) = process.current.filter(|_| runs && sound) else { return };
        let (fact, config) = (&self.facts[item as usize - 1], &self.scenario.config);
        let Some(claim) = fact.claims.last().filter(|claim| claim.end.is_none()) else { return };
        if process.has_answered(ticket) {
            return;
        }
        // When it became the head is known late if the news of the one before were lost.
        let most = 3 * config.claim_timeout + config.cancel_grace + self.delay();
        let unwanted = fact.ended.map(|at| at.max(claim.at));
        let limited = fact.limit.map(|limit| claim.at + limit);
        for since in unwanted.into_iter().chain(limited) {
            assert!(
                self.now <= since + most,
                "task {item} should not run any more since {:?}: {fact:?}, {process:?}",
                self.now.duration_since(since)
            );
        }
    }

    /// The supervisor is about to be told what a worker runs.
    pub(super) fn note_running(&mut self, event: &Event<Answers>) {
        let (who, ticket) = match event {
            Event::Observed(who, seen) if seen.started.is_some() => (*who, seen.ticket),
            Event::TookBack(who, answers) => {
                let head = self.head(*who);
                let is_head = |head: &Ticket| {
                    answers.iter().any(|(span, unclaimed)| !unclaimed && span.tickets().contains(head))
                };
                (*who, head.filter(is_head))
            }
            _ => return,
        };
        if ticket.is_some() {
            self.process(who.generation.get()).seen_running = ticket;
        }
    }

    /// What nobody wants any more is told to stop as soon as it is known to run.
    pub(super) fn check_unwanted(&self) {
        for process in self.living().filter(|process| process.is_working() && process.linked) {
            let Some((ticket, item)) = process.assigned.first_key_value() else { continue };
            let runs = process.seen_running == Some(*ticket);
            let stops = process.flagged.contains_key(ticket);
            let wanted = !self.facts[*item as usize - 1].resolved;
            assert!(!runs || wanted || stops, "task {item} is not told to stop: {process:?}");
        }
    }

    /// Whoever is to go goes, and does not take too long for it.
    fn check_exit(&self, process: &Process) {
        let config = &self.scenario.config;
        if process.is_working() && process.assigned.is_empty() {
            let worn = config.staffing.quota.is_some_and(|most| process.claims >= most);
            assert!(!worn && !process.heavy, "{:?} should have retired: {process:?}", process.who);
        }
        if let Some(asked) = process.retired.filter(|_| process.killed.is_none()) {
            let most = config.init_timeout + config.exit_timeout + self.delay();
            let had = self.now.duration_since(asked);
            assert!(had <= most, "{:?} has had {had:?} to exit: {process:?}", process.who);
        }
    }

    /// A batch ends with its deadline, whether anything else happens or not.
    fn check_overdue_batches(&self) {
        for (index, batch) in self.batches.iter().enumerate() {
            let due = batch.deadline.filter(|_| batch.open > 0).map(|(at, _)| at + self.delay());
            assert!(due.is_none_or(|due| self.now <= due), "batch {index} should be over: {batch:?}");
        }
    }

    /// No item waits for long that nobody holds, whether it is new or runs again, while somebody has nothing to do and may be
    /// given it. Where one may be given it at once, see [`check_work_conservation`](Self::check_work_conservation).
    fn check_waits(&mut self) {
        let working = || self.living().filter(|process| process.is_working());
        let busy = working().filter(|process| !process.assigned.is_empty()).count();
        if busy >= working().count().min(self.most as usize) || self.unresolved == 0 {
            self.waits.idle.clear();
            return;
        }
        let held: Vec<Item> = self.living().flat_map(|process| process.assigned.values().copied()).collect();
        let loose = self.parcels.iter().filter(|(key, _)| self.is_loose(key.id.get()));
        let items = loose.filter_map(|(key, parcel)| parcel.items(*key).next());
        let waiting: Vec<Item> = items.filter(|item| !held.contains(item)).collect();
        let most = 45 * self.scenario.config.wake + self.delay();
        let now = self.now;
        self.waits.idle.retain(|item, _| waiting.contains(item));
        for item in waiting {
            let since = *self.waits.idle.entry(item).or_insert(now);
            assert!(
                now <= since + most,
                "task {item} waits since {:?} while somebody is idle: {:?}",
                now.duration_since(since),
                self.living().map(|process| (process.who, &process.assigned)).collect::<Vec<_>>()
            );
        }
    }
}
