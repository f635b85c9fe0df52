//! The promises one by one, each as the shortest story that shows it. The [simulation](crate::supervisor::simulation)
//! looks for the stories that nobody has thought of.

mod fairness;
mod groups;
mod growth;
mod lanes;
mod limits;
mod liveness;
mod pace;
mod preparing;
mod recycling;
mod schedules;
mod seats;
mod singles;
mod sizing;
mod spares;
mod units;

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use super::{Config, Machine, Staffing};
use crate::call::RetryOn;
use crate::error::{BrokenReason, Death, DeathCause, TaskError};
use crate::ids::{Generation, WorkerId};
use crate::policy::RestartPolicy;
use crate::supervisor::event::{
    Action, Autopsy, Event, GroupId, GroupSpec, Incarnation, KillReason, Observation, Span, TaskKey,
    TaskSpec, Ticket,
};

const MILLI: Duration = Duration::from_millis(1);
const START_TIMEOUT: Duration = Duration::from_secs(10);
const INIT_TIMEOUT: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_millis(50);

pub(in crate::supervisor::machine) fn config(workers: u32) -> Config {
    Config {
        workers,
        staffing: Staffing::default(),
        executable: "worker".to_owned(),
        restart: RestartPolicy::default(),
        start_timeout: START_TIMEOUT,
        init_timeout: INIT_TIMEOUT,
        // An elastic pool grows at once.
        start_up: Duration::ZERO,
        states: 1,
        exit_timeout: Duration::from_secs(5),
        cancel_grace: GRACE,
        claim_timeout: START_TIMEOUT,
        ahead: MILLI,
        // As many as the tests need; what follows from the pace has tests of its own.
        wake: Duration::ZERO,
        cores: 1000,
        unpaced: 64,
        prefetch: 64,
        prefetch_bytes: 1 << 20,
        ticket_window: 256,
        seed: 1,
    }
}

pub(in crate::supervisor::machine) fn plain() -> TaskSpec {
    TaskSpec {
        count: 1,
        chunk: 0,
        limit: None,
        retries: 0,
        retry_on: RetryOn::DEATH,
        group: None,
        priority: 0,
        piece: None,
        size: 1,
    }
}

fn of(group: GroupId) -> TaskSpec {
    TaskSpec { group: Some(group), ..plain() }
}

/// A machine, its clock, and what it did.
struct Bench {
    machine: Machine<&'static str>,
    now: Instant,
    done: Vec<Action<&'static str>>,
}

impl Bench {
    fn new(config: Config) -> Self {
        let now = Instant::now();
        Self::around(Machine::new(config, now), now)
    }

    fn around(machine: Machine<&'static str>, now: Instant) -> Self {
        let mut bench = Self { machine, now, done: Vec::new() };
        bench.collect();
        bench
    }

    /// Workers that are all ready.
    fn ready(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.greet_all();
        bench
    }

    fn collect(&mut self) {
        self.machine.check_invariants().expect("the state machine agrees with itself");
        self.done.extend(self.machine.actions());
    }

    fn on(&mut self, event: Event<&'static str>) {
        self.machine.on(self.now, event);
        self.collect();
    }

