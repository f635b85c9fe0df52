//! What is told and kept of the lives of workers: events, traces, and figures.
//!
//! Messages, targets and fields of traces are documented at [`WorkerEvent`], and stay as they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pool_ipc::{Measured, Slot};
use tracing::Span;

use super::Engine;
use crate::describe::Called;
use crate::error::{BrokenReason, Death, TaskError, TaskOutput};
use crate::events::{Events, WorkerEvent};
use crate::ids::{TaskId, WorkerId};
use crate::insights::{Listed, Survey, Totals, WorkerInsights};
use crate::job::{JobRef, PartArgs};
use crate::stats::RetireReason;
use crate::supervisor::event::{Incarnation, KillReason, TaskKey, Ticket};
use crate::supervisor::link::Link;
use crate::told::tell;

/// What the engine needs to tell and to keep it.
#[derive(Debug)]
pub(crate) struct Seeing {
    pool: String,
    span: Span,
    events: Option<Events>,
    /// Whether workers measure their tasks.
    measured: bool,
    /// When units were submitted, by their place, if that is measured.
    born: Vec<u32>,
    since: Instant,
    /// The same on the clock of the workers, in microseconds.
    since_us: u64,
    /// When the start began that is under way.
    spawn_began: Instant,
    /// What a task had printed when it exceeded its limit, until it ends for its caller.
    printed: Option<(TaskId, TaskOutput)>,
    /// What dead workers have done, by place.
    dead: Vec<WorkerInsights>,
    /// What dead workers have done, all together.
    totals: Totals,
}

/// When the stages of a worker's life began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stages {
    spawned: Instant,
    ready: Option<Instant>,
    retiring: Option<Instant>,
    /// What it took to build the states that were there when it became ready, if that is measured.
    early_init: Duration,
}

/// A task that has been told to stop.
#[derive(Debug)]
pub(crate) struct Doomed {
    ticket: Ticket,
    /// Its number and its name, unless it had ended for its caller by then.
    task: Option<(TaskId, String)>,
    /// What it was called with, if that is to be kept: it ends for its caller before its worker is dead.
    called: Option<Called>,
}

impl Doomed {
    pub(super) fn called(&self) -> Option<Called> {
        self.called.clone()
    }
}

impl Stages {
    /// Whether it has been asked to exit.
    pub(super) fn is_retiring(&self) -> bool {
        self.retiring.is_some()
    }

    pub(crate) fn new(spawned: Instant) -> Self {
        Self { spawned, ready: None, retiring: None, early_init: Duration::ZERO }
    }
}

impl Seeing {
    pub(crate) fn new(pool: String, events: Option<Events>, measured: bool) -> Self {
        // Read before the other clock: should this thread be held up in between, a task seems to have been submitted earlier than it was,
        // and never after its start.
        let since_us = pool_ipc::now_ns() / 1000;
        let now = Instant::now();
        Self {
            span: tracing::debug_span!(target: "pool_core::pool", "pool", pool),
            pool,
            events,
            measured,
            born: Vec::new(),
            since: now,
            since_us,
            spawn_began: now,
            printed: None,
            dead: Vec::new(),
            totals: Totals::default(),
        }
    }

    fn tell(&mut self, event: impl FnOnce() -> WorkerEvent) {
        if let Some(events) = &mut self.events {
            events.tell(event());
        }
    }

    /// A spawn begins.
    pub(super) fn spawning(&mut self) {
        self.spawn_began = Instant::now();
    }

    pub(super) fn spawned(&mut self, link: &mut Link) {
        let (who, pid) = (link.who, link.pid);
        link.stages = Stages::new(self.spawn_began);
        tell!(
            debug, DEBUG, target: "pool_core::worker", parent: &self.span,
            pool = self.pool, worker = who.worker.get(), generation = who.generation.get(), pid,
            "worker spawned"
        );
        self.tell(|| WorkerEvent::Spawned { worker: who.worker, pid });
    }

    pub(super) fn not_spawned(&mut self, who: Incarnation, why: &std::io::Error) {
        tell!(
            warn, WARN, target: "pool_core::worker", parent: &self.span,
            pool = self.pool, worker = who.worker.get(), generation = who.generation.get(), reason = %why,
            "worker not spawned"
        );
        self.tell(|| WorkerEvent::NotSpawned { worker: who.worker, why: why.to_string() });
    }

