//! The shell around the state machine: it turns what the operating system reports into events, and carries actions out.
//!
//! The engine has no thread of its own. Whoever has its lock drives it: the reactor when descriptors become ready, and
//! callers when they submit or cancel, so that a task is written to its worker's pipe without waking anybody else. All
//! I/O under the lock is non-blocking. What may block (spawning, callbacks, the program's own stdout) happens outside.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollFlags};
use pool_ipc::{Flush, Kind, Slot, TaskHead};

use crate::error::TaskError;
use crate::ids::TaskId;
use crate::memory::OomCounter;
use crate::outcome::{Cell, Inbox, Outcome};
use crate::output::{Forwarder, Lines};
use crate::stats::DeathCounts;
use crate::supervisor::event::{
    Action, Event, Incarnation, KillReason, Observation, TaskKey, TaskSpec, Ticket,
};
use crate::supervisor::link::Link;
use crate::supervisor::machine::Machine;
use crate::supervisor::routes::Routes;
use crate::supervisor::table::TaskTable;
use crate::supervisor::token::{Source, Token};
use crate::sys::{process, sigpipe};
use crate::task::TaskEntry;

mod frames;
mod printing;
mod processes;

/// How long a worker may live on after it has closed its pipes.
const CLOSED_PIPES_GRACE: Duration = Duration::from_millis(500);
/// Reads that empty the pipe of a living worker: more than a full pipe needs, and bounded, whatever it goes on writing.
const DRAIN_READS: usize = 64;
/// Reads that empty the pipe of a dead worker, were it as large as a privileged process can make it.
const LAST_READS: usize = 4096;
/// Reads from one worker before the others get their turn.
const READS_A_TURN: usize = 16;
/// Lines of dead workers that wait while this program's own output is blocked.
const BACKLOG: usize = 64;

/// What a task is, to the shell.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) entry: &'static TaskEntry,
    /// What it is called in messages.
    pub(crate) name: Option<Box<str>>,
    pub(crate) args: Arc<Vec<u8>>,
    pub(crate) sink: Sink,
}

impl Job {
    pub(crate) fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or(self.entry.name)
    }
}

/// Who wants the outcome.
#[derive(Debug)]
pub(crate) enum Sink {
    Handle(Arc<Cell>),
    Batch { inbox: Arc<Inbox>, index: usize },
}

/// Everything that the lock of the pool protects.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) machine: Machine<Vec<u8>>,
    jobs: TaskTable<Job>,
    /// By the worker's place: the incarnation that the state machine knows.
    links: Vec<Option<Link>>,
    /// Killed, replaced, and not reaped yet.
    dying: Vec<Link>,
    to_spawn: VecDeque<Incarnation>,
    /// The incarnation that the reactor is spawning just now, and what was decided about it meanwhile.
    spawning: Option<(Incarnation, Option<KillReason>)>,
    closed_pipes: Vec<(Instant, Incarnation)>,
    dirty: Vec<usize>,
    epoll: Arc<Epoll>,
    timer: OwnedFd,
    armed: Option<Instant>,
    forwarder: Forwarder,
    backlog: VecDeque<Lines>,
    oom: OomCounter,
    routes: Option<Arc<Routes>>,
    executable: String,
    pool: String,
    frame_limit: u32,
    buffer: Vec<u8>,
    pub(crate) deaths: DeathCounts,
    /// What is to be delivered once the lock has been released.
    pub(crate) settled: Vec<(Sink, Outcome)>,
    /// Whether the reactor has something to do that only it may do.
    pub(crate) needs_reactor: bool,
}

