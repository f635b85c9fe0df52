//! Carries the machine's actions out as the engine does, and reports what workers write and how they die.

use std::time::Duration;

use super::board::Mark;
use super::fact::{Answer, Answers, Claim, End, Item};
use super::process::{Frame, Out};
use super::world::{Happening, Streak, World};
use crate::error::{BrokenReason, Death, DeathCause, TaskError};
use crate::ids::WorkerId;
use crate::supervisor::event::{Action, Autopsy, Event, Observation, Span, Ticket};

/// Tickets, and whether they were unclaimed.
pub(super) type Taken = Vec<(Span, bool)>;

pub(super) fn death(generation: u64, worker: WorkerId) -> Death {
    Death {
        pid: generation as u32,
        worker,
        cause: DeathCause::Exited(1),
        task: None,
        task_id: None,
        ran_for: None,
        peak_rss: None,
        stderr_tail: String::new(),
        stdout_tail: String::new(),
    }
}

pub(super) fn panicked() -> TaskError {
    TaskError::Panicked { message: "simulated".to_owned(), location: None, backtrace: None, output: None }
}

pub(super) fn failed() -> TaskError {
    TaskError::Decode { task: "simulated".to_owned(), message: "simulated".to_owned() }
}

pub(super) fn unsendable() -> TaskError {
    TaskError::Encode { task: "simulated".to_owned(), message: "simulated".to_owned() }
}