    pub(super) fn ready(&mut self, link: &mut Link, now: Instant, build_id: &str) {
        let (who, pid) = (link.who, link.pid);
        let after = now.saturating_duration_since(link.stages.spawned);
        link.stages.ready = Some(now);
        if self.measured {
            link.stages.early_init = Duration::from_nanos(link.gauges.read().init_ns).min(after);
        }
        tell!(
            debug, DEBUG, target: "pool_core::worker", parent: &self.span,
            pool = self.pool, worker = who.worker.get(), generation = who.generation.get(), pid,
            after_us = micros(after), build_id,
            "worker ready"
        );
        self.tell(|| WorkerEvent::Ready { worker: who.worker, pid, after });
    }

    pub(super) fn killed(&self, link: &Link, why: &KillReason) {
        tell!(
            debug, DEBUG, target: "pool_core::worker", parent: &self.span,
            pool = self.pool, worker = link.who.worker.get(), generation = link.who.generation.get(), pid = link.pid,
            reason = ?why,
            "worker killed"
        );
    }

    pub(super) fn retiring(&mut self, link: &mut Link, now: Instant, reason: RetireReason) {
        let (who, pid) = (link.who, link.pid);
        link.stages.retiring = Some(now);
        tell!(
            debug, DEBUG, target: "pool_core::worker", parent: &self.span,
            pool = self.pool, worker = who.worker.get(), generation = who.generation.get(), pid, %reason,
            "worker retiring"
        );
        self.tell(|| WorkerEvent::Retiring { worker: who.worker, pid, reason });
    }

    pub(super) fn exited(&mut self, who: Incarnation, pid: u32) {
        tell!(
            debug, DEBUG, target: "pool_core::worker", parent: &self.span,
            pool = self.pool, worker = who.worker.get(), generation = who.generation.get(), pid,
            "worker exited"
        );
        self.tell(|| WorkerEvent::Exited { worker: who.worker, pid });
    }

    pub(super) fn died(&mut self, who: Incarnation, death: &Death) {
        tell!(
            warn, WARN, target: "pool_core::worker", parent: &self.span,
            pool = self.pool, worker = who.worker.get(), generation = who.generation.get(), pid = death.pid,
            cause = %death.cause, task = death.task_id.map(TaskId::get), name = death.task,
            ran_for_us = death.ran_for.map(micros),
            "worker died"
        );
        self.tell(|| WorkerEvent::Died(Box::new(death.clone())));
    }

    pub(super) fn broken(&mut self, reason: &Arc<BrokenReason>) {
        tell!(
            error, ERROR, target: "pool_core::pool", parent: &self.span, pool = self.pool, %reason,
            "pool broken"
        );
        self.tell(|| WorkerEvent::Broken(Arc::clone(reason)));
    }

    pub(super) fn drained(&self) {
        tell!(debug, DEBUG, target: "pool_core::pool", parent: &self.span, pool = self.pool, "pool drained");
    }

    /// A unit has been taken in.
    pub(super) fn submitted(
        &mut self,
        key: TaskKey,
        count: u32,
        now: Instant,
        name: impl FnOnce() -> String,
    ) {
        if self.measured {
            let place = key.index as usize;
            if self.born.len() <= place {
                self.born.resize(place + 1, 0);
            }
            // Without a look at the clock of its own.
            let now = (self.since_us as u32)
                .wrapping_add(now.saturating_duration_since(self.since).as_micros() as u32);
            // 0 stands for what is not measured.
            self.born[place] = if now == 0 { u32::MAX } else { now };
        }
        tell!(
            trace, TRACE, target: "pool_core::task", parent: &self.span,
            pool = self.pool, task = key.id.get(), count, name = name(),
            "task submitted"
        );
    }

    pub(super) fn refused(&self, count: u32, name: impl FnOnce() -> String, reason: &TaskError) {
        tell!(
            trace, TRACE, target: "pool_core::task", parent: &self.span, pool = self.pool, count, name = name(), %reason,
            "task refused"
        );
    }

    pub(super) fn sent(&self, who: Incarnation, pid: u32, task: TaskId, count: u32, attempt: u32) {
        tell!(
            trace, TRACE, target: "pool_core::task", parent: &self.span,
            pool = self.pool, task = task.get(), count, worker = who.worker.get(), generation = who.generation.get(), pid,
            attempt,
            "task sent"
        );
    }