/// What an engine is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) machine: Machine<Vec<u8>>,
    pub(crate) epoll: Arc<Epoll>,
    pub(crate) timer: OwnedFd,
    pub(crate) forwarder: Forwarder,
    pub(crate) executable: String,
    pub(crate) pool: String,
    pub(crate) frame_limit: u32,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { machine, epoll, timer, forwarder, executable, pool, frame_limit } = parts;
        Self {
            links: machine.slots().iter().map(|_| None).collect(),
            machine,
            jobs: TaskTable::new(),
            dying: Vec::new(),
            to_spawn: VecDeque::new(),
            spawning: None,
            closed_pipes: Vec::new(),
            dirty: Vec::new(),
            epoll,
            timer,
            armed: None,
            forwarder,
            backlog: VecDeque::new(),
            oom: OomCounter::find(),
            routes: None,
            executable,
            pool,
            frame_limit,
            buffer: vec![0; 64 * 1024],
            deaths: DeathCounts::default(),
            settled: Vec::new(),
            needs_reactor: false,
        }
    }

    /// Takes a task in; [`Event::Pump`] hands it out. A task that is refused ends at once, with the reason.
    pub(crate) fn submit(&mut self, spec: TaskSpec, job: Job) -> Option<TaskKey> {
        let limit = (self.frame_limit as usize).saturating_sub(TaskHead::LEN);
        let submitted = if job.args.len() > limit {
            let message = format!(
                "its arguments are {} bytes, over the limit of {limit}; raise it with `Builder::frame_limit`",
                job.args.len(),
            );
            Err(TaskError::Encode { task: job.shown().to_owned(), message })
        } else {
            self.machine.submit(spec)
        };
        match submitted {
            Ok(key) => {
                self.jobs.insert_at(key, job);
                Some(key)
            }
            Err(error) => {
                self.settled.push((job.sink, Err(error)));
                None
            }
        }
    }

    /// Carries out what the state machine wants, until it wants nothing more.
    pub(crate) fn run(&mut self, now: Instant) {
        loop {
            let mut actions = self.machine.actions();
            if actions.is_empty() {
                self.machine.recycle(actions);
                self.flush_dirty(now);
                if self.machine.has_actions() {
                    continue;
                }
                break;
            }
            for action in actions.drain(..) {
                self.perform(now, action);
            }
            self.machine.recycle(actions);
        }
        self.arm_timer(now);
    }

    fn perform(&mut self, now: Instant, action: Action<Vec<u8>>) {
        match action {
            Action::Send { to, ticket, task, attempt, limit } => {
                self.send(now, to, ticket, task, attempt, limit)
            }
            Action::Resolve { task, result } => {
                if let Some(job) = self.jobs.take_at(task) {
                    self.settled.push((job.sink, result));
                }
            }
            Action::TakeBack(who, tickets) => self.take_back(now, who, tickets),
            Action::Inspect(who) => self.inspect(now, who),
            Action::FlagCancel(who, ticket) => {
                if let Some(link) = self.live(who) {
                    link.board.request_cancel(ticket);
                }
            }
            Action::Kill { who, why, fenced } => self.kill(now, who, why, fenced),
            Action::Retire(who) => {
                let empty = Arc::new(Vec::new());
                if let Some(link) = self.live(who)
                    && link.writer.push(Kind::Retire, 0, &[], &empty).is_ok()
                {
                    self.mark_dirty(who.index());
                }
            }
            Action::Spawn(who) => {
                self.to_spawn.push_back(who);
                self.needs_reactor = true;
            }
            Action::Broken(reason) => tracing::error!(pool = self.pool, %reason, "pool is broken"),
            Action::Drained => tracing::debug!(pool = self.pool, "pool is drained"),
        }
    }

    fn live(&mut self, who: Incarnation) -> Option<&mut Link> {
        self.links.get_mut(who.index())?.as_mut().filter(|link| link.who == who)
    }

    fn mark_dirty(&mut self, index: usize) {
        if let Some(link) = &mut self.links[index]
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(index);
        }
    }

    fn send(
        &mut self,
        now: Instant,
        to: Incarnation,
        ticket: Ticket,
        task: TaskKey,
        attempt: u32,
        limit: Option<Duration>,
    ) {
        let (Some(Some(link)), Some(job)) = (self.links.get_mut(to.index()), self.jobs.get(task)) else {
            return;
        };
        let Some(routes) = link.routes.as_ref().filter(|_| link.who == to) else { return };
        let sent = routes.find(job.entry).and_then(|index| {
            let timeout_ns =
                limit.map_or(0, |limit| u64::try_from(limit.as_nanos().max(1)).unwrap_or(u64::MAX));
            let head = TaskHead { index, attempt, task: task.id.get(), timeout_ns };
            // Offered before the frame leaves, so that the worker never finds an older word in the slot.
            link.board.offer(ticket);
            link.offered = ticket;
            link.writer.push(Kind::Task, ticket, &head.encode(), &job.args).map_err(|error| {
                TaskError::Encode { task: job.shown().to_owned(), message: error.to_string() }
            })
        });
        match sent {
            Ok(()) => self.mark_dirty(to.index()),
            Err(error) => self.machine.on(now, Event::Unsendable(to, ticket, error)),
        }
    }

    fn take_back(&mut self, now: Instant, who: Incarnation, tickets: Vec<Ticket>) {
        let Some(link) = self.live(who) else { return };
        let (mut taken, mut claimed, mut illegible) = (Vec::new(), Vec::new(), Vec::new());
        // Against the worker's direction, from the youngest to the oldest: so what the worker has claimed meanwhile is older
        // than all that was taken, and its results come in order.
        for ticket in tickets.into_iter().rev() {
            if link.board.take_back(ticket) {
                taken.push((ticket, true));
            } else if matches!(link.board.observe(ticket), Slot::Claimed { .. } | Slot::Finished) {
                claimed.push((ticket, false));
            } else {
                illegible.push(ticket);
            }
        }
        if !taken.is_empty() {
            // Before anything is read: should the worker break the protocol, these are no longer its own.
            taken.reverse();
            self.machine.on(now, Event::TookBack(who, taken));
        }
        if !claimed.is_empty() || !illegible.is_empty() {
            // All results that are older than a claim have been written: they must be known before the answer.
            self.read_results(now, who.index(), DRAIN_READS);
        }
        if !illegible.is_empty() {
            self.machine.on(now, Event::Illegible(who, illegible));
        }
        if !claimed.is_empty() {
            claimed.reverse();
            self.machine.on(now, Event::TookBack(who, claimed));
        }
    }

    fn inspect(&mut self, now: Instant, who: Incarnation) {
        if self.live(who).is_none() {
            return;
        }
        self.read_results(now, who.index(), DRAIN_READS);
        let Some((ticket, _)) = self.machine.head(who) else {
            return self
                .machine
                .on(now, Event::Observed(who, Observation { ticket: None, started: None, moving: false }));
        };
        let Some(link) = self.live(who) else { return };
        let moving = link.writer.written() != link.written_then;
        link.written_then = link.writer.written();
        let started = match link.board.observe(ticket) {
            // It became the head just now, and has not been sent.
            _ if ticket > link.offered => None,
            Slot::Offered => None,
            Slot::Claimed { since_ns } => Some(link.started_at(since_ns, now)),
            other => {
                // It may have finished since the results were read. Anything else cannot be.
                self.read_results(now, who.index(), DRAIN_READS);
                if other == Slot::Finished && self.machine.head(who).map(|(head, _)| head) != Some(ticket) {
                    return self.inspect(now, who);
                }
                let what = format!("its claim board shows {other:?} for the task it runs");
                return self.machine.on(now, Event::Violation(who, what));
            }
        };
        self.machine.on(now, Event::Observed(who, Observation { ticket: Some(ticket), started, moving }));
    }

    /// A descriptor has become ready.
    pub(crate) fn on_ready(&mut self, now: Instant, token: Token) {
        let index = token.who.index();
        match token.source {
            Source::Death => self.bury(now, token.who),
            Source::Results => {
                if self.live(token.who).is_some() {
                    self.read_results(now, index, READS_A_TURN);
                }
            }
            Source::Room => {
                if self.live(token.who).is_some() {
                    self.mark_dirty(index);
                }
            }
            Source::Output(stream) => {
                let link = match self.live(token.who) {
                    Some(_) => self.links[index].as_mut(),
                    None => self.dying.iter_mut().find(|link| link.who == token.who),
                };
                if let Some(link) = link {
                    printing::read_output(&mut self.forwarder, &mut self.buffer, link, stream, 1);
                }
            }
        }
    }

    /// The timer has run out, or the reactor was woken.
    pub(crate) fn on_tick(&mut self, now: Instant) {
        self.machine.on(now, Event::Tick);
        let due: Vec<Incarnation> =
            self.closed_pipes.iter().filter(|(at, _)| *at <= now).map(|(_, who)| *who).collect();
        self.closed_pipes.retain(|(at, _)| *at > now);
        for who in due {
            if self.live(who).is_some() {
                self.machine.on(now, Event::Violation(who, "it closed its pipes and lives on".to_owned()));
            }
        }
        self.retry_output();
    }

    fn arm_timer(&mut self, now: Instant) {
        let due =
            self.machine.deadline().into_iter().chain(self.closed_pipes.iter().map(|(at, _)| *at)).min();
        if due == self.armed {
            return;
        }
        let after = due.map(|due| due.saturating_duration_since(now));
        match process::arm_timer(self.timer.as_fd(), after) {
            Ok(()) => self.armed = due,
            Err(error) => tracing::error!(pool = self.pool, %error, "cannot set the timer"),
        }
    }

    /// The timer has fired, so it is not armed any more.
    pub(crate) fn timer_fired(&mut self) {
        let mut count = [0; 8];
        // EAGAIN: it was set again meanwhile.
        let _ = nix::unistd::read(self.timer.as_fd(), &mut count);
        self.armed = None;
    }

    fn flush_dirty(&mut self, now: Instant) {
        if !self.dirty.is_empty() {
            sigpipe::without_sigpipe(|| self.flush_all(now));
        }
    }

    fn flush_all(&mut self, now: Instant) {
        while let Some(index) = self.dirty.pop() {
            let Some(link) = &mut self.links[index] else { continue };
            link.dirty = false;
            let Some(tasks) = &mut link.tasks else { continue };
            match link.writer.flush(tasks.as_fd()) {
                Ok(Flush::Done) => {
                    if let Err(error) = tasks.unwatch() {
                        tracing::error!(pid = link.pid, %error, "cannot stop watching the task pipe");
                    }
                }
                Ok(Flush::Blocked | Flush::More) => {
                    let token = Token { who: link.who, source: Source::Room };
                    if let Err(error) = tasks.watch(EpollFlags::EPOLLOUT, token) {
                        let what = format!("its task pipe cannot be watched: {error}");
                        self.machine.on(now, Event::Violation(link.who, what));
                    }
                }
                Err(error) => {
                    // EPIPE: it is dying, or it has closed its pipes; as for the other pipe, a deadline tells.
                    tracing::debug!(pid = link.pid, %error, "cannot write to the task pipe");
                    let who = link.who;
                    link.tasks = None;
                    self.closed_pipes.push((now + CLOSED_PIPES_GRACE, who));
                }
            }
        }
    }

    /// Whether everything has ended and every process is gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.machine.is_drained()
            && self.to_spawn.is_empty()
            && self.spawning.is_none()
            && self.dying.is_empty()
            && self.links.iter().all(Option::is_none)
    }

    /// What is known of the process in a worker's place.
    pub(crate) fn look(&self, index: usize) -> Option<Glimpse> {
        let link = self.links.get(index)?.as_ref()?;
        let running = self.machine.head(link.who).and_then(|(ticket, task)| {
            let claimed = matches!(link.board.observe(ticket), Slot::Claimed { .. });
            let task = task.filter(|_| claimed)?;
            Some((task.id, self.jobs.get(task)?.shown().to_owned()))
        });
        Some(Glimpse { pid: link.pid, finished: link.finished, running })
    }
}

/// A worker process at one moment.
#[derive(Debug)]
pub(crate) struct Glimpse {
    pub(crate) pid: u32,
    /// Tasks that it has finished.
    pub(crate) finished: u64,
    /// The task that it runs.
    pub(crate) running: Option<(TaskId, String)>,
}
