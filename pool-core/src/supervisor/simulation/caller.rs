//! Those who use the pool: they submit, cancel, close and terminate at random moments.

use std::mem::discriminant;
use std::time::Duration;

use super::fact::{Answers, Batch, Fact, Nature, Parcel};
use super::world::{Happening, World};
use crate::call::RetryOn;
use crate::supervisor::event::{Event, GroupSpec, TaskKey, TaskSpec};

/// How much they still want to do.
#[derive(Debug)]
pub(super) struct Caller {
    left: u32,
}

impl Caller {
    pub(super) fn new(operations: u32) -> Self {
        Self { left: operations }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }
}

/// Most tasks that are pending before callers wait.
const MOST_PENDING: usize = 200;

impl World<'_> {
    pub(super) fn call(&mut self) {
        self.caller.left -= 1;
        match self.random.below(100) {
            0..45 => self.submit_singles(),
            45..65 => self.submit_batch(),
            65..82 => self.cancel_one(),
            82..90 => self.cancel_batch(),
            90 if self.random.chance(300) => self.close(),
            91 if self.random.chance(400) => self.terminate(),
            92 if self.random.chance(60) => self.fault(),
            92..98 if self.scenario.resizes => self.resize(),
            93..96 => self.feed(Event::Pump, &[]),
            _ => self.feed(Event::Tick, &[]),
        }
        if self.caller.left > 0 {
            let most = self.scenario.pause.as_micros() as u64;
            let pause = if self.random.chance(300) { Duration::ZERO } else { self.random.micros(0, most) };
            self.plan(pause, Happening::Caller);
        }
    }

    fn submit_singles(&mut self) {
        for _ in 0..self.random.within(1, 6) {
            self.submit(None);
        }
        self.hand_out();
    }

    /// As the engine does: what may wait for more is not handed out at once.
    fn hand_out(&mut self) {
        if self.random.chance(300) || !self.machine.may_wait(self.now) {
            self.feed(Event::Pump, &[]);
        }
    }

    pub(super) fn submit_batch(&mut self) {
        // Sometimes more tasks for an old batch, as when its caller has not noticed yet that it was aborted.
        let late = !self.batches.is_empty() && self.random.chance(100);
        let index = if late { self.random.below(self.batches.len()) } else { self.batches.len() };
        if !late {
            let abort = self.random.chance(600);
            let hurries = if self.scenario.hurries { 900 } else { 200 };
            let deadline = self.random.chance(hurries).then(|| {
                let limit = self.random.micros(0, 200_000);
                (self.now + limit, limit)
            });
            self.count_open();
            let id = self.machine.open(GroupSpec { abort, deadline });
            let ordered = self.random.chance(350);
            self.batches.push(Batch::new(id, abort, ordered, deadline));
        }
        for _ in 0..self.random.pick(&[0, 1, 2, 5, 40]) {
            self.submit(Some(index));
        }
        self.hand_out();
    }

    fn submit(&mut self, group: Option<usize>) {
        if self.unresolved >= MOST_PENDING {
            return;
        }
        let limit = match self.random.below(10) {
            0..5 => None,
            5 => Some(Duration::ZERO),
            _ => Some(self.random.micros(100, 80_000)),
        };
        let retry_on = self.random.pick(&[
            RetryOn::DEATH,
            RetryOn::DEATH,
            RetryOn::TIMEOUT,
            RetryOn::PANIC,
            RetryOn::TIMEOUT | RetryOn::PANIC,
        ]);
        let count = self.random.pick(&[1, 1, 1, 1, 1, 2, 3, 10, 40, 100]);
        let ordered = group.is_some_and(|index| self.batches[index].ordered) && self.random.chance(900);
        let piece = ordered.then(|| self.random.below(12) as u64);
        let pin = piece.map(|piece| piece as usize % self.most as usize);
        let insists = self.scenario.insists && self.random.chance(700);
        let mut spec = TaskSpec {
            count,
            chunk: self.random.pick(&[0, 0, 0, 1, 3, 10, 100]),
            limit,
            retries: self.random.pick(&[0, 0, 1, 2, 3]),
            retry_on,
            group: group.map(|index| self.batches[index].id),
            priority: self.random.pick(&[0, 0, 0, 0, 5, -3]),
            piece,
            size: self.random.pick(&[0, 1, 10, 60, 5000]),
        };
        if insists {
            (spec.limit, spec.retries) = (Some(self.random.micros(100, 20_000)), 3);
            spec.retry_on = RetryOn::TIMEOUT | RetryOn::PANIC;
        }
        let closed = self.closed || self.terminated || self.broken;
        let over = group.and_then(|index| self.batches[index].refusal());
        self.count_submit(group);
        match self.machine.submit(&spec) {
            Ok(key) => {
                assert!(!closed, "a pool that takes no more tasks took task {}", key.id);
                assert!(over.is_none(), "a batch that has ended took task {}", key.id);
                assert_eq!(key.id.get() as usize, self.facts.len() + 1, "tasks are numbered in order");
                self.admit(key, &spec, group, pin, None);
            }
            Err(error) if !closed => {
                let refused = Some(discriminant(&error));
                assert_eq!(over.as_ref().map(discriminant), refused, "a batch refuses a task: {error}");
                self.sights.refused += 1;
            }
            Err(_) => {}
        }
    }

    /// The machine has taken a unit, the items of which take about so long, or as long as all others.
    pub(super) fn admit(
        &mut self,
        key: TaskKey,
        spec: &TaskSpec,
        group: Option<usize>,
        pin: Option<usize>,
        work: Option<Duration>,
    ) {
        self.note(|_| format!("submitted {key:?}: {spec:?}, {group:?}"));
        self.parcels.insert(key, Parcel { done: 0, end: spec.count });
        self.unresolved += spec.count as usize;
        self.tally.sure.submitted += u64::from(spec.count);
        for _ in 0..spec.count {
            let nature = self.nature();
            if let Some(index) = group {
                self.batches[index].members.push(self.facts.len());
                self.batches[index].open += 1;
            }
            self.facts.push(Fact {
                unit: key,
                chunk: spec.chunk,
                nature,
                work,
                limit: spec.limit,
                retries: spec.retries,
                retry_on: spec.retry_on,
                group,
                priority: spec.priority,
                pin,
                claims: Vec::new(),
                resolved: false,
                ended: None,
                cancelled: false,
                unsendable: false,
            });
        }
    }

    fn nature(&mut self) -> Nature {
        // A unit may have many items, and all of them should not be bad.
        if self.random.chance(self.scenario.temper.poison / 2) {
            self.random.pick(&[Nature::Kills, Nature::Hangs, Nature::Panics])
        } else {
            Nature::Plain
        }
    }

    pub(super) fn cancel_one(&mut self) {
        if self.facts.is_empty() {
            return;
        }
        // The youngest ones are the most interesting: they have not ended yet.
        let reach = if self.random.chance(800) { self.facts.len().min(20) } else { self.facts.len() };
        let index = self.facts.len() - 1 - self.random.below(reach);
        self.feed_cancel(index);
    }

    pub(super) fn feed_cancel(&mut self, index: usize) {
        let key = self.facts[index].unit;
        // The key of an item that has ended may still name the rest of its unit.
        let items: Vec<_> = self.parcels.get(&key).into_iter().flat_map(|parcel| parcel.items(key)).collect();
        items.iter().for_each(|item| self.fact(*item).cancelled = true);
        self.feed(Event::Cancel(key), &[]);
        let open = items.iter().find(|item| !self.facts[**item as usize - 1].resolved);
        assert!(open.is_none(), "a cancelled task has not ended: {open:?}");
    }

    fn cancel_batch(&mut self) {
        if !self.batches.is_empty() {
            let reach = self.batches.len().min(4);
            let index = self.batches.len() - 1 - self.random.below(reach);
            self.feed_cancel_batch(index);
        }
    }

    pub(super) fn feed_cancel_batch(&mut self, index: usize) {
        self.count_close(index);
        self.batches[index].cancelled = true;
        self.feed(Event::CloseGroup(self.batches[index].id), &[]);
        let open = self.batches[index].members.iter().find(|member| !self.facts[**member].resolved);
        assert!(open.is_none(), "a task of a cancelled batch has not ended: {open:?}");
    }

    /// Cancels everything that is still there.
    pub(super) fn cancel_all(&mut self) {
        let batches = self.batches.len();
        (0..batches).filter(|index| index % 2 == 0).for_each(|index| self.feed_cancel_batch(index));
        for index in 0..self.facts.len() {
            if !self.facts[index].resolved {
                self.feed_cancel(index);
            }
        }
        (0..batches).for_each(|index| self.feed_cancel_batch(index));
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.feed(Event::Close, &[]);
    }

    /// Somebody does something while the workers of a closed pool go.
    pub(super) fn interfere(&mut self) {
        match self.random.below(6) {
            0 => self.close(),
            1 | 2 => self.terminate(),
            3 => self.fault(),
            _ => self.resize(),
        }
    }

    pub(super) fn fault(&mut self) {
        self.broken = true;
        self.note(|_| "the shell fails".to_owned());
        self.feed(Event::Fault("simulated".to_owned()), &[]);
    }

    fn resize(&mut self) {
        let most = self.random.within(1, 8) as u32;
        self.resize_to(most);
    }

    pub(super) fn resize_to(&mut self, most: u32) {
        // One that was given tasks which are taken back from it counts again, and then there is one too many.
        if most < self.most || self.staffed() > (most + self.scenario.spares) as usize {
            self.shrunk = Some(self.now);
        }
        self.most = most;
        let (there, enough) = (self.staffed(), (most + self.scenario.spares) as usize);
        let sent_away = self.sent_away();
        self.surplus = there.saturating_sub(enough);
        self.feed(Event::Resize(most), &[]);
        let gone = self.sent_away() - sent_away;
        assert!(gone <= self.surplus, "{gone} are sent away besides those killed: {} too many", self.surplus);
        let over = self.closed || self.broken;
        assert!(over || self.staffed() <= enough, "{} are there, not {enough}", self.staffed());
    }

    pub(super) fn terminate(&mut self) {
        let event = if self.random.chance(700) { Event::Terminate } else { Event::Interrupt(15) };
        self.terminate_by(event);
    }

    pub(super) fn terminate_by(&mut self, event: Event<Answers>) {
        (self.terminated, self.closed) = (true, true);
        self.feed(event, &[]);
        assert_eq!(self.unresolved, 0, "tasks outlive the end of their pool");
    }
}