    pub(super) fn ended(&self, task: TaskId, count: u32, error: Option<&TaskError>) {
        tell!(
            trace, TRACE, target: "pool_core::task", parent: &self.span,
            pool = self.pool, task = task.get(), count, reason = error.map(tracing::field::display),
            "task ended"
        );
    }

    /// What the task of a worker that was killed for its limit had printed.
    pub(super) fn heard(&mut self, death: &Death) {
        let printed = TaskOutput::some(death.stdout_tail.clone(), death.stderr_tail.clone());
        self.printed = death.task_id.zip(printed);
    }

    /// Adds to the error that a task ends with what the task had printed, where that is known.
    pub(super) fn tell_output(&mut self, task: TaskId, error: &mut TaskError) {
        if matches!(error, TaskError::TimedOut { .. })
            && let Some((_, printed)) = self.printed.take_if(|(of, _)| *of == task)
        {
            error.attach(Some(printed));
        }
    }

    /// A unit has been split.
    pub(super) fn split(&mut self, from: u32, into: u32) {
        if self.measured {
            let (born, into) = (self.born(from), into as usize);
            if self.born.len() <= into {
                self.born.resize(into + 1, 0);
            }
            self.born[into] = born;
        }
    }

    /// When a unit was submitted: the low bits of the clock in microseconds, 0 if that is not measured.
    #[inline]
    pub(super) fn born(&self, place: u32) -> u32 {
        if self.measured { self.born.get(place as usize).copied().unwrap_or(0) } else { 0 }
    }

    /// Keeps what a dead worker has done, and what it was doing when it died, called like this.
    pub(super) fn buried(&mut self, link: &Link, death: &Death, called: Option<Called>) {
        let mut done = self.done(link, death.ran_for);
        done.peak_memory = death.peak_rss;
        if self.measured {
            let figures = self.figures(link);
            take(&mut self.totals, figures.as_ref(), link);
            if let Some(ran_for) = death.ran_for {
                self.totals.runs.record(nanos(ran_for));
            }
            let is_decoded = death.task_id.is_some_and(|task| link.gauges.has_decoded(task.get()));
            let called = called.unwrap_or_else(Called::somehow);
            let called = if is_decoded { called } else { called.undecoded() };
            if let Some(task) = Listed::ended_by(death, called) {
                self.totals.list(task);
            }
        }
        let place = link.who.index();
        reach(&mut self.dead, place).add(&done);
    }

    /// What a worker has measured, unless it cannot be true.
    fn figures(&self, link: &Link) -> Option<Measured> {
        if !self.measured {
            return None;
        }
        let measured = link.gauges.read();
        let age = nanos(link.stages.spawned.elapsed());
        let sound = measured.is_sound(link.offered, age)
            && measured.waits.max() <= pool_ipc::now_ns().saturating_sub(self.since_us * 1000);
        sound.then_some(measured)
    }

    /// Where the time of a worker has gone. It has been running a task for so long.
    fn done(&self, link: &Link, running: Option<Duration>) -> WorkerInsights {
        let now = Instant::now();
        let Stages { spawned, ready, retiring, early_init } = link.stages;
        let (init, worked) =
            self.figures(link).map_or((0, 0), |measured| (measured.init_ns, measured.runs.sum()));
        let init = Duration::from_nanos(init);
        let working = Duration::from_nanos(worked) + running.filter(|_| self.measured).unwrap_or_default();
        let at_work =
            ready.map_or(Duration::ZERO, |ready| retiring.unwrap_or(now).saturating_duration_since(ready));
        WorkerInsights {
            tasks: link.finished,
            processes: 1,
            start: ready.unwrap_or(now).saturating_duration_since(spawned).saturating_sub(early_init),
            init,
            waiting: at_work.saturating_sub(init.saturating_sub(early_init) + working),
            working,
            exit: retiring.map_or(Duration::ZERO, |retiring| now.saturating_duration_since(retiring)),
            ..WorkerInsights::none(link.who.worker)
        }
    }
}

impl Engine {
    /// A worker has been asked to exit.
    pub(super) fn retiring(&mut self, now: Instant, who: Incarnation, reason: RetireReason) {
        let link = self.links.get_mut(who.index()).and_then(Option::as_mut).filter(|link| link.who == who);
        if let Some(link) = link {
            self.seeing.retiring(link, now, reason);
        }
    }