impl World<'_> {
    pub(super) fn perform(&mut self, action: Action<Answers>) {
        match action {
            Action::Spawn(who) => {
                let slow = self.chance(self.scenario.temper.spawns_slowly);
                let after = if slow { self.random.micros(0, 1_000_000) } else { self.lateness() };
                self.plan(after, Happening::Spawned(who.generation.get()));
            }
            Action::Send { to, ticket, task, first, count, .. } => {
                self.send(to.generation.get(), Span { first: ticket, count }, task.item(first).get());
            }
            Action::TakeBack(who, spans) => self.take_back(who.generation.get(), spans),
            Action::Inspect(who) if self.scenario.remote => {
                let after = self.random.micros(0, if self.scenario.is_slow() { 100_000 } else { 10_000 });
                self.plan(after, Happening::Look(who.generation.get()));
            }
            Action::Inspect(who) => self.inspect(who.generation.get()),
            Action::FlagCancel(who, ticket, _) => {
                if self.process(who.generation.get()).linked {
                    self.flag(who.generation.get(), ticket);
                }
            }
            Action::Kill { who, fenced, .. } => self.kill(who.generation.get(), fenced),
            Action::Retire(who, _) => {
                if self.process(who.generation.get()).linked {
                    self.deliver(who.generation.get(), Frame::Retire);
                }
            }
            Action::Split { .. } | Action::Resolve { .. } | Action::Broken(_) | Action::Drained => {}
        }
    }

    fn send(&mut self, generation: u64, span: Span, first: Item) {
        let unsendable_rate = self.scenario.temper.unsendable;
        let process = self.process(generation);
        if !process.linked || !process.greeted {
            return;
        }
        for ticket in span.tickets() {
            let old = process.board.offer(ticket);
            assert!(!process.assigned.contains_key(&old), "ticket {ticket} takes over the slot of {old}");
            process.last_offered = ticket;
        }
        let (who, unit) = (self.incarnation(generation), self.facts[first as usize - 1].unit);
        if self.chance(unsendable_rate) || self.is_to_be_unsendable(who, unit) {
            let process = self.process(generation);
            let held = !process.fenced && !process.reported;
            for (ticket, item) in span.tickets().zip(first..) {
                if held {
                    self.release(generation, ticket);
                }
                self.fact(item).unsendable = true;
            }
            let who = self.incarnation(generation);
            return self.feed(Event::Unsendable(who, span, unsendable()), &[]);
        }
        for (ticket, item) in span.tickets().zip(first..) {
            self.deliver(generation, Frame::Task(ticket, item));
        }
    }

    /// The machine is about to learn that a worker does not hold a ticket any more.
    fn release(&mut self, generation: u64, ticket: Ticket) -> Option<Item> {
        let now = self.now;
        let process = self.process(generation);
        if process.assigned.first_key_value().is_some_and(|(first, _)| *first == ticket) {
            process.head_since = now;
        }
        let item = process.assigned.remove(&ticket)?;
        process.idle_since = now;
        Some(item)
    }

    fn take_back(&mut self, generation: u64, spans: Vec<Span>) {
        if !self.process(generation).linked {
            return;
        }
        if self.is_to_be_illegible(self.incarnation(generation)) {
            self.process(generation).scribble();
        }
        if self.scenario.remote {
            let after = self.random.micros(0, if self.scenario.is_slow() { 200_000 } else { 20_000 });
            self.process(generation).asked.push_back(spans);
            return self.plan(after, Happening::Take(generation));
        }
        let (taken, claimed, illegible) = self.take_from_board(generation, &spans);
        // What was taken is reported before anything is read. Of the rest some may have been claimed, and then all older
        // results have been written: they must be known before the answer.
        self.answer(generation, taken, Vec::new());
        if !claimed.is_empty() || !illegible.is_empty() {
            self.read_results(generation);
        }
        self.answer(generation, claimed, illegible);
    }

    /// From the youngest ticket to the oldest: those that were taken, those that were claimed, and those of which the board
    /// makes no sense.
    fn take_from_board(&mut self, generation: u64, spans: &[Span]) -> (Taken, Taken, Vec<Span>) {
        let board = &mut self.process(generation).board;
        let (mut taken, mut claimed, mut illegible) = (Vec::new(), Vec::new(), Vec::new());
        for ticket in spans.iter().rev().flat_map(|span| span.tickets().rev()) {
            if board.take_back(ticket) {
                taken.push(ticket);
            } else if matches!(board.observe(ticket), Mark::Claimed(_) | Mark::Finished) {
                claimed.push(ticket);
            } else {
                illegible.push(ticket);
            }
        }
        let taken = self.bundle(&taken).into_iter().map(|span| (span, true)).collect();
        let claimed = self.bundle(&claimed).into_iter().map(|span| (span, false)).collect();
        let illegible = self.bundle(&illegible);
        (taken, claimed, illegible)
    }

    /// Makes spans of tickets that come in descending order, as large as possible or smaller.
    fn bundle(&mut self, tickets: &[Ticket]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for ticket in tickets.iter().rev().copied() {
            match spans.last_mut() {
                Some(last) if last.end() == ticket && self.random.chance(970) => last.count += 1,
                _ => spans.push(Span { first: ticket, count: 1 }),
            }
        }
        spans
    }

    /// What a worker far away is to be asked for first, if it has not been asked yet.
    pub(super) fn take_next(&mut self, generation: u64) {
        if let Some(spans) = self.process(generation).asked.pop_front() {
            self.take(generation, &spans);
        }
    }

    /// A worker far away is asked to give tasks back. Its answer comes in one stream with its results, so that those which
    /// are older than the answer are known before it.
    pub(super) fn take(&mut self, generation: u64, spans: &[Span]) {
        let (taken, claimed, illegible) = self.take_from_board(generation, spans);
        self.write(generation, Out::Answers([claimed, taken].concat(), illegible));
    }

    fn answer(&mut self, generation: u64, answers: Taken, illegible: Vec<Span>) {
        if !self.process(generation).linked {
            return;
        }
        let who = self.incarnation(generation);
        if !illegible.is_empty() {
            let head = self.head(who);
            let mut back = Vec::new();
            let tickets = illegible.iter().flat_map(|span| span.tickets());
            for ticket in tickets.filter(|ticket| Some(*ticket) != head) {
                if self.process(generation).is_working() {
                    let item = self.release(generation, ticket);
                    back.extend(item.filter(|item| self.is_fresh(*item)));
                }
            }
            self.feed(Event::Illegible(who, illegible), &back);
        }
        if answers.is_empty() {
            return;
        }
        let mut back = Vec::new();
        if !self.process(generation).fenced {
            let taken = answers.iter().filter(|(_, unclaimed)| *unclaimed);
            for ticket in taken.flat_map(|(span, _)| span.tickets()) {
                let item = self.release(generation, ticket);
                let open = item.is_some_and(|item| !self.fact(item).resolved);
                self.tally.sure.taken_back += u64::from(open);
                back.extend(item.filter(|item| self.is_fresh(*item)));
            }
        }
        self.feed(Event::TookBack(who, answers), &back);
    }

    /// Whether a task has neither ended nor ever been started.
    fn is_fresh(&mut self, item: Item) -> bool {
        let fact = self.fact(item);
        !fact.resolved && fact.claims.is_empty()
    }

    fn inspect(&mut self, generation: u64) {
        if !self.process(generation).linked {
            return;
        }
        self.read_results(generation);
        let who = self.incarnation(generation);
        let Some(ticket) = self.head(who) else {
            let seen = Observation { ticket: None, started: None, moving: false };
            return self.feed(Event::Observed(who, seen), &[]);
        };
        let moving = self.has_moved(generation);
        let process = self.process(generation);
        let started = match process.board.observe(ticket) {
            // It became the head just now, and has not been sent.
            _ if ticket > process.last_offered => None,
            Mark::Offered => None,
            Mark::Claimed(at) => Some(at),
            other => {
                let what = format!("the board of {who:?} shows {other:?} for its head, ticket {ticket}");
                return self.feed(Event::Violation(who, what), &[]);
            }
        };
        self.feed(Event::Observed(who, Observation { ticket: Some(ticket), started, moving }), &[]);
    }

    /// Whether bytes have moved to the worker since the last look.
    fn has_moved(&mut self, generation: u64) -> bool {
        let now = self.now;
        let process = self.process(generation);
        let arrived = process.received + process.inbox.iter().filter(|(at, _)| *at <= now).count();
        std::mem::replace(&mut process.arrived_then, arrived) != arrived
    }

    /// A worker far away looks at its board.
    pub(super) fn look(&mut self, generation: u64) {
        let who = self.incarnation(generation);
        if !self.process(generation).linked {
            return;
        }
        let ticket = self.head(who);
        let moving = self.has_moved(generation);
        let started = ticket.and_then(|ticket| match self.process(generation).board.observe(ticket) {
            Mark::Claimed(at) => Some(at),
            _ => None,
        });
        self.write(generation, Out::Seen(Observation { ticket, started, moving }));
    }

    fn kill(&mut self, generation: u64, fenced: bool) {
        let process = self.process(generation);
        if process.stage == super::process::Stage::Unborn && !process.spawn_is_off && !process.reported {
            // Nobody has begun to spawn it, or the reactor is about to.
            if self.random.chance(500) {
                self.process(generation).spawn_is_off = true;
                if !fenced {
                    self.report_unborn(generation);
                    let who = self.incarnation(generation);
                    let autopsy = Autopsy { death: death(generation, who.worker), started: false };
                    self.feed(Event::Died(who, autopsy), &[]);
                }
            } else {
                self.process(generation).condemned_unborn = true;
            }
            return;
        }
        let process = self.process(generation);
        if !process.linked {
            return;
        }
        if fenced {
            (process.linked, process.readable) = (false, false);
        }
        self.signal(generation);
    }

    fn signal(&mut self, generation: u64) {
        let lingers = self.scenario.temper.lingers;
        let after = if self.random.chance(lingers) {
            self.random.micros(0, 20_000)
        } else {
            self.random.micros(0, 50)
        };
        self.plan(after, Happening::Kill(generation));
    }

    pub(super) fn spawned(&mut self, generation: u64) {
        let who = self.incarnation(generation);
        let process = self.process(generation);
        if process.spawn_is_off {
            return;
        }
        let condemned = process.condemned_unborn;
        if self.chance(self.scenario.temper.spawn_fails) {
            self.report_unborn(generation);
            return self.feed(Event::SpawnFailed(who, death(generation, who.worker)), &[]);
        }
        self.born(generation);
        if condemned {
            self.signal(generation);
        }
        if self.machine.expects(who) {
            self.process(generation).linked = true;
        } else if !condemned {
            self.signal(generation);
        }
    }

    fn report_unborn(&mut self, generation: u64) {
        let process = self.process(generation);
        process.reported = true;
        if !process.fenced {
            self.tally.sure.start_deaths += 1;
            self.count_death(generation, false);
        }
    }

    /// Reports everything that a worker has written.
    pub(super) fn read_results(&mut self, generation: u64) {
        self.read_all(generation);
        self.end_reports();
    }

    fn read_all(&mut self, generation: u64) {
        let (who, now) = (self.incarnation(generation), self.now);
        loop {
            let process = self.process(generation);
            if !process.linked || !process.readable {
                return;
            }
            let Some(out) = process.results.pop_front() else { return };
            // Whatever changes next, the machine is to know of what is over; results may come one right after the other.
            if !matches!(out, Out::Done(..)) || self.random.chance(500) {
                self.end_reports();
            }
            let process = self.process(generation);
            match out {
                Out::Hello if !process.greeted => {
                    process.greeted = true;
                    if process.killed.is_none() && !process.fenced {
                        (process.ready, process.idle_since) = (true, now);
                    }
                    self.feed(Event::Ready(who), &[]);
                }
                Out::BadHello if !process.greeted => {
                    process.readable = false;
                    // A closed pool that has nothing to do waits for it to go, whoever it is.
                    self.broken |= !(process.fenced || self.closed && self.unresolved == 0);
                    let reason = BrokenReason::Incompatible { executable: String::new(), why: String::new() };
                    self.feed(Event::Unusable(who, reason), &[]);
                }
                Out::Preparing => {
                    let now = self.now;
                    let process = self.process(generation);
                    let (before, killed) = (process.preparing, process.killed.is_some());
                    if process.is_working() || process.is_leaving() || process.is_starting() {
                        process.preparing = Some(now);
                    }
                    self.feed(Event::Preparing(who, "state".into()), &[]);
                    let process = self.process(generation);
                    if process.killed.is_some() != killed {
                        // It had no right to.
                        process.preparing = before;
                    }
                }
                Out::Prepared => {
                    let (now, process) = (self.now, self.process(generation));
                    // Also if it has been killed meanwhile: it had built it by then.
                    let leaving = process.is_leaving();
                    if !process.fenced
                        && (process.retired.is_none() || leaving)
                        && process.preparing.take().is_some()
                    {
                        process.head_since = now;
                        if leaving {
                            process.free_to_exit = Some(now);
                        }
                        (self.unprepared, self.ever_prepared) = (0, true);
                        self.sights.prepared += 1;
                    }
                    self.feed(Event::Prepared(who), &[]);
                }
                Out::Unfit => {
                    // Who has been asked to exit is needed for nothing.
                    let is_needed = !process.fenced && process.retired.is_none();
                    self.broken |= is_needed;
                    self.feed(Event::Unfit(who, state_failed()), &[]);
                    assert!(
                        !is_needed || !self.machine.is_open(),
                        "a state cannot be built, and nobody is told"
                    );
                }
                Out::Answers(answers, illegible) => self.answer(generation, answers, illegible),
                Out::Seen(seen) => self.feed(Event::Observed(who, seen), &[]),
                Out::Garbage if process.greeted => {
                    // Frames behind it are found again, except for those that it has mangled.
                    let mangled = self.random.pick(&[0, 0, 1, 2]);
                    let head = self.head(who);
                    let process = self.process(generation);
                    process.spoiled.extend(head);
                    let mangled = mangled.min(process.results.len());
                    process.results.drain(..mangled);
                    self.feed(Event::Garbage(who, "simulated".to_owned()), &[]);
                }
                Out::Hello | Out::BadHello | Out::Garbage => {
                    process.readable = false;
                    self.feed(Event::Violation(who, format!("{out:?}")), &[]);
                }
                _ if !process.greeted => {
                    process.readable = false;
                    self.feed(Event::Violation(who, format!("{out:?} before its hello")), &[]);
                }
                Out::BogusFailure(ticket) => self.feed(Event::Failed(who, ticket, failed()), &[]),
                Out::Bogus(ticket) => {
                    let answer = Answer { task: 0, generation, ticket };
                    self.feed(Event::Finished(who, ticket, 1, vec![answer]), &[]);
                }
                Out::Done(ticket, answer) => {
                    let answers = self.read_run(generation, ticket, answer);
                    let span = Span { first: ticket, count: answers.len() as u32 };
                    let event = Event::Finished(who, ticket, span.count, answers);
                    self.others_may_follow = true;
                    self.report_results(generation, span, End::Done, event);
                }
                Out::Panicked(ticket) => {
                    let event = Event::Failed(who, ticket, panicked());
                    self.report_results(generation, Span { first: ticket, count: 1 }, End::Panicked, event);
                }
                Out::Failed(ticket) => {
                    let event = Event::Failed(who, ticket, failed());
                    self.report_results(generation, Span { first: ticket, count: 1 }, End::Failed, event);
                }
            }
        }
    }

    /// Reads on as long as results are those of the head's unit, one after the other; not always to the end.
    fn read_run(&mut self, generation: u64, ticket: Ticket, answer: Answer) -> Answers {
        let who = self.incarnation(generation);
        let mut answers = vec![answer];
        let head = self.machine.head(who).map(|head| head.span).filter(|span| span.first == ticket);
        for next in head.map_or(0..0, |span| span.first + 1..span.end()) {
            let results = &mut self.processes[generation as usize - 1].results;
            match results.front() {
                Some(Out::Done(found, answer)) if *found == next && !self.random.chance(100) => {
                    answers.push(*answer);
                    results.pop_front();
                }
                _ => break,
            }
        }
        answers
    }

    fn report_results(&mut self, generation: u64, span: Span, end: End, event: Event<Answers>) {
        if let Some(item) = self.scenario.measured
            && self.random.chance(700)
        {
            self.machine.measured(self.incarnation(generation), item);
        }
        let process = self.process(generation);
        let spoiled = process.spoiled.iter().any(|spoiled| span.tickets().contains(spoiled));
        if process.fenced || process.reported || spoiled {
            return self.feed(event, &[]);
        }
        let worker = self.incarnation(generation).worker;
        self.streaks[worker.get() as usize].strikes = 0;
        let mut items = Vec::new();
        for ticket in span.tickets() {
            let Some(item) = self.release(generation, ticket) else {
                panic!("the machine never gave ticket {ticket} to {worker}");
            };
            let fact = self.fact(item);
            let open = !fact.resolved;
            if let Some(claim) = fact.claims.last_mut().filter(|claim| open && claim.end.is_none()) {
                claim.end = Some(end);
                let may_run_again = end != End::Done && fact.may_run_again();
                self.attempts.push((item, may_run_again));
            }
            items.push(item);
        }
        self.feed(event, &[]);
        for item in items {
            let fact = self.fact(item);
            assert!(
                fact.resolved || end == End::Panicked,
                "the result of task {item} was read and is lost: {fact:?}"
            );
        }
        if self.scenario.config.staffing.weighs && self.chance(self.scenario.temper.heavy) {
            let noticed = self.random.pick(&[0, 0, 100, 20_000]);
            match self.random.micros(0, noticed) {
                Duration::ZERO => self.outgrown(generation),
                noticed => self.plan(noticed, Happening::Outgrown(generation)),
            }
        }
    }

    /// A worker is found to be so large that it is to be replaced.
    pub(super) fn outgrown(&mut self, generation: u64) {
        let who = self.incarnation(generation);
        let process = self.process(generation);
        if process.linked {
            process.heavy = true;
            self.feed(Event::Heavy(who), &[]);
        }
    }

    /// A worker has closed its pipe, and has not died of it.
    pub(super) fn closed_pipe(&mut self, generation: u64) {
        if self.process(generation).linked {
            let who = self.incarnation(generation);
            self.feed(Event::Violation(who, "it closed its pipes and lives on".to_owned()), &[]);
        }
    }

    /// The memory of a worker is looked at from outside.
    pub(super) fn weigh(&mut self, generation: u64) {
        let (who, process) = (self.incarnation(generation), self.process(generation));
        if process.linked && process.bloated {
            // Two limits, one outcome.
            let event = if generation.is_multiple_of(2) {
                Event::Crowded(who, 1)
            } else {
                Event::OverLimit(who, 2, 1)
            };
            self.feed(event, &[]);
        }
    }

    /// The death of a worker has been noticed.
    pub(super) fn bury(&mut self, generation: u64) {
        if self.process(generation).linked {
            self.read_results(generation);
        }
        let who = self.incarnation(generation);
        let process = self.process(generation);
        if !process.linked {
            process.reported = true;
            return self.haunt(generation);
        }
        (process.linked, process.reported) = (false, true);
        if process.fenced {
            // The machine has decided to kill it, and its death was faster.
            return;
        }
        let (started, back) = self.examine(generation);
        // Whatever it did after it was asked to exit is of no interest.
        let retired = self.process(generation).retired.is_some();
        self.count_death(generation, retired || !started.is_empty());
        let explained = !started.is_empty() && self.process(generation).ready;
        let born = self.processes.len();
        let head = self.head(who);
        let (first, rest): (Vec<Ticket>, Vec<Ticket>) =
            started.into_iter().partition(|ticket| Some(*ticket) == head);
        if !rest.is_empty() {
            self.fail_attempts(generation, &rest);
            let report = |ticket| (ticket, death(generation, who.worker));
            self.feed(Event::Lost(who, rest.into_iter().map(report).collect()), &[]);
        }
        self.fail_attempts(generation, &first);
        let autopsy = Autopsy { death: death(generation, who.worker), started: !first.is_empty() };
        let process = self.process(generation);
        let builds = process.preparing.is_some() && !autopsy.started && process.retired.is_none();
        if builds {
            self.unprepared += 1;
            self.sights.unprepared += 1;
        }
        let innocent = self.innocent(generation);
        self.tally_death(generation, autopsy.started);
        let broken = self.broken;
        self.feed(Event::Died(who, autopsy), &back);
        // A state that kills all who build it ends the pool, and all tasks with it.
        let is_last = builds && self.unprepared > self.scenario.config.restart.max_restarts;
        if !is_last || self.broken == broken {
            self.tally.sure.requeued += innocent;
        }
        let replaced = self.processes[born..].iter().any(|process| process.who.worker == who.worker);
        assert!(
            !explained || replaced || self.unresolved == 0 || self.is_staffed(),
            "{who:?} died in a task, and is not replaced at once"
        );
        self.haunt(generation);
    }

    /// Attempts have ended with the death of their worker.
    fn fail_attempts(&mut self, generation: u64, tickets: &[Ticket]) {
        for ticket in tickets {
            let item = self.process(generation).assigned.get(ticket).copied();
            if let Some(item) = item.filter(|item| !self.facts[*item as usize - 1].resolved) {
                let may_run_again = self.fact(item).may_run_again();
                self.attempts.push((item, may_run_again));
            }
        }
    }

    /// How many items that a dead worker holds have neither ended nor been started by it.
    fn innocent(&self, generation: u64) -> u64 {
        let open = |(ticket, item): &(&Ticket, &Item)| {
            let fact = &self.facts[**item as usize - 1];
            let last = fact.claims.last().map(|claim| (claim.generation, claim.ticket));
            !fact.resolved && last != Some((generation, **ticket))
        };
        self.processes[generation as usize - 1].assigned.iter().filter(open).count() as u64
    }

    fn tally_death(&mut self, generation: u64, started: bool) {
        let process = &self.processes[generation as usize - 1];
        let counter = match process.ready {
            _ if process.retired.is_some() => return,
            false => &mut self.tally.sure.start_deaths,
            true if started => &mut self.tally.sure.task_deaths,
            true => &mut self.tally.sure.idle_deaths,
        };
        *counter += 1;
    }

    /// What a dead worker held: the tickets that it had started, and the tasks that go back to the queue.
    fn examine(&mut self, generation: u64) -> (Vec<Ticket>, Vec<Item>) {
        let now = self.now;
        let process = self.process(generation);
        let (offered, refused) = (process.last_offered, process.refused);
        let look = |(ticket, item): (&Ticket, &Item)| (*ticket, *item, process.board.observe(*ticket));
        let held: Vec<(Ticket, Item, Mark)> = process.assigned.iter().map(look).collect();
        let (mut started, mut back) = (Vec::new(), Vec::new());
        for (place, (ticket, item, mark)) in held.into_iter().enumerate() {
            // Of the head of an overwritten board nobody knows, unless the worker has said that it refused to start it.
            let unclear = place == 0 && mark == Mark::Foreign && !refused;
            // A ticket above the last one that was offered has not been sent: its slot is about another one.
            if ticket <= offered && (unclear || matches!(mark, Mark::Claimed(_) | Mark::Finished)) {
                started.push(ticket);
                let claims = &mut self.fact(item).claims;
                if unclear
                    && claims
                        .last()
                        .is_none_or(|claim| (claim.generation, claim.ticket) != (generation, ticket))
                {
                    claims.push(Claim { generation, ticket, at: now, end: None });
                }
                for claim in claims.iter_mut().filter(|claim| claim.generation == generation) {
                    claim.end.get_or_insert(End::Died);
                }
            } else if self.is_fresh(item) {
                back.push(item);
            }
        }
        (started, back)
    }

    /// A death or a failed spawn is reported: is it explained by a task?
    fn count_death(&mut self, generation: u64, explained: bool) {
        let now = self.now;
        let place = self.incarnation(generation).index();
        let streak = &mut self.streaks[place];
        streak.explained = explained;
        if !explained {
            *streak = Streak { strikes: streak.strikes + 1, last: now, explained };
        }
    }
}

pub(super) fn state_failed() -> BrokenReason {
    BrokenReason::StateFailed { state: "state".to_owned(), why: String::new(), deaths: Vec::new() }
}
