//! The shell around the state machine: it turns what the operating system reports into events, and carries actions out.
//!
//! The engine has no thread of its own. Whoever has its lock drives it: the reactor when descriptors become ready, and
//! callers when they submit or cancel, so that a task is written to its worker's pipe without waking anybody else. All
//! I/O under the lock is non-blocking. What may block (spawning, callbacks, the program's own stdout) happens outside.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollFlags};
use pool_ipc::{Bundle, Flush, Kind, Slot, TaskHead, Wake};

use crate::arena::{self, ARENA, Limits, Opened};
use crate::buffer::{Args, Passage};
use crate::error::TaskError;
use crate::exit_values::Exits;
use crate::ids::TaskId;
use crate::job::{Job, JobRef, Jobs, PartArgs, Settled};
use crate::memory::OomCounter;
use crate::outcome::{Outcome, Results};
use crate::output::{Forwarder, Lines};
use crate::stats::DeathCounts;
use crate::supervisor::confined::Confined;
use crate::supervisor::engine::bells::Leading;
use crate::supervisor::engine::seeing::Seeing;
use crate::supervisor::engine::unreaped::Unreaped;
use crate::supervisor::engine::weigh::{Limits as MemoryLimits, Weigh};
use crate::supervisor::event::{
    Action, Event, Incarnation, KillReason, Observation, Span, TaskKey, TaskSpec,
};
use crate::supervisor::lead::Lead;
use crate::supervisor::link::{Link, PushError};
use crate::supervisor::machine::Machine;
use crate::supervisor::routes::Routes;
use crate::supervisor::spin::Spin;
use crate::supervisor::token::{Source, Token};
use crate::sync::{self, ready};

pub(crate) mod bells;
mod faults;
mod frames;
mod prepare;
mod printing;
mod processes;
pub(crate) mod seeing;
mod unreaped;
pub(crate) mod weigh;

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

/// Everything that the lock of the pool protects.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) machine: Machine<Results>,
    jobs: Jobs,
    /// What the state machine wants and has not been done yet.
    pending: VecDeque<Action<Results>>,
    /// By the worker's place: the incarnation that the state machine knows.
    links: Vec<Option<Link>>,
    /// Killed, replaced, and not reaped yet.
    dying: Vec<Link>,
    /// Reaped. Their memory and descriptors are given back when their successors have been spawned, for which somebody may wait.
    buried: Vec<Link>,
    unreaped: Unreaped,
    to_spawn: VecDeque<Incarnation>,
    /// The incarnation that the reactor is spawning just now, and what was decided about it meanwhile.
    spawning: Option<(Incarnation, Option<KillReason>)>,
    closed_pipes: Vec<(Instant, Incarnation)>,
    dirty: Vec<usize>,
    /// Workers with rings that may hold tasks: those whose results are to be read.
    busy: Vec<usize>,
    spin: Spin,
    cores: usize,
    epoll: Arc<Epoll>,
    pub(crate) lead: Arc<Lead>,
    /// What the leader does, if there is one.
    leader: Option<Leading>,
    /// When bells are to be armed that rest now.
    arm_bells_at: Option<Instant>,
    bells_rest_until: Instant,
    /// Tasks submitted since whoever submits has looked at the rings.
    unread: u32,
    /// The latest time that is known.
    now: Instant,
    /// Whether the reactor is not woken by results.
    muted: bool,
    timer: OwnedFd,
    armed: Option<Instant>,
    weigh: Weigh,
    /// When memory for large payloads is looked through.
    tidy_at: Option<Instant>,
    _arena: Opened,
    forwarder: Forwarder,
    backlog: VecDeque<Lines>,
    oom: OomCounter,
    routes: Option<Arc<Routes>>,
    executable: String,
    pool: String,
    frame_limit: u32,
    buffer: Vec<u8>,
    pub(crate) seeing: Seeing,
    pub(crate) deaths: DeathCounts,
    /// What the states of retired workers have left.
    pub(crate) exits: Exits,
    /// What is to be delivered once the lock has been released.
    pub(crate) settled: Vec<Settled>,
    /// Whether the reactor has something to do that only it may do.
    pub(crate) needs_reactor: bool,
    /// Whether the reactor has ended before its time.
    abandoned: bool,
}