    /// Lets time pass, and the timers with it.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.machine.deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.on(Event::Tick);
        }
        self.now = end;
    }

    /// The incarnation that is in a place now.
    fn who(&self, worker: u32) -> Incarnation {
        self.machine.slots()[worker as usize].incarnation()
    }

    /// The first one last, so that it is the first to be given something.
    fn greet_all(&mut self) {
        for worker in (0..self.machine.slots().len() as u32).rev() {
            self.on(Event::Ready(self.who(worker)));
        }
    }

    /// Opens a batch that its first failure aborts.
    fn open_map(&mut self) -> GroupId {
        self.machine.open(GroupSpec { abort: true, deadline: None })
    }

    /// Submits tasks and has them handed out.
    fn submit(&mut self, count: usize, spec: &TaskSpec) -> Vec<TaskKey> {
        let submit = |_| self.machine.submit(spec).expect("the pool is open");
        let tasks = (0..count).map(submit).collect();
        self.on(Event::Pump);
        tasks
    }

    fn die(&mut self, worker: u32, started: bool) {
        self.die_as(self.who(worker), started);
    }

    fn die_as(&mut self, who: Incarnation, started: bool) {
        self.on(Event::Died(who, Autopsy { death: death(who), started }));
    }

    fn finish(&mut self, worker: u32) {
        let head = self.machine.head(self.who(worker)).expect("it holds a task");
        self.on(Event::Finished(self.who(worker), head.span.first, 1, "done"));
    }

    /// The first worker that holds anything.
    fn holder(&self) -> u32 {
        let workers = 0..self.machine.slots().len() as u32;
        workers
            .into_iter()
            .find(|worker| self.machine.head(self.who(*worker)).is_some())
            .expect("somebody works")
    }

    /// Shows the machine that the head of a worker was claimed just now.
    fn show_claim(&mut self, worker: u32) {
        let ticket = self.machine.head(self.who(worker)).map(|head| head.span.first);
        let seen = Observation { ticket, started: Some(self.now), moving: false };
        self.on(Event::Observed(self.who(worker), seen));
    }

    /// Forgets what was done so far.
    fn forget(&mut self) -> &mut Self {
        self.done.clear();
        self
    }

    /// Tasks sent to a worker, in order.
    fn sent(&self, worker: u32) -> Vec<TaskKey> {
        let sent = |action: &Action<_>| match action {
            Action::Send { to, task, .. } if to.worker == WorkerId::new(worker) => Some(*task),
            _ => None,
        };
        self.done.iter().filter_map(sent).collect()
    }

    fn outcome(&self, key: TaskKey) -> Option<&Result<&'static str, TaskError>> {
        let mut outcomes = self.done.iter().filter_map(|action| match action {
            Action::Resolve { task, result, .. } if *task == key => Some(result),
            _ => None,
        });
        let outcome = outcomes.next();
        assert!(outcomes.next().is_none(), "{key:?} ended twice");
        outcome
    }

    /// Every item that has ended, in that order, with what became of it.
    fn ends(&self) -> Vec<(u64, &'static str)> {
        let mut ends = Vec::new();
        for action in &self.done {
            let Action::Resolve { task, first, count, result } = action else { continue };
            let what = match result {
                Ok(text) => text,
                Err(TaskError::Cancelled) => "cancelled",
                Err(TaskError::WorkerDied(_)) => "died",
                Err(TaskError::TimedOut { .. }) => "timed out",
                Err(TaskError::DeadlineExceeded { .. }) => "overdue",
                Err(TaskError::Panicked { .. }) => "panicked",
                Err(TaskError::Encode { .. }) => "unsendable",
                Err(error) => panic!("an unexpected end: {error}"),
            };
            ends.extend((*first..first + count).map(|offset| (task.item(offset).get(), what)));
        }
        ends
    }

    /// What was sent to a worker: tasks, as their first ticket and the first and last of their numbers.
    fn sends(&self, worker: u32) -> Vec<(Ticket, RangeInclusive<u64>)> {
        let sent = |action: &Action<_>| match action {
            Action::Send { to, ticket, task, first, count, .. } if to.worker == WorkerId::new(worker) => {
                Some((*ticket, task.item(*first).get()..=task.item(first + count - 1).get()))
            }
            _ => None,
        };
        self.done.iter().filter_map(sent).collect()
    }

    fn taken(&self) -> Vec<(Incarnation, Vec<Ticket>)> {
        let taken = |action: &Action<_>| match action {
            Action::TakeBack(who, spans) => {
                Some((*who, spans.iter().flat_map(|span| span.tickets()).collect()))
            }
            _ => None,
        };
        self.done.iter().filter_map(taken).collect()
    }

    fn kills(&self) -> Vec<(Incarnation, KillReason)> {
        let kill = |action: &Action<_>| match action {
            Action::Kill { who, why, .. } => Some((*who, why.clone())),
            _ => None,
        };
        self.done.iter().filter_map(kill).collect()
    }

    fn spawns(&self) -> usize {
        self.done.iter().filter(|action| matches!(action, Action::Spawn(_))).count()
    }

    fn inspections(&self) -> usize {
        self.done.iter().filter(|action| matches!(action, Action::Inspect(_))).count()
    }

    fn broken(&self) -> Option<&BrokenReason> {
        self.done.iter().find_map(|action| match action {
            Action::Broken(reason) => Some(&**reason),
            _ => None,
        })
    }
}

/// Each ticket by itself: whether it was unclaimed.
fn answers(tickets: &[(Ticket, bool)]) -> Vec<(Span, bool)> {
    tickets.iter().map(|(first, unclaimed)| (Span { first: *first, count: 1 }, *unclaimed)).collect()
}

pub(in crate::supervisor::machine) fn death(who: Incarnation) -> Death {
    Death {
        pid: 1,
        worker: who.worker,
        cause: DeathCause::Exited(1),
        task: None,
        task_id: None,
        ran_for: None,
        peak_rss: None,
        stderr_tail: String::new(),
        stdout_tail: String::new(),
    }
}
