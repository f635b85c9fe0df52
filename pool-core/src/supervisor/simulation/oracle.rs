//! Objects to whatever the machine does that does not follow from what really happened.
//!
//! This is a model of the pool's promises, not of the machine. It is made of facts: who was given what, what has really been
//! claimed, run, written, and died of what, who has been told to stop and when ([`fact`](super::fact), [`process`](super::process)). From
//! these it follows with which outcomes a task *may* end, whom a death may be blamed on, who may be killed, and what has to be in
//! the queue and in which order. It shares no code with the machine. Where a promise is about what the machine *means* (which
//! workers are to be there for more tasks, why one retires, who sits in which seat), what it says of that is read
//! from its slots, and what it does is compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::board::Mark;
use super::fact::{Answer, Answers, End, Item, Lane, Parcel};
use super::process::{Out, Process};
use super::world::{Streak, World};
use crate::error::{BrokenReason, TaskError};
use crate::stats::RetireReason;
use crate::supervisor::event::{Action, Incarnation, KillReason, TaskKey, Ticket};
use crate::supervisor::slot::{Phase, Slot};

/// For how long others may be served before a lane is: those that hang, and what it has had, take no longer.
const TURN: Duration = Duration::from_secs(20);
/// How long a waiting task and an idle worker may be there together when answers take their time.
const PATIENCE: Duration = Duration::from_secs(1);