/// What an engine is made from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) machine: Machine<Results>,
    pub(crate) epoll: Arc<Epoll>,
    pub(crate) lead: Arc<Lead>,
    pub(crate) timer: OwnedFd,
    pub(crate) forwarder: Forwarder,
    pub(crate) executable: String,
    pub(crate) pool: String,
    pub(crate) frame_limit: u32,
    pub(crate) seeing: Seeing,
    pub(crate) limits: MemoryLimits,
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { machine, epoll, lead, timer, forwarder, executable, pool, frame_limit, seeing, limits } =
            parts;
        Self {
            links: machine.slots().iter().map(|_| None).collect(),
            machine,
            jobs: Jobs::default(),
            pending: VecDeque::new(),
            dying: Vec::new(),
            buried: Vec::new(),
            unreaped: Unreaped::default(),
            to_spawn: VecDeque::new(),
            spawning: None,
            closed_pipes: Vec::new(),
            dirty: Vec::new(),
            busy: Vec::new(),
            spin: Spin::new(),
            // None to spin on in a model: a leader that spins is one that has not slept yet.
            cores: if cfg!(pool_loom) {
                1
            } else {
                std::thread::available_parallelism().map_or(1, usize::from)
            },
            epoll,
            lead,
            leader: None,
            arm_bells_at: None,
            bells_rest_until: sync::now(),
            unread: 0,
            now: sync::now(),
            muted: false,
            timer,
            armed: None,
            weigh: Weigh::new(limits),
            tidy_at: None,
            _arena: ARENA.open(Limits::SUPERVISOR),
            forwarder,
            backlog: VecDeque::new(),
            oom: OomCounter::find(),
            routes: None,
            executable,
            pool,
            frame_limit,
            buffer: vec![0; 64 * 1024],
            seeing,
            deaths: DeathCounts::default(),
            exits: Exits::default(),
            settled: Vec::new(),
            needs_reactor: false,
            abandoned: false,
        }
    }

    /// Takes a task in; [`Event::Pump`] hands it out. A task that is refused ends at once, with the reason.
    pub(crate) fn submit(&mut self, now: Instant, spec: TaskSpec, job: Job) -> Option<TaskKey> {
        let limit = (self.frame_limit as usize).saturating_sub(TaskHead::LEN);
        let submitted = if spec.size > limit {
            let message = format!(
                "its arguments are {} bytes, over the limit of {limit}; raise it with `Builder::frame_limit`",
                spec.size,
            );
            Err(TaskError::Encode { task: job.shown(), message })
        } else {
            self.machine.submit(&spec)
        };
        match submitted {
            Ok(key) => {
                self.seeing.submitted(key, spec.count, now, || job.shown());
                self.jobs.insert(key.index, job);
                Some(key)
            }
            Err(error) => {
                self.seeing.refused(spec.count, || job.shown(), &error);
                self.settled.push(Settled { sink: job.into_sink(), count: spec.count, outcome: Err(error) });
                None
            }
        }
    }

    /// Carries out what the state machine wants, until it wants nothing more.
    pub(crate) fn run(&mut self, now: Instant) {
        loop {
            self.machine.exchange(&mut self.pending);
            while let Some(action) = self.pending.pop_front() {
                self.perform(now, action);
            }
            if self.machine.has_actions() {
                continue;
            }
            self.flush_dirty(now);
            if !self.machine.has_actions() {
                break;
            }
        }
        if self.muted && self.leader.is_none() && self.machine.holds_any() {
            self.mute(now, false);
        }
        self.arm_timer(now);
    }

    fn perform(&mut self, now: Instant, action: Action<Results>) {
        #[cfg(feature = "test-faults")]
        crate::faults::strike(crate::faults::Place::Action);
        match action {
            Action::Send { to, ticket, task, first, count, attempt, limit } => {
                self.send(now, to, Span { first: ticket, count }, (task, first), attempt, limit);
            }
            Action::Resolve { task, first, count, result } => self.resolve(task, first, count, result),
            Action::Split { from, at, into } => {
                self.jobs.split(from.index, at, into.index);
                self.seeing.split(from.index, into.index);
            }
            Action::TakeBack(who, spans) => self.take_back(now, who, spans),
            Action::Inspect(who) => self.inspect(now, who),
            Action::FlagCancel(who, ticket, task) => self.flag(who, ticket, task),
            Action::Kill { who, why, fenced } => self.kill(now, who, why, fenced),
            Action::Retire(who, reason) => {
                let empty = Arc::new(Vec::new());
                if let Some(link) = self.live(who)
                    && link.push(Kind::Retire, 0, &[], &empty).is_ok()
                {
                    self.mark_dirty(who.index());
                    self.retiring(now, who, reason);
                }
            }
            Action::Spawn(who) => {
                self.to_spawn.push_back(who);
                self.needs_reactor = true;
            }
            Action::Broken(reason) => self.seeing.broken(&reason),
            Action::Drained => {
                self.seeing.drained();
                // Where there is no process whose death would wake it.
                self.needs_reactor = true;
            }
        }
    }

    fn live(&mut self, who: Incarnation) -> Option<&mut Link> {
        self.links.get_mut(who.index())?.as_mut().filter(|link| link.who == who)
    }

    fn mark_dirty(&mut self, index: usize) {
        if let Some(Some(link)) = self.links.get_mut(index)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(index);
        }
    }

    /// The job of a unit, also of one that the state machine has split off and that is not a job of its own yet.
    fn job(&self, unit: TaskKey) -> Option<JobRef<'_>> {
        self.item(unit, 0).map(|(job, _)| job)
    }

    /// The same, and which of its items is the one at this offset of the unit.
    fn item(&self, unit: TaskKey, offset: u32) -> Option<(JobRef<'_>, u32)> {
        // What it was split off from was split off before, if at all.
        let origin = |(unit, offset): (TaskKey, u32), action: &Action<Results>| match action {
            Action::Split { from, at, into } if *into == unit => (*from, offset + at),
            _ => (unit, offset),
        };
        let actions = self.pending.iter().chain(self.machine.wanted()).rev();
        let (unit, offset) = actions.fold((unit, offset), origin);
        Some((self.jobs.get(unit.index)?, offset))
    }

    /// Tells whoever wants to know how items of a unit have ended.
    fn resolve(&mut self, task: TaskKey, first: u32, count: u32, mut outcome: Outcome) {
        if let Err(error) = &mut outcome {
            self.seeing.tell_output(task.item(first), error);
        }
        self.seeing.ended(task.item(first), count, outcome.as_ref().err());
        if let Some(sink) = self.jobs.settle(task.index, first, count) {
            self.settled.push(Settled { sink, count, outcome });
        }
    }

    /// Queues items of a unit for a worker, as these tickets.
    fn send(
        &mut self,
        now: Instant,
        to: Incarnation,
        tickets: Span,
        (task, offset): (TaskKey, u32),
        attempt: u32,
        limit: Option<Duration>,
    ) {
        let (Some(Some(link)), Some(job)) = (self.links.get_mut(to.index()), self.jobs.get(task.index))
        else {
            return;
        };
        let Some(routes) = link.routes.as_ref().filter(|_| link.who == to) else { return };
        let index = match routes.find(job.entry()) {
            Ok(index) => index,
            Err(error) => return self.machine.on(now, Event::Unsendable(to, tickets, error)),
        };
        let timeout_ns = limit.map_or(0, |limit| u64::try_from(limit.as_nanos().max(1)).unwrap_or(u64::MAX));
        let queued_us = self.seeing.born(task.index);
        let head = TaskHead { index, attempt, queued_us, task: task.item(offset).get(), timeout_ns };
        self.seeing.sent(to, link.pid, task.item(offset), tickets.count, attempt);
        // Offered before the frame leaves, so that the worker never finds an older word in the slot.
        link.board.offer_all(tickets.first, tickets.count);
        link.offered = tickets.end() - 1;
        // What is free again first, so that its next result has a place.
        let news = link.push_news();
        let tidy_at = &mut self.tidy_at;
        let mut push = |args: &Args| match args.passage() {
            Passage::Queue(heap) => link.push(Kind::Task, tickets.first, &head.encode(), heap),
            Passage::Copy(bytes) => link.push_copy(Kind::Task, tickets.first, &head.encode(), bytes),
            Passage::At(..) => {
                tidy_at.get_or_insert(now + arena::IDLE);
                link.push_shared(tickets.first, &head, args)
            }
        };
        let pushed = match job {
            JobRef::Single(cell) => cell.with_args(&mut push).unwrap_or(Ok(())),
            JobRef::Part(part) => match &part.args {
                PartArgs::One(args) => push(args),
                PartArgs::Many(packed, from) if tickets.count == 1 => {
                    link.push_copy(Kind::Task, tickets.first, &head.encode(), packed.item(from + offset))
                }
                PartArgs::Many(packed, from) => {
                    let items = packed.items(from + offset, tickets.count);
                    link.push_copy(Kind::Bundle, tickets.first, &Bundle::start(head, tickets.count), items)
                }
            },
        };
        let pushed = news.and(pushed);
        match pushed {
            Ok(()) => {
                self.note_busy(to.index());
                self.note_work(now, to.index());
            }
            Err(PushError::Frame(error)) => {
                let error = TaskError::Encode { task: job.shown(), message: error.to_string() };
                self.machine.on(now, Event::Unsendable(to, tickets, error));
            }
            Err(PushError::Ring(error)) => self.machine.on(now, Event::Violation(to, error.to_string())),
        }
    }

    fn take_back(&mut self, now: Instant, who: Incarnation, spans: Vec<Span>) {
        let Some(link) = self.live(who) else { return };
        let (mut taken, mut claimed, mut illegible) = (Vec::new(), Vec::new(), Vec::new());
        // Against the worker's direction, from the youngest to the oldest: so what the worker has claimed meanwhile is older
        // than all that was taken, and its results come in order.
        for mut rest in spans.into_iter().rev() {
            while rest.count > 0 {
                let count = link.board.take_back_span(rest.first, rest.count);
                rest.count -= count;
                if count > 0 {
                    taken.push((Span { first: rest.end(), count }, true));
                    link.parcels.taken_back(rest.end(), count);
                }
                let Some(last) = rest.tickets().next_back() else { break };
                if matches!(link.board.observe(last), Slot::Claimed { .. } | Slot::Finished) {
                    // So are the older ones.
                    claimed.push((rest, false));
                    break;
                }
                illegible.push(Span { first: last, count: 1 });
                rest.count -= 1;
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
            if let Some(youngest) = claimed.first().map(|(span, _)| span.end() - 1) {
                self.find_results(now, who, youngest);
            }
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
        let Some(ticket) = self.machine.head(who).map(|head| head.span.first) else {
            return self
                .machine
                .on(now, Event::Observed(who, Observation { ticket: None, started: None, moving: false }));
        };
        let Some(link) = self.live(who) else { return };
        let moving = link.sent() != link.sent_then;
        link.sent_then = link.sent();
        let started = match link.board.observe(ticket) {
            // It became the head just now, and has not been sent.
            _ if ticket > link.offered => None,
            Slot::Offered => None,
            Slot::Claimed { since_ns } => {
                if let Some(why) = link.standstill() {
                    return self.machine.on(now, Event::Violation(who, why.to_owned()));
                }
                Some(link.started_at(since_ns, now))
            }
            other => {
                // It may have finished since the results were read. Anything else cannot be.
                self.read_results(now, who.index(), DRAIN_READS);
                if other == Slot::Finished {
                    self.find_results(now, who, ticket + 1);
                }
                if other == Slot::Finished
                    && self.machine.head(who).map(|head| head.span.first) != Some(ticket)
                {
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
                if let Some(link) = self.live(token.who) {
                    if link.rings.is_some() {
                        self.answer_the_door(now, index);
                        // The worker may have been waiting for room.
                        self.mark_dirty(index);
                    }
                    self.read_results(now, index, READS_A_TURN);
                    // A hello that is larger than the ring comes in pieces.
                    if self.live(token.who).is_some_and(|link| link.routes.is_none() && link.arm(Wake::Each))
                    {
                        self.read_results(now, index, READS_A_TURN);
                    }
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
        if self.machine.is_to_look_again(now) {
            self.read_rings();
        }
        self.hear_who_was_in_time(now);
        self.machine.on(now, Event::Tick);
        self.arm_bells_in_time(now);
        let due: Vec<Incarnation> =
            self.closed_pipes.iter().filter(|(at, _)| *at <= now).map(|(_, who)| *who).collect();
        self.closed_pipes.retain(|(at, _)| *at > now);
        for who in due {
            if self.live(who).is_some() {
                self.machine.on(now, Event::Violation(who, "it closed its pipes and lives on".to_owned()));
            }
        }
        self.retry_output();
        self.look_for_unreaped(now);
        self.weigh(now);
        self.tidy(now);
    }

    /// Limits may be exceeded only because nobody has looked: this program was stopped, or had no processor. So who starts or
    /// builds a state is heard before time is called. For tasks the claim board says it; for a batch, what has come by now counts.
    fn hear_who_was_in_time(&mut self, now: Instant) {
        if self.machine.deadline().is_none_or(|due| due > now) {
            return;
        }
        let is_batch_due = self.machine.is_batch_due(now);
        for index in 0..self.links.len() {
            let Some(link) = &mut self.links[index] else { continue };
            // What is in rings has been read by then.
            let counts = is_batch_due && link.rings.is_none() && self.machine.load(index) > 0;
            let (who, is_awaited) = (link.who, link.routes.is_none() || link.preparing || counts);
            if is_awaited && (link.rings.is_none() || link.has_news()) {
                self.on_ready(now, Token { who, source: Source::Results });
            }
        }
    }

    /// Gives memory for large payloads back that has not been used for long, and has workers do so.
    fn tidy(&mut self, now: Instant) {
        if self.tidy_at.is_none_or(|at| at > now) {
            return;
        }
        self.tidy_at = ARENA.trim(now);
        for index in 0..self.links.len() {
            let Some(link) = &mut self.links[index] else { continue };
            if link.parcels.has_mapped() {
                self.tidy_at.get_or_insert(now + arena::IDLE);
            }
            let who = link.who;
            match link.push_news() {
                Ok(true) => self.mark_dirty(index),
                Ok(false) => {}
                Err(error) => self.machine.on(now, Event::Violation(who, error.to_string())),
            }
        }
    }

    fn arm_timer(&mut self, now: Instant) {
        let due = self
            .machine
            .deadline()
            .into_iter()
            .chain(self.closed_pipes.iter().map(|(at, _)| *at))
            .chain(self.tidy_at)
            .chain(self.weigh.due())
            .chain(self.unreaped.due())
            .chain(self.arm_bells_at)
            .min();
        // One that fires too early is set again then. An idle pool has none.
        if due == self.armed || due.zip(self.armed).is_some_and(|(due, armed)| armed <= due) {
            return;
        }
        let after = due.map(|due| due.saturating_duration_since(now));
        match ready::arm_timer(self.timer.as_fd(), after) {
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
        while let Some(index) = self.dirty.pop() {
            let Some(link) = &mut self.links[index] else { continue };
            link.dirty = false;
            if link.tasks.is_none() {
                continue;
            }
            let flushed = link.flush();
            let Some(tasks) = &mut link.tasks else { continue };
            match flushed {
                Ok(Flush::Done) => {
                    if let Err(error) = tasks.unwatch() {
                        tracing::error!(pid = link.pid, %error, "cannot stop watching the task pipe");
                    }
                }
                // The worker rings when there is room in its ring.
                Ok(Flush::Blocked | Flush::More) if link.rings.is_some() => {}
                Ok(Flush::Blocked | Flush::More) => {
                    let token = Token { who: link.who, source: Source::Room };
                    if let Err(error) = tasks.watch(EpollFlags::EPOLLOUT, token) {
                        let what = format!("its task pipe cannot be watched: {error}");
                        self.machine.on(now, Event::Violation(link.who, what));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    self.machine.on(now, Event::Violation(link.who, error.to_string()));
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

    /// What the dead leave in the file system, to be removed without the lock, before [`clear_away`](Self::clear_away).
    pub(crate) fn leavings(&mut self) -> Vec<Confined> {
        let left = self.buried.iter_mut().filter(|link| link.confined.leaves_anything());
        left.map(|link| std::mem::take(&mut link.confined)).collect()
    }

    /// Gives back what belonged to the dead.
    pub(crate) fn clear_away(&mut self) {
        self.buried.clear();
    }

    /// Whether everything has ended and every process is gone.
    pub(crate) fn is_gone(&self) -> bool {
        let is_gone = self.machine.is_drained()
            && self.to_spawn.is_empty()
            && self.spawning.is_none()
            && self.dying.is_empty()
            && !self.unreaped.has_orphans()
            && self.buried.is_empty()
            && self.links.iter().all(Option::is_none);
        is_gone || self.abandoned
    }

    /// What is known of the process in a worker's place.
    pub(crate) fn look(&self, index: usize) -> Option<Glimpse> {
        let link = self.links.get(index)?.as_ref()?;
        let running = self.machine.head(link.who).and_then(|head| {
            let ticket = head.span.first;
            let claimed = matches!(link.board.observe(ticket), Slot::Claimed { .. });
            let (task, _) = head.unit.filter(|_| claimed)?;
            Some((head.task(ticket)?, self.job(task)?.shown()))
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
