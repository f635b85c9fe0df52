//! Late news: of workers that are gone, and for a pool that is.

use std::time::Duration;

use super::coverage::WorkerEvent;
use super::fact::{Answer, Answers};
use super::shell::{death, panicked, state_failed, unsendable};
use super::world::World;
use crate::error::BrokenReason;
use crate::ids::TaskId;
use crate::supervisor::event::{Action, Autopsy, Event, Observation, Span, TaskKey};

impl World<'_> {
    /// News of an incarnation that is gone arrive late; nothing may come of them.
    pub(super) fn haunt(&mut self, generation: u64) {
        let rate = self.scenario.temper.ghosts;
        if !self.chance(rate) {
            return;
        }
        for _ in 0..self.random.within(1, 3) {
            let event = self.ghost(generation);
            self.feed_late(event);
        }
    }

    fn feed_late(&mut self, event: Event<Answers>) {
        let (before, text) = (self.pending.len(), format!("{event:?}"));
        self.feed(event, &[]);
        // What was to be sent anyway may be sent now, and an elastic pool grow that has waited for long enough by now.
        let config = &self.scenario.config;
        let grows = config.staffing.least.is_some() && !config.start_up.is_zero();
        let harmless = |action: &&Action<Answers>| match action {
            Action::Split { .. } | Action::Send { .. } | Action::TakeBack(..) => true,
            Action::Spawn(_) => grows,
            _ => false,
        };
        let effect = self.pending.iter().skip(before).find(|action| !harmless(action));
        assert!(effect.is_none(), "late news of a dead worker have an effect: {text}: {effect:?}");
    }

    /// News of this kind of a worker that is gone.
    pub(super) fn haunt_with(&mut self, generation: u64, what: WorkerEvent) {
        for _ in 0..100 {
            let event = self.ghost(generation);
            if WorkerEvent::of(&self.machine, &event).is_some_and(|(_, of)| of == what) {
                return self.feed_late(event);
            }
        }
    }

    pub(super) fn ghost(&mut self, generation: u64) -> Event<Answers> {
        let who = self.incarnation(generation);
        let ticket = self.random.within(1, 40);
        let answer = Answer { task: self.random.within(1, 40), generation, ticket };
        match self.random.below(20) {
            19 => Event::TookBack(who, vec![(Span { first: ticket, count: 2 }, true)]),
            16 => Event::Garbage(who, "late".to_owned()),
            17 => Event::Illegible(who, vec![Span { first: ticket, count: 2 }]),
            18 => Event::Lost(who, vec![(ticket, death(generation, who.worker))]),
            0 => Event::Ready(who),
            1 => Event::Finished(who, ticket, 1, vec![answer]),
            2 => Event::Failed(who, ticket, panicked()),
            3 => Event::Unsendable(who, Span { first: ticket, count: 2 }, unsendable()),
            4 => {
                let span = |first| Span { first, count: 3 };
                Event::TookBack(who, vec![(span(ticket), true), (span(ticket + 3), false)])
            }
            5 => {
                let seen = Observation { ticket: Some(ticket), started: Some(self.now), moving: false };
                Event::Observed(who, seen)
            }
            6 => Event::Violation(who, "late".to_owned()),
            7 => Event::SpawnFailed(who, death(generation, who.worker)),
            8 => {
                let why = "late".to_owned();
                Event::Unusable(who, BrokenReason::Incompatible { executable: String::new(), why })
            }
            9 => Event::Heavy(who),
            10 => Event::Preparing(who, "late".into()),
            11 => Event::Prepared(who),
            12 => Event::Unfit(who, state_failed()),
            13 if ticket.is_multiple_of(2) => Event::Crowded(who, 1),
            13 => Event::OverLimit(who, 2, 1),
            14 => Event::Cancel(TaskKey { index: ticket as u32, id: TaskId::new(u64::MAX) }),
            _ => Event::Died(who, Autopsy { death: death(generation, who.worker), started: false }),
        }
    }

    /// A pool that is drained stays so, whatever happens.
    pub(super) fn haunt_the_drained(&mut self) {
        self.settle();
        for _ in 0..20 {
            let event = match self.random.below(8) {
                7 => Event::Interrupt(15),
                0 => Event::Tick,
                1 => Event::Pump,
                2 => Event::Close,
                3 => Event::Terminate,
                4 => Event::Fault("late".to_owned()),
                5 => Event::Resize(self.random.within(1, 8) as u32),
                _ if self.processes.is_empty() => Event::Tick,
                _ => {
                    let generation = self.random.within(1, self.processes.len() as u64);
                    self.ghost(generation)
                }
            };
            self.now += Duration::from_secs(1);
            let text = format!("{event:?}");
            self.feed(event, &[]);
            assert!(self.pending.is_empty(), "a drained pool acts: {:?} after {text}", self.pending);
        }
    }
}