impl World<'_> {
    /// Checks an action at the moment when the machine decides it.
    pub(super) fn judge(&mut self, action: &Action<Answers>) {
        assert!(!self.drained, "a drained pool acts: {action:?}");
        match action {
            Action::Spawn(who) => self.judge_spawn(*who),
            Action::Split { from, at, into } => self.judge_split(*from, *at, *into),
            Action::Send { to, ticket, task, first, count, attempt, .. } => {
                let parcel = self.parcels.get(task).map(|parcel| (parcel.done, parcel.end));
                assert_eq!(parcel, Some((*first, first + count)), "{task:?} is not sent as a whole");
                self.sights.rests += u64::from(*first > 0);
                let items = task.item(*first).get()..task.item(first + count).get();
                self.judge_send(*to, *ticket, items, *attempt);
            }
            Action::TakeBack(who, spans) => {
                let now = self.now;
                let process = self.process(who.generation.get());
                process.called_back = Some(now);
                let mut tickets = spans.iter().flat_map(|span| span.tickets());
                let known = tickets.all(|ticket| process.assigned.contains_key(&ticket));
                // Or it is dead, and the machine has been told first which of its tasks were lost.
                let dying = process.ready && process.reported && !process.linked;
                assert!(
                    (process.is_working() || dying) && known,
                    "cannot take {spans:?} back from {process:?}"
                );
            }
            Action::Inspect(who) => {
                let process = self.process(who.generation.get());
                let dying = process.ready && process.reported && !process.linked;
                assert!(process.is_working() || dying, "{who:?} is gone")
            }
            Action::FlagCancel(who, ticket, _) => self.judge_flag(*who, *ticket),
            Action::Kill { who, why, fenced } => self.judge_kill(*who, why, *fenced),
            Action::Retire(who, why) => self.judge_retire(*who, *why),
            Action::Resolve { task, first, count, result } => self.judge_ends(*task, *first, *count, result),
            Action::Broken(reason) => self.judge_broken(reason),
            Action::Drained => {
                assert_eq!(self.unresolved, 0, "drained with tasks");
                let left = self.processes.iter().find(|process| !process.reported && !process.fenced);
                assert!(left.is_none(), "drained with a worker: {left:?}");
                self.drained = true;
            }
        }
    }

    fn judge_spawn(&mut self, who: Incarnation) {
        let generation = who.generation.get();
        self.tally.sure.spawned += 1;
        assert_eq!(generation as usize, self.processes.len() + 1, "generations are numbered in order");
        let gone = |process: &Process| process.reported || process.fenced;
        while self.latest.len() <= who.index() {
            self.latest.push(0);
            self.streaks.push(Streak { strikes: 0, last: self.now, explained: true });
        }
        let latest = std::mem::replace(&mut self.latest[who.index()], generation);
        let former = latest.checked_sub(1).map(|former| &self.processes[former as usize]);
        assert!(former.is_none_or(gone), "{who:?} takes the place of {former:?}");
        self.judge_back_off(who);
        self.processes.push(Process::new(who, self.scenario.config.ticket_window, self.now));
        self.judge_number(who);
    }

    /// How the machine sees the worker that a process is.
    pub(super) fn slot_of(&self, process: &Process) -> Option<&Slot> {
        let slot = self.machine.slots().get(process.who.index())?;
        (slot.incarnation() == process.who).then_some(slot)
    }

    /// There are never more processes than there should be, those excepted that were given up.
    fn judge_number(&self, who: Incarnation) {
        let (there, most) = (self.present(), self.places());
        assert!(
            there <= most,
            "{who:?} makes {there} where there should be {most}: {:#?}",
            self.machine.slots()
        );
    }

    /// Processes, those excepted that were given up.
    fn present(&self) -> usize {
        let given_up = |process: &&Process| {
            self.slot_of(process).is_some_and(|slot| {
                let why = match &slot.phase {
                    Phase::Ready(ready) => ready.leaving,
                    Phase::Retiring { why, .. } => Some(*why),
                    // It has not gone in time, and is killed by this very event.
                    Phase::Stopped => return process.retired.is_some(),
                    _ => None,
                };
                matches!(why, Some(RetireReason::Resized | RetireReason::Idle))
            })
        };
        self.living().filter(|process| !given_up(process)).count()
    }

    /// How many processes there should be at most.
    fn places(&self) -> usize {
        let staffing = &self.scenario.config.staffing;
        let recycles = staffing.overlap && (staffing.quota.is_some() || staffing.weighs);
        let reliefs = if recycles { (self.most / 4).max(1) } else { 0 };
        (self.most + self.scenario.spares + reliefs) as usize
    }

    /// A worker is asked to exit only if it holds nothing, and for a reason.
    fn judge_retire(&mut self, who: Incarnation, reason: RetireReason) {
        let (now, staffing) = (self.now, self.scenario.config.staffing.clone());
        let process = self.process(who.generation.get());
        assert!(process.is_working() && process.assigned.is_empty(), "cannot retire {process:?}");
        (process.retired, process.free_to_exit) = (Some(now), Some(now));
        self.tally.sure.retired.count(reason);
        let process = &self.processes[who.generation.get() as usize - 1];
        let why = self.slot_of(process).map(|slot| &slot.phase);
        // Unless it has been killed in the same moment.
        let Some(Phase::Retiring { why, .. }) = why else { return };
        assert_eq!(reason, *why, "another reason is told than the one that counts: {process:?}");
        let right = match why {
            RetireReason::Closed => self.closed && self.unresolved == 0,
            RetireReason::Tasks => staffing.quota.is_some_and(|most| {
                let least = most.saturating_sub(staffing.jitter).max(1);
                (least..=most).contains(&process.claims)
            }),
            RetireReason::Memory => process.heavy,
            RetireReason::Resized => self.shrunk.is_some_and(|at| process.spawned_at <= at),
            RetireReason::Idle => {
                staffing.idle.is_some_and(|idle| now >= process.idle_since + idle)
                    // With the last task of a closed pool all others may have gone in the same event; its end is told later.
                    && (self.staffed() >= self.at_rest() || self.closed && self.machine.pending() == 0)
            }
        };
        assert!(right, "{who:?} retires for being {why:?}: {process:?}");
    }

    /// Workers that are there for more tasks, or will be.
    pub(super) fn staffed(&self) -> usize {
        let counts = |slot: &&Slot| match &slot.phase {
            Phase::Waiting { .. } | Phase::Starting { .. } => true,
            Phase::Ready(ready) => !ready.is_going(),
            Phase::Dying { going, .. } => !going,
            Phase::Retiring { .. } | Phase::Stopped => false,
        };
        self.machine.slots().iter().filter(counts).count()
    }

    /// Workers that go, or are about to, because there are to be fewer.
    pub(super) fn sent_away(&self) -> usize {
        let is_sent_away = |slot: &&Slot| match &slot.phase {
            Phase::Ready(ready) => ready.leaving == Some(RetireReason::Resized),
            Phase::Retiring { why, .. } => *why == RetireReason::Resized,
            _ => false,
        };
        self.machine.slots().iter().filter(is_sent_away).count()
    }

    fn at_rest(&self) -> usize {
        let least = self.scenario.config.staffing.least.map_or(self.most, |least| least.min(self.most));
        (least + self.scenario.spares) as usize
    }

    /// Whether there are as many workers as there should be, or no more can be.
    pub(super) fn is_staffed(&self) -> bool {
        // Whether more than one are needed depends on how long they take, see `check_growth`.
        self.is_staffed_for(if self.scenario.config.start_up.is_zero() { usize::MAX } else { 1 })
    }

    /// The same, where so many are enough for whatever there is to do.
    fn is_staffed_for(&self, enough: usize) -> bool {
        let waiting = |slot: &&Slot| matches!(slot.phase, Phase::Waiting { .. });
        if self.present() + self.machine.slots().iter().filter(waiting).count() >= self.places() {
            return true;
        }
        let idle = self.living().any(|process| process.is_working() && process.assigned.is_empty());
        let going = |process: &&Process| {
            self.slot_of(process).is_some_and(|slot| match &slot.phase {
                Phase::Ready(ready) => ready.is_going(),
                _ => false,
            })
        };
        let open = |item: &&Item| !self.facts[**item as usize - 1].resolved;
        let theirs = self.living().filter(going).filter_map(|process| process.assigned.values().next());
        let theirs = theirs.filter(open).count();
        let tasks = self.unresolved.saturating_sub(theirs).saturating_sub(self.bound_to_seats());
        let tasks = if idle { 0 } else { tasks };
        let (spares, most) = (self.scenario.spares as usize, self.most as usize);
        self.staffed() >= self.at_rest().max(tasks.min(enough).min(most) + spares)
    }

    /// When all has been quiet for long, there are as many workers as there should be then.
    pub(super) fn check_rest(&self) {
        if self.closed || self.broken {
            return;
        }
        let (there, rest) = (self.staffed(), self.at_rest());
        // One that was taken back from may be one too many, and stays.
        let surplus = if self.scenario.config.staffing.quota.is_some() { there } else { rest };
        assert!(
            rest <= there && (there <= surplus || self.scenario.config.staffing.least.is_none()),
            "{there} workers are there, not {rest}: {:#?}",
            self.machine.slots()
        );
    }

    /// The second unexplained death in a row is followed by `first_delay`, each further one by twice as much.
    fn judge_back_off(&mut self, who: Incarnation) {
        let policy = self.scenario.config.restart;
        let Streak { strikes, last, explained } = self.streaks[who.index()];
        if strikes < 2 || explained || policy.window < Duration::from_secs(3600) {
            return;
        }
        let delay = policy.first_delay.saturating_mul(1 << (strikes - 2).min(20)).min(policy.max_delay);
        let waited = self.now.duration_since(last);
        assert!(
            waited >= delay.mul_f64(0.79),
            "{who:?} comes {waited:?} after death {strikes}, not {delay:?}"
        );
        let staffing = &self.scenario.config.staffing;
        if staffing.least.is_some() || staffing.quota.is_some() || staffing.weighs || self.scenario.resizes {
            // The place may have been vacant.
            return;
        }
        let late = delay.mul_f64(1.21) + Duration::from_millis(400);
        assert!(waited <= late, "{who:?} comes {waited:?} after death {strikes}, not {delay:?}");
    }

    fn judge_split(&mut self, from: TaskKey, at: u32, into: TaskKey) {
        let parcel =
            self.parcels.get_mut(&from).unwrap_or_else(|| panic!("{from:?} has ended, and is split"));
        assert!(parcel.done < at && at < parcel.end, "{from:?} is split at {at}: {parcel:?}");
        assert_eq!(into.id, from.item(at), "{into:?} has the wrong number");
        let rest = Parcel { done: 0, end: std::mem::replace(&mut parcel.end, at) - at };
        let taken = self.parcels.keys().find(|key| key.index == into.index);
        assert!(taken.is_none(), "{into:?} takes the place of {taken:?}");
        self.parcels.insert(into, rest);
        rest.items(into).for_each(|item| self.fact(item).unit = into);
    }

    fn judge_send(&mut self, to: Incarnation, ticket: Ticket, items: Range<Item>, attempt: u32) {
        let generation = to.generation.get();
        for item in items.clone() {
            let fact = self.fact(item);
            assert!(!fact.resolved, "task {item} is sent, and has ended: {fact:?}");
            assert!(
                fact.claims.is_empty() || fact.may_run_again(),
                "task {item} was started, and is sent again: {fact:?}"
            );
            let attempts = fact.claims.len() + 1;
            assert_eq!(attempt as usize, attempts, "task {item} has another number of attempts: {fact:?}");
        }
        let count = (items.end - items.start) as usize;
        let elsewhere =
            self.living().find(|process| process.assigned.values().any(|item| items.contains(item)));
        assert!(elsewhere.is_none(), "tasks {items:?} are sent, and are elsewhere: {elsewhere:?}");
        let prefetch = self.scenario.config.prefetch;
        let chunk = self.fact(items.start).chunk as usize;
        assert!(chunk == 0 || count <= chunk.min(prefetch), "pieces of {chunk} are wanted, not {count}");
        let accused = |item: &Item| !self.facts[*item as usize - 1].claims.is_empty();
        let process = &self.processes[generation as usize - 1];
        assert!(process.is_working(), "tasks {items:?} are sent to {process:?}");
        if accused(&items.start) {
            assert!(process.assigned.is_empty(), "suspect {items:?} does not run alone: {process:?}");
            assert_eq!(count, 1, "suspects run together");
        } else {
            // What is claimed there already and has failed before is a suspect that must be alone.
            let other = process.assigned.values().find(|item| {
                accused(item)
                    && self.facts[**item as usize - 1]
                        .claims
                        .iter()
                        .any(|claim| claim.generation != generation)
            });
            assert!(other.is_none(), "tasks {items:?} join suspect {other:?}");
        }
        self.judge_activity(generation);
        let now = self.now;
        let process = self.process(generation);
        if process.assigned.is_empty() {
            process.head_since = now;
            self.shares.begin(generation, now);
        }
        self.handed.extend(items.clone().map(|item| (to.index(), item)));
        let process = self.process(generation);
        for (ticket, item) in (ticket..).zip(items) {
            let last = process.assigned.insert(ticket, item);
            assert!(last.is_none(), "ticket {ticket} is used twice");
        }
    }

    /// Spares are given nothing: beside so many workers with tasks, none begins to have some. One that has been told to stop
    /// may be about to be killed, and does not count.
    fn judge_activity(&mut self, generation: u64) {
        let counts = |process: &&Process| {
            process.is_working() && !process.assigned.is_empty() && process.flagged.is_empty()
        };
        let (busy, most) = (self.living().filter(counts).count(), self.most as usize);
        let begins = self.process(generation).assigned.is_empty();
        assert!(!begins || busy < most, "{busy} workers have tasks, and number {generation} is given some");
    }

    fn judge_flag(&mut self, who: Incarnation, ticket: Ticket) {
        let now = self.now;
        let process = self.process(who.generation.get());
        let Some(item) = process.assigned.get(&ticket).copied() else {
            panic!("{who:?} does not hold {ticket}")
        };
        process.flagged.entry(ticket).or_insert(now);
        assert!(
            process.board.observe(ticket) != Mark::Offered,
            "ticket {ticket} of {who:?} is told to stop before its start"
        );
        self.flagged.push(item);
    }

    /// Whether a task really has been running longer than its limit.
    pub(super) fn is_overdue(&self, item: Item) -> bool {
        let fact = &self.facts[item as usize - 1];
        match (fact.limit, fact.claims.last()) {
            (Some(limit), Some(claim)) => self.now.duration_since(claim.at) >= limit,
            _ => false,
        }
    }

    /// Whether the result of a task waits to be read, for which one would only have to look.
    fn is_done_in_secret(&mut self, item: Item) -> bool {
        let Some(claim) = self.fact(item).claims.last().copied().filter(|_| !self.scenario.remote) else {
            return false;
        };
        let process = self.process(claim.generation);
        let is_its = |out: &Out| matches!(out, Out::Done(ticket, _) if *ticket == claim.ticket);
        process.linked && process.readable && process.results.iter().any(is_its)
    }

    fn judge_kill(&mut self, who: Incarnation, why: &KillReason, fenced: bool) {
        let generation = who.generation.get();
        let (now, config) = (self.now, self.scenario.config.clone());
        let idle_close = self.closed && self.unresolved == 0;
        let (over, remote) = (self.terminated || self.broken, self.scenario.remote);
        let process = &self.processes[generation as usize - 1];
        self.tally.kill(why);
        assert!(!process.fenced, "{who:?} is killed twice: {process:?}");
        assert!(fenced || process.killed.is_none(), "{who:?} is killed twice: {process:?}");
        match why {
            KillReason::Timeout | KillReason::Cancelled => {
                assert!(fenced && process.is_working(), "{who:?}: {process:?}");
                assert_eq!(process.assigned.len(), 1, "innocents are with {who:?}: {process:?}");
                let (&ticket, &item) = process.assigned.first_key_value().expect("counted above");
                assert!(
                    remote || process.results.is_empty(),
                    "results of {who:?} have not been read: {process:?}"
                );
                let runs = process.current.is_none_or(|(current, _)| current == ticket);
                assert!(runs, "{who:?} runs an innocent: {process:?}");
                let flagged = process.flagged.get(&ticket).copied();
                assert!(
                    flagged.is_some_and(|at| now >= at + config.cancel_grace),
                    "ticket {ticket} of {who:?} was flagged at {flagged:?}, and had no grace"
                );
                if !self.fact(item).resolved {
                    assert_eq!(*why, KillReason::Timeout, "task {item} was not cancelled");
                    assert!(self.is_overdue(item), "task {item} is within its limit");
                    let fact = self.fact(item);
                    if let Some(claim) = fact.claims.last_mut() {
                        claim.end = Some(End::TimedOut);
                    }
                    let may_run_again = fact.may_run_again();
                    self.attempts.push((item, may_run_again));
                }
            }
            KillReason::Violation(what) => assert!(process.misbehaved, "{who:?} did nothing wrong: {what}"),
            KillReason::Unresponsive(_) => {
                let unclaimed = process
                    .assigned
                    .first_key_value()
                    .is_some_and(|(ticket, _)| process.board.observe(*ticket) == Mark::Offered);
                let waited = now.duration_since(process.head_since);
                assert!(remote || unclaimed, "{who:?} has claimed its head: {process:?}");
                assert!(process.preparing.is_none(), "{who:?} builds a state: {process:?}");
                assert!(waited >= config.claim_timeout, "{who:?} had only {waited:?} to claim");
            }
            KillReason::StartTimeout(_) => {
                let had = now.duration_since(process.spawned_at);
                assert!(!process.ready && had >= config.start_timeout, "{who:?} had {had:?} to start");
            }
            KillReason::MemoryLimit { rss, limit } => {
                assert!(rss > limit && process.bloated, "{who:?} has no more than {limit}: {process:?}");
                self.sights.bloated += 1;
            }
            KillReason::ProcessLimit(_) => {
                assert!(process.bloated, "{who:?} is within its limits: {process:?}");
                self.sights.bloated += 1;
            }
            KillReason::InitTimeout(_) => {
                let had = process.preparing.map(|since| now.duration_since(since));
                assert!(had.is_some_and(|had| had >= config.init_timeout), "{who:?} had {had:?} to prepare");
                self.sights.tardy += 1;
            }
            KillReason::Terminated => {
                let too_many = self.shrunk == Some(now) && self.surplus > 0;
                assert!(over || (idle_close || too_many) && !process.ready, "{who:?} is terminated");
                self.surplus = self.surplus.saturating_sub(1);
            }
            KillReason::ExitTimeout => {
                let had = |since: Option<Instant>| since.map_or(Duration::ZERO, |at| now.duration_since(at));
                let builds = process.preparing.is_some_and(|since| now < since + config.init_timeout);
                let is_late = had(process.free_to_exit) >= config.exit_timeout && !builds;
                let is_over = had(process.retired) >= config.init_timeout + config.exit_timeout;
                assert!(is_late || is_over, "{who:?} had no time to exit: {process:?}");
            }
        }
        let process = self.process(generation);
        process.killed.get_or_insert(why.clone());
        process.fenced = fenced;
        if fenced {
            process.assigned.clear();
            self.streaks[who.index()].explained = true;
        }
    }

    fn judge_ends(&mut self, task: TaskKey, first: u32, count: u32, result: &Result<Answers, TaskError>) {
        let parcel = self.parcels.get_mut(&task).unwrap_or_else(|| panic!("{task:?} ends twice: {result:?}"));
        assert!(
            count > 0 && parcel.done == first,
            "not the first items of {task:?} end: {parcel:?}, {first}"
        );
        parcel.done += count;
        assert!(parcel.done <= parcel.end, "{task:?} ends beyond its end: {parcel:?}");
        if parcel.done == parcel.end {
            self.parcels.remove(&task);
        }
        self.sights.cancelled += u64::from(count > 1 && matches!(result, Err(TaskError::Cancelled)));
        if let Ok(answers) = result {
            assert_eq!(answers.len(), count as usize, "{task:?} ends with the results of others");
        }
        let group = self.fact(task.item(first).get()).group;
        if let (Some(index), Err(TaskError::Cancelled)) = (group, result)
            && self.batches[index].failed
        {
            self.note_aborted(task);
        }
        for offset in 0..count {
            let result = result.as_ref().map(|answers| &answers[offset as usize]);
            self.judge_end(task.item(first + offset).get(), result);
        }
    }

    fn judge_end(&mut self, task: Item, result: Result<&Answer, &TaskError>) {
        let over = self.terminated || self.broken;
        let batch = self.fact(task).group;
        let (batch_cancelled, aborts) = batch.map_or((false, false), |index| {
            (self.batches[index].cancelled || self.batches[index].failed, self.batches[index].abort)
        });
        let overdue = self.is_overdue(task) && !self.is_done_in_secret(task);
        let (now, due) = (self.now, batch.and_then(|index| self.batches[index].deadline));
        let fact = self.fact(task);
        assert!(!fact.resolved, "task {task} ends twice: {result:?}, {fact:?}");
        (fact.resolved, fact.ended) = (true, Some(now));
        let died =
            fact.claims.iter().filter(|claim| claim.end == Some(End::Died)).map(|claim| claim.generation);
        let mut died = died.collect::<Vec<_>>().into_iter();
        let last = fact.claims.last().copied();
        let right = match result {
            Ok(answer) => {
                last.is_some_and(|claim| {
                    claim.end == Some(End::Done)
                        && (claim.generation, claim.ticket) == (answer.generation, answer.ticket)
                }) && answer.task == task
            }
            Err(TaskError::Cancelled) => fact.cancelled || batch_cancelled,
            Err(TaskError::TimedOut { limit, .. }) => fact.limit == Some(*limit) && overdue,
            Err(TaskError::WorkerDied(death)) => {
                let there = last.is_some_and(|claim| claim.generation == u64::from(death.pid));
                fact.retries == 0 && fact.last_end() == Some(End::Died) && there
            }
            Err(TaskError::Poisoned { deaths }) => {
                fact.retries > 0
                    && fact.claims.len() == fact.retries as usize + 1
                    && fact.last_end() == Some(End::Died)
                    && !deaths.is_empty()
                    // In their order; a death after the time limit counts as a timeout.
                    && deaths.iter().all(|death| died.any(|generation| generation == u64::from(death.pid)))
            }
            Err(TaskError::DeadlineExceeded { limit }) => {
                due.is_some_and(|(at, had)| at <= now && had == *limit) && !batch_cancelled
            }
            Err(TaskError::Panicked { .. }) => fact.last_end() == Some(End::Panicked),
            Err(TaskError::Decode { .. }) => fact.last_end() == Some(End::Failed),
            Err(TaskError::Encode { .. }) => fact.unsendable,
            Err(TaskError::PoolBroken(_) | TaskError::PoolClosed | TaskError::Interrupted { .. }) => over,
            Err(_) => false,
        };
        assert!(right, "task {task} ends with {result:?}, which does not follow from {fact:?}");
        self.unresolved -= 1;
        self.tally.end(&result);
        if let Some(index) = batch {
            let alone = self.fact(task).cancelled && !batch_cancelled;
            self.count_end(index, alone, result);
            self.batches[index].open -= 1;
        }
        let cancelled = matches!(result, Err(TaskError::Cancelled | TaskError::DeadlineExceeded { .. }));
        if let (Some(index), true, Err(_), false) = (batch, aborts, result, cancelled) {
            self.batches[index].failed = true;
            self.aborting.push(index);
        }
    }

    fn judge_broken(&mut self, reason: &BrokenReason) {
        self.count_break(reason);
        let config = &self.scenario.config;
        match reason {
            BrokenReason::TooManyDeaths { worker, deaths, .. } => {
                assert!(deaths.len() > config.restart.max_restarts as usize, "{reason}");
                let strikes = self.streaks[worker.get() as usize].strikes;
                assert!(strikes > config.restart.max_restarts, "{worker} had {strikes} deaths: {reason}");
                self.broken = true;
            }
            BrokenReason::StateFailed { deaths, .. } if !deaths.is_empty() => {
                let fatal = config.restart.max_restarts + 1;
                assert_eq!((self.unprepared, deaths.len()), (fatal, fatal as usize), "{reason}");
                self.broken = true;
            }
            BrokenReason::StateFailed { .. } if !self.broken => {
                let late = |process: &Process| {
                    process.preparing.is_some_and(|since| self.now >= since + config.init_timeout)
                };
                assert!(!self.ever_prepared && self.processes.iter().any(late), "{reason}");
                self.broken = true;
            }
            BrokenReason::CannotStart { .. } => {
                assert!(self.processes.iter().all(|process| !process.ready), "workers did start: {reason}");
                self.broken = true;
            }
            _ => assert!(self.broken, "nothing is wrong: {reason}"),
        }
    }

    /// What must be true at the end of an event: after the first failure of a batch that aborts, none of it is left; and
    /// only tasks that have ended or are late are told to stop.
    pub(super) fn check_consequences(&mut self) {
        for item in std::mem::take(&mut self.flagged) {
            let stops = self.fact(item).resolved || self.is_overdue(item);
            assert!(stops, "task {item} is told to stop for no reason");
        }
        for index in std::mem::take(&mut self.aborting) {
            let open = self.batches[index].members.iter().find(|member| !self.facts[**member].resolved);
            assert!(
                open.is_none(),
                "batch {index} has failed, and task {:?} goes on",
                open.map(|open| open + 1)
            );
        }
    }

    /// Of a batch whose deadline has come, nothing is left.
    pub(super) fn check_deadlines(&mut self) {
        for (index, batch) in self.batches.iter_mut().enumerate() {
            batch.overdue |= batch.deadline.is_some_and(|(at, _)| at <= self.now)
                && !batch.cancelled
                && !(batch.failed && batch.abort);
            let left = batch.members.iter().find(|member| !self.facts[**member].resolved);
            assert!(!batch.overdue || left.is_none(), "batch {index} is overdue, and task {left:?} goes on");
        }
    }

    /// Tasks that come back go to the front of their lanes, in their order; nothing else changes the order in a lane.
    pub(super) fn check_order(&mut self, back: &[Item], before: &[Item], sent: &[Item]) {
        let fact = |item: &Item| &self.facts[*item as usize - 1];
        let mut expected: Vec<Item> = back.iter().chain(before).copied().collect();
        let fresh = sent.iter().copied().filter(|item| fact(item).claims.is_empty());
        let mut found: Vec<Item> = fresh.chain(self.waiting()).filter(|item| !fact(item).resolved).collect();
        expected.retain(|item| !fact(item).resolved);
        // As they are in each lane.
        for items in [&mut expected, &mut found] {
            items.sort_by_key(|item| fact(item).lane());
        }
        assert_eq!(expected, found, "the queue is out of order");
    }

    /// A task is given out only if none waits that has a higher priority; and no lane waits while others of its priority are served
    /// for longer than what it may have had before.
    pub(super) fn check_turns(&mut self, sent: &[Item]) {
        let lane = |item: &Item| self.facts[*item as usize - 1].lane();
        let is_fresh = |item: &Item| self.facts[*item as usize - 1].claims.is_empty();
        let fresh: Vec<(usize, Item)> =
            self.handed.iter().copied().filter(|(_, item)| sent.contains(item) && is_fresh(item)).collect();
        let waiting = self.waiting();
        let lanes: BTreeSet<Lane> = waiting.iter().map(lane).collect();
        let served: BTreeSet<Lane> = fresh.iter().map(|(_, item)| lane(item)).collect();
        for (at, (place, item)) in fresh.iter().enumerate() {
            let of = lane(item);
            let waits = lanes.iter().find(|lane| lane.priority > of.priority && self.may_serve(*place, lane));
            assert!(waits.is_none(), "item {item} is given to {place}, and {waits:?} comes before");
            let later = fresh[at..].iter().map(|(to, item)| (to, lane(item)));
            let mut better = later
                .filter(|(to, lane)| lane.priority > of.priority && (lane.pin.is_none() || *to == place));
            assert!(better.next().is_none(), "{fresh:?} are given out in the wrong order");
        }
        let above = |served: &Lane| lanes.iter().any(|lane| lane.priority < served.priority);
        let beside =
            |served: &Lane| lanes.iter().any(|lane| lane.priority == served.priority && lane != served);
        self.sights.preferred += u64::from(served.iter().any(above));
        self.sights.turns += u64::from(served.iter().any(beside));
        self.passed_over.retain(|lane, _| lanes.contains(lane) && !served.contains(lane));
        for lane in lanes.iter().filter(|lane| !served.contains(lane)) {
            let beside = |(place, item): &(usize, Item)| {
                self.may_serve(*place, lane) && self.facts[*item as usize - 1].priority == lane.priority
            };
            if !fresh.iter().any(beside) {
                continue;
            }
            let since = *self.passed_over.entry(*lane).or_insert(self.now);
            // What a lane for one seat has had counts so many times.
            let times = lane.pin.map_or(1, |_| 8);
            assert!(
                self.now <= since + TURN * times,
                "{lane:?} has waited since {since:?} while {served:?} are served"
            );
        }
    }

    /// Nobody is idle while there is something to do.
    pub(super) fn check_work_conservation(&mut self) {
        let working = || self.living().filter(|process| process.is_working());
        let busy = working().filter(|process| !process.assigned.is_empty()).count();
        let idle = busy < working().count().min(self.most as usize);
        self.check_growth();
        if !self.scenario.config.wake.is_zero() {
            return self.check_guesses(idle);
        }
        let mut starving = false;
        if idle && self.unresolved > 0 {
            let open = |item: &&Item| !self.facts[**item as usize - 1].resolved && self.is_loose(**item);
            let assigned: usize =
                self.living().map(|process| process.assigned.values().filter(open).count()).sum();
            let hoards = self.living().any(|process| process.is_working() && self.hoards(process));
            starving = hoards || assigned < self.unresolved_loose() || self.keeps_a_seat_waiting().is_some();
        }
        if !starving {
            self.starving_since = None;
            return;
        }
        let since = *self.starving_since.get_or_insert(self.now);
        if !self.scenario.remote || self.now > since + PATIENCE {
            let who: Vec<_> = self.living().map(|process| (process.who, &process.assigned)).collect();
            panic!("a worker is idle while tasks wait: {who:?} {:#?}", self.machine.slots());
        }
    }

    /// Something is about to happen. If there have been enough until now, only from now on may there be too few for it.
    pub(super) fn note_growth(&mut self) {
        if self.growth.is_some() && self.is_staffed_for(usize::MAX) {
            self.growth = self.growth.map(|(state, _)| (state, self.now));
        }
    }

    /// A pool does not stay as small as it is while tasks wait and nothing ends for longer than a worker takes to start.
    pub(super) fn check_growth(&mut self) {
        let counters = self.machine.counters();
        let ended =
            [counters.succeeded, counters.failed, counters.cancelled, counters.timed_out, counters.overdue];
        let state = (ended.iter().sum::<u64>() + counters.retried + counters.requeued, self.staffed());
        if self.unresolved == 0 || self.broken || self.terminated {
            // What comes next has not waited yet.
            self.growth = None;
            return;
        }
        if self.growth.is_none_or(|(last, _)| last != state) || self.is_staffed_for(usize::MAX) {
            self.growth = Some((state, self.now));
            return;
        }
        let Some((_, since)) = self.growth else { return };
        let late = if self.scenario.sluggish || self.scenario.remote { 2 * PATIENCE } else { PATIENCE / 10 };
        assert!(
            self.now <= since + 2 * self.scenario.config.start_up + late,
            "{} are there for {} tasks, and nothing ends: {:#?}",
            state.1,
            self.unresolved,
            self.machine.slots()
        );
    }

    /// Somebody may be idle while something waits behind an item that should be done soon; not when that turns out to take long.
    fn check_guesses(&mut self, idle: bool) {
        let mut waits: BTreeMap<u64, u64> = BTreeMap::new();
        if idle && self.unresolved > 0 {
            for process in self.living().filter(|process| process.is_working()) {
                if let (Some(head), true) = (process.assigned.keys().next(), self.hoards(process)) {
                    waits.insert(process.who.generation.get(), *head);
                }
            }
            let first = self.waiting().into_iter().find(|item| self.is_loose(*item));
            if let Some(first) = first.or_else(|| self.keeps_a_seat_waiting()) {
                waits.insert(0, first);
            }
        }
        let late = match (self.scenario.sluggish, self.scenario.remote) {
            (false, false) => Duration::from_millis(2),
            (true, false) => PATIENCE / 2,
            _ => 2 * PATIENCE,
        };
        let patience = 45 * self.scenario.config.wake + late;
        self.stalls.retain(|who, (what, _)| waits.get(who) == Some(what));
        for (who, what) in waits {
            let (_, since) = *self.stalls.entry(who).or_insert((what, self.now));
            if self.now > since + patience {
                let who: Vec<_> = self.living().map(|process| (process.who, &process.assigned)).collect();
                panic!("a worker is idle while tasks wait too long: {who:?} {:#?}", self.machine.slots());
            }
        }
    }

    /// What has not ended after everything came to rest runs without a limit, or waits for such tasks to end.
    pub(super) fn check_stragglers(&mut self) {
        let forever = self.living().filter(|process| process.runs_for_ever()).count();
        for fact in self.facts.iter().filter(|fact| !fact.resolved) {
            let runs = fact.claims.last().is_some_and(|claim| {
                claim.end.is_none() && self.processes[claim.generation as usize - 1].runs_for_ever()
            });
            let waits = forever >= self.most as usize;
            assert!(
                runs && fact.limit.is_none() || waits || self.waits_for_ever(fact),
                "nothing happens to {fact:?}, and {forever} of {} run for ever: {:?} {:#?}",
                self.most,
                self.living()
                    .map(|process| (process.who, process.stage, &process.assigned))
                    .collect::<Vec<_>>(),
                self.machine.slots()
            );
        }
    }

    pub(super) fn first_unresolved(&self) -> String {
        let fact = self.facts.iter().find(|fact| !fact.resolved);
        format!("{fact:?}: {:#?}", self.machine.slots())
    }

    /// Workers that have a place in the pool.
    pub(super) fn living(&self) -> impl Iterator<Item = &Process> {
        let latest = self
            .latest
            .iter()
            .filter(|generation| **generation > 0)
            .map(|generation| &self.processes[*generation as usize - 1]);
        latest.filter(|process| !process.reported && !process.fenced)
    }
}
