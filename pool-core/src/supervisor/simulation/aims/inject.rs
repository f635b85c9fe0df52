//! What is let happen to somebody, at this very moment.

use std::time::Duration;

use crate::supervisor::event::{Event, Incarnation, TaskKey, Ticket};
use crate::supervisor::simulation::board::Mark;
use crate::supervisor::simulation::coverage::{PoolEvent, UnitEvent, UnitState, WorkerEvent as On};
use crate::supervisor::simulation::fact::Claim;
use crate::supervisor::simulation::process::{Frame, Out, Outcome, Process, Stage};
use crate::supervisor::simulation::world::World;
use crate::supervisor::slot::Phase;

/// How far the clock may be put forward.
const LEAP: Duration = Duration::from_millis(300);

impl Process {
    /// Whether it can do something, of which the machine would be told at once.
    fn is_there(&self) -> bool {
        self.linked
            && self.readable
            && !self.mute
            && self.results.is_empty()
            && !matches!(self.stage, Stage::Unborn | Stage::Dead)
    }
}

impl World<'_> {
    /// Lets something happen to a worker, if it can.
    pub(super) fn inject(&mut self, generation: u64, event: On) {
        let greeted = self.process(generation).greeted;
        match event {
            On::Preparing => self.say(generation, Out::Preparing),
            On::Prepared => self.say(generation, Out::Prepared),
            On::Unfit => self.say(generation, Out::Unfit),
            On::Ready if !greeted => self.say(generation, Out::Hello),
            On::Unusable if !greeted => self.say(generation, Out::BadHello),
            On::Foreign => {
                let ticket = self.process(generation).last_offered + 10_000;
                let fails = self.random.chance(500);
                let out = if fails { Out::BogusFailure(ticket) } else { Out::Bogus(ticket) };
                self.say(generation, out);
            }
            On::Garbage => self.say(generation, Out::Garbage),
            On::Violation => self.say(generation, if greeted { Out::Hello } else { Out::Garbage }),
            On::OverLimit | On::Crowded => self.bloat(generation, event),
            On::Heavy => self.swell(generation),
            On::Died | On::DiedInTask => self.fell(generation, event == On::DiedInTask),
            On::Lost => self.lose(generation),
            On::Finished => self.end_now(generation, Outcome::Done),
            On::Failed => {
                let outcome = self.random.pick(&[Outcome::Failed, Outcome::Panicked]);
                self.end_now(generation, outcome);
            }
            On::TookBack | On::Claimed | On::Illegible => self.hurry_answer(generation, event),
            On::Close => self.close(),
            On::Shrink => self.resize_to(self.most.max(2) - 1),
            On::Grow => self.resize_to(self.most + 1),
            On::End => self.end(),
            // These come by themselves.
            On::Ready | On::Unusable | On::SpawnFailed | On::Unsendable | On::Observed | On::Timer => {}
        }
    }

    /// A worker writes what it should not, and this is read at once.
    pub(super) fn say(&mut self, generation: u64, out: Out) {
        let process = self.process(generation);
        if process.is_there() && !process.scribbled {
            process.misbehaved = true;
            self.write(generation, out);
            self.read_results(generation);
        }
    }

    /// A worker has more than it may have.
    pub(super) fn bloat(&mut self, generation: u64, event: On) {
        let who = self.incarnation(generation);
        let process = self.process(generation);
        if process.is_there() && process.ready {
            process.bloated = true;
            let over = Event::OverLimit(who, 2, 1);
            self.feed(if event == On::Crowded { Event::Crowded(who, 1) } else { over }, &[]);
        }
    }

    /// A worker has become so large that it is to be replaced.
    pub(super) fn swell(&mut self, generation: u64) {
        if self.scenario.config.staffing.weighs && self.process(generation).ready {
            self.outgrown(generation);
        }
    }

    /// A worker dies, and that is noticed at once.
    pub(super) fn fell(&mut self, generation: u64, in_task: bool) {
        let head = self.head(self.incarnation(generation));
        let process = self.process(generation);
        let runs = process.current.is_some_and(|(ticket, _)| Some(ticket) == head);
        if process.is_there() && runs == in_task {
            self.die(generation);
            self.bury(generation);
        }
    }

    /// The head of a worker ends.
    fn end_now(&mut self, generation: u64, outcome: Outcome) {
        let head = self.head(self.incarnation(generation));
        let process = self.process(generation);
        let runs = process.current.is_some_and(|(ticket, _)| Some(ticket) == head);
        if process.is_there() && runs && matches!(process.stage, Stage::Running(_)) {
            self.end_task(generation, outcome);
            self.read_results(generation);
        }
    }

    /// A worker, the result pipe of which a task has closed, runs several items and dies.
    fn lose(&mut self, generation: u64) {
        if self.run_unseen(generation) {
            self.die(generation);
            self.bury(generation);
        }
    }

    /// A task closes the result pipe of its worker, which goes on with at least one that comes behind its head; whether it could.
    fn run_unseen(&mut self, generation: u64) -> bool {
        let now = self.now;
        let head = self.head(self.incarnation(generation));
        let process = self.process(generation);
        let runs = process.current.map(|(ticket, _)| ticket);
        if !process.is_there() || process.misbehaved || runs.is_some() && runs != head {
            return false;
        }
        let next = if runs.is_some() { head.map(|head| head + 1) } else { head };
        let due: Vec<Ticket> = process.due(now).take(4).collect();
        let seconds = due.iter().filter(|ticket| Some(**ticket) != head).count();
        if seconds == 0 || next.is_none_or(|next| due.first() != Some(&next)) {
            return false;
        }
        (process.misbehaved, process.mute) = (true, true);
        if let Some((ticket, _)) = process.current.take() {
            process.board.finish(ticket);
        }
        for _ in due {
            self.claim_next(generation);
        }
        self.process(generation).stage = Stage::Running(Outcome::Done);
        self.step_after(generation, Duration::from_millis(1));
        true
    }

    /// A worker goes on with its next task.
    fn claim_next(&mut self, generation: u64) {
        let now = self.now;
        let process = self.process(generation);
        let Some((_, Frame::Task(ticket, item))) = process.inbox.pop_front() else { return };
        process.received += 1;
        if let Some((before, _)) = process.current.replace((ticket, item)) {
            process.board.finish(before);
        }
        process.board.claim(ticket, now);
        process.claims += 1;
        self.fact(item).claims.push(Claim { generation, ticket, at: now, end: None });
    }

    /// What a worker far away was asked to give back is answered now, if this is the answer.
    fn hurry_answer(&mut self, generation: u64, event: On) {
        let who = self.incarnation(generation);
        let local = self.is_to_be_asked(who);
        let process = self.process(generation);
        if !process.is_there() || process.asked.is_empty() && !local {
            return;
        }
        match event {
            On::Illegible if process.misbehaved => return self.scribble_last(generation),
            On::Illegible => process.scribble(),
            // Of what it answers nothing else arrives.
            On::Claimed if local && process.killed.is_some() => _ = self.run_unseen(generation),
            _ => {}
        }
        let process = self.process(generation);
        let Some(spans) = process.asked.front() else { return };
        let mut tickets = spans.iter().flat_map(|span| span.tickets());
        let unclaimed = tickets.all(|ticket| process.board.observe(ticket) == Mark::Offered);
        let is_it = match event {
            On::Illegible => process.scribbled,
            On::TookBack => unclaimed,
            _ => !unclaimed,
        };
        if is_it && let Some(spans) = process.asked.pop_front() {
            self.take(generation, &spans);
            self.read_results(generation);
        }
    }

    /// A task that has written what it should not overwrites the board as well, which is the last thing that its worker does: otherwise
    /// nobody could know what it has started.
    fn scribble_last(&mut self, generation: u64) {
        let head = self.head(self.incarnation(generation));
        let process = self.process(generation);
        let runs = process.current.is_some_and(|(ticket, _)| Some(ticket) == head);
        // Who has been asked to exit has nothing that one would have to know of.
        if (runs || process.retired.is_some()) && !process.scribbled && process.killed.is_some() {
            process.scribbled = true;
            process.board.scribble();
            self.take_next(generation);
            self.read_results(generation);
            self.fell(generation, true);
        }
    }

    /// What was the head of a worker ends, and so does the next task, in another way.
    fn end_behind(&mut self, generation: u64, outcome: Outcome) {
        let (now, head) = (self.now, self.head(self.incarnation(generation)));
        let process = self.process(generation);
        let runs = process.current.is_some_and(|(ticket, _)| Some(ticket) == head);
        let next = process.due(now).next();
        let follows = next.is_some() && next == head.map(|head| head + 1);
        if process.is_there() && runs && follows && matches!(process.stage, Stage::Running(_)) {
            self.end_task(generation, Outcome::Done);
            if self.process(generation).stage == Stage::Written {
                self.claim_next(generation);
                self.process(generation).stage = Stage::Running(outcome);
                self.end_task(generation, outcome);
            }
            self.read_results(generation);
        }
    }

    /// The worker that has a unit says what has become of it, before it is its turn.
    fn say_out_of_turn(&mut self, key: TaskKey, failed: bool) {
        let Some(who) = self.holder(key) else { return };
        let hand = self.machine.slots()[who.index()].hand();
        let held = hand.into_iter().flat_map(|hand| hand.spans()).find(|held| held.task == Some(key));
        if let Some(ticket) = held.map(|held| held.ticket) {
            let out = if failed { Out::BogusFailure(ticket) } else { Out::Bogus(ticket) };
            self.say(who.generation.get(), out);
        }
    }

    fn end(&mut self) {
        if self.random.chance(300) { self.fault() } else { self.terminate() }
    }

    /// Whether this can be let happen to a unit.
    pub(super) fn suits(&self, key: TaskKey, event: UnitEvent) -> bool {
        let group = self.facts[key.id.get() as usize - 1].group;
        let batch = group.map(|index| &self.batches[index]);
        match event {
            UnitEvent::CloseGroup => batch.is_some_and(|batch| !batch.cancelled),
            UnitEvent::Deadline => {
                batch.and_then(|batch| batch.deadline).is_some_and(|(at, _)| at <= self.now + LEAP)
            }
            UnitEvent::Aborted => group.is_some_and(|group| self.mate(key, group).is_some()),
            _ => true,
        }
    }

    /// Somebody else who runs something of a batch that would end with it.
    fn mate(&self, key: TaskKey, group: usize) -> Option<u64> {
        if !self.batches[group].abort {
            return None;
        }
        let holder = self.holder(key);
        self.machine.slots().iter().filter(|slot| Some(slot.incarnation()) != holder).find_map(|slot| {
            let Phase::Ready(ready) = &slot.phase else { return None };
            let item = ready.hand.front()?.task?.id.get();
            let generation = slot.generation.get();
            let process = &self.processes[generation as usize - 1];
            let runs = process.is_there() && process.current.is_some();
            (runs && self.facts[item as usize - 1].group == Some(group)).then_some(generation)
        })
    }

    /// Lets something happen to a unit.
    pub(super) fn inject_to_unit(&mut self, key: TaskKey, event: UnitEvent) {
        let first = key.id.get() as usize - 1;
        let group = self.facts[first].group;
        let holder = self.holder(key).map(|who| who.generation.get());
        let of_worker = match event {
            UnitEvent::Cancel => return self.feed_cancel(first),
            UnitEvent::End => return self.end(),
            UnitEvent::CloseGroup => {
                if let Some(group) = group {
                    self.feed_cancel_batch(group);
                }
                return;
            }
            UnitEvent::Deadline => {
                if let Some((at, _)) = group.and_then(|group| self.batches[group].deadline) {
                    // Nothing else has happened until then: the supervisor was late for whatever was due.
                    self.leapt += at.saturating_duration_since(self.now);
                    self.now = self.now.max(at);
                    self.feed(Event::Tick, &[]);
                }
                return;
            }
            UnitEvent::Aborted => {
                if let Some(generation) = group.and_then(|group| self.mate(key, group)) {
                    self.end_now(generation, Outcome::Failed);
                }
                return;
            }
            UnitEvent::Observed => {
                // For how long it has been running nobody can tell any more.
                if let Some(generation) = holder.filter(|_| self.scenario.remote) {
                    self.process(generation).scribble();
                }
                return;
            }
            UnitEvent::Overdue | UnitEvent::Unsendable => return,
            UnitEvent::Failed if self.unit_state(key) == UnitState::DyingBehind => {
                return holder
                    .into_iter()
                    .for_each(|generation| self.end_behind(generation, Outcome::Failed));
            }
            UnitEvent::Finished | UnitEvent::Failed
                if matches!(self.unit_state(key), UnitState::Behind | UnitState::Taking) =>
            {
                return self.say_out_of_turn(key, event == UnitEvent::Failed);
            }
            UnitEvent::Finished => On::Finished,
            UnitEvent::Failed => On::Failed,
            UnitEvent::TookBack => On::TookBack,
            UnitEvent::Claimed => On::Claimed,
            UnitEvent::Illegible => On::Illegible,
            UnitEvent::KillsWorker => On::OverLimit,
            UnitEvent::Lost => On::Lost,
            UnitEvent::Died => On::Died,
            UnitEvent::DiedInIt => On::DiedInTask,
            UnitEvent::Leaves => On::Heavy,
        };
        if let Some(generation) = holder {
            self.inject(generation, of_worker);
        }
    }

    /// Lets something happen to the pool.
    pub(super) fn inject_to_pool(&mut self, event: PoolEvent) {
        match event {
            PoolEvent::Open => self.submit_batch(),
            PoolEvent::Cancel => self.cancel_one(),
            PoolEvent::Close => self.close(),
            PoolEvent::Terminate => self.terminate_by(Event::Terminate),
            PoolEvent::Interrupt => self.terminate_by(Event::Interrupt(15)),
            PoolEvent::Fault => self.fault(),
            PoolEvent::Unfit => self.inject_to_somebody(On::Unfit),
            PoolEvent::Unusable => self.inject_to_somebody(On::Unusable),
            PoolEvent::TooManyDeaths => self.inject_to_somebody(On::Died),
            // These come by themselves.
            _ => {}
        }
    }

    fn inject_to_somebody(&mut self, event: On) {
        let fits = |who: &Incarnation| {
            let process = who.generation.get().checked_sub(1).map(|index| &self.processes[index as usize]);
            process.is_some_and(|process| match event {
                On::Unusable => process.is_there() && !process.greeted,
                _ => process.is_there(),
            })
        };
        let slots = self.machine.slots().iter();
        let there: Vec<Incarnation> = slots.map(|slot| slot.incarnation()).filter(fits).collect();
        if !there.is_empty() {
            let who = self.random.pick(&there);
            self.inject(who.generation.get(), event);
        }
    }
}