    /// Tells a running task to stop.
    pub(super) fn flag(&mut self, who: Incarnation, ticket: Ticket, task: Option<(TaskKey, u32)>) {
        let called = task.and_then(|(key, offset)| self.called(key, offset));
        let name = |(key, offset): (TaskKey, u32)| Some((key.item(offset), self.job(key)?.shown()));
        let task = task.and_then(name);
        if let Some((task, _)) = &task {
            self.seeing.printed = self.printed_by(who, ticket).map(|printed| (*task, printed));
        }
        if let Some(link) = self.live(who) {
            link.board.request_cancel(ticket);
            link.doomed = Some(Doomed { ticket, task, called });
        }
    }

    /// Hands the events over, so that they can be waited for outside of the lock.
    pub(crate) fn take_events(&mut self) -> Option<Events> {
        self.seeing.events.take()
    }

    /// Where the time of the pool has gone.
    pub(crate) fn survey(&self) -> Survey {
        let seeing = &self.seeing;
        let mut survey = Survey {
            measured: seeing.measured,
            since: seeing.since.elapsed(),
            totals: seeing.totals.clone(),
            workers: seeing.dead.clone(),
            alive: Vec::new(),
        };
        if let Some(last) = self.links.len().checked_sub(1) {
            reach(&mut survey.workers, last);
        }
        for link in self.links.iter().flatten().chain(&self.dying) {
            let place = link.who.index();
            reach(&mut survey.workers, place).add(&seeing.done(link, self.running_for(link)));
            take(&mut survey.totals, seeing.figures(link).as_ref(), link);
            survey.alive.push((place, link.pid));
        }
        survey
    }

    /// What an item of a unit was called with, if workers measure their tasks.
    pub(super) fn called(&self, unit: TaskKey, offset: u32) -> Option<Called> {
        if !self.seeing.measured {
            return None;
        }
        let (job, offset) = self.item(unit, offset)?;
        let entry = job.entry();
        match job {
            JobRef::Single(cell) => cell.with_args(|args| Called::with(entry, args)),
            JobRef::Part(part) => Some(match &part.args {
                PartArgs::One(args) => Called::with(entry, args),
                PartArgs::Many(packed, from) => Called::with(entry, packed.item(from + offset)),
            }),
        }
    }

    /// How long a worker has been running the task that it runs.
    fn running_for(&self, link: &Link) -> Option<Duration> {
        let now = Instant::now();
        match link.board.observe(self.machine.head(link.who)?.span.first) {
            Slot::Claimed { since_ns } => Some(now.saturating_duration_since(link.started_at(since_ns, now))),
            _ => None,
        }
    }
}

/// Says in the report of a worker that has been killed for a task what that task was, if it was still running.
pub(super) fn explain(link: &Link, death: &mut Death) {
    let Some(doomed) = &link.doomed else { return };
    let Slot::Claimed { since_ns } = link.board.observe(doomed.ticket) else { return };
    let now = Instant::now();
    let since = link.started_at(since_ns, now);
    death.ran_for = Some(now.saturating_duration_since(since));
    (death.task_id, death.task) = doomed.task.clone().unzip();
    death.stdout_tail = link.stdout.said(death.task_id, Some(since));
    death.stderr_tail = link.stderr.said(death.task_id, Some(since));
}

/// Adds what a worker has measured.
fn take(totals: &mut Totals, measured: Option<&Measured>, link: &Link) {
    let (Some(measured), Some(routes)) = (measured, &link.routes) else { return };
    totals.waits.merge(&measured.waits);
    totals.runs.merge(&measured.runs);
    for longest in &measured.longest {
        // A task that the worker does not have has been scribbled there.
        let Some(name) = routes.name(longest.index) else { continue };
        totals.list(Listed {
            task: TaskId::new(longest.task),
            name: name.to_owned(),
            worker: link.who.worker,
            ran_for: Duration::from_nanos(longest.ns),
            called: Called::kept(routes.entry(longest.index), &longest.arguments),
        });
    }
}

/// A place in a list that grows as needed.
fn reach(workers: &mut Vec<WorkerInsights>, place: usize) -> &mut WorkerInsights {
    while workers.len() <= place {
        workers.push(WorkerInsights::none(WorkerId::new(workers.len() as u32)));
    }
    &mut workers[place]
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
