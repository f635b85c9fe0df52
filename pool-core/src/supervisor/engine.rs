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

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use pool_ipc::{Failure, Fill, Flush, Hello, Kind, MessageError, Slot, TaskHead};

use crate::error::{BrokenReason, Death, DeathCause, TaskError};
use crate::memory::OomCounter;
use crate::outcome::{Cell, Inbox, Outcome};
use crate::output::{Forwarder, Lines, OutputStream};
use crate::stats::DeathCounts;
use crate::supervisor::event::{
    Action, Autopsy, Event, Incarnation, KillReason, Observation, TaskKey, TaskSpec, Ticket,
};
use crate::supervisor::launch::{Launched, may_pass};
use crate::supervisor::link::Link;
use crate::supervisor::machine::Machine;
use crate::supervisor::routes::Routes;
use crate::supervisor::table::TaskTable;
use crate::supervisor::token::{Source, Token};
use crate::sys::process;
use crate::task::TaskEntry;

/// How long a worker may live on after it has closed its pipes.
const CLOSED_PIPES_GRACE: Duration = Duration::from_millis(500);
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

    /// Takes a task in; [`Event::Pump`] hands it out.
    ///
    /// # Errors
    /// The job comes back with the error that it ends with.
    pub(crate) fn submit(&mut self, spec: TaskSpec, job: Job) -> Result<TaskKey, (TaskError, Job)> {
        let length = job.args.len().saturating_add(TaskHead::LEN);
        if length > self.frame_limit as usize {
            let message = format!(
                "its arguments are {} bytes, over the limit of {} (frame_limit); raise it with `Builder::frame_limit`",
                job.args.len(),
                self.frame_limit as usize - TaskHead::LEN.min(self.frame_limit as usize),
            );
            return Err((TaskError::Encode { task: job.shown().to_owned(), message }, job));
        }
        match self.machine.submit(spec) {
            Ok(key) => {
                self.jobs.insert_at(key, job);
                Ok(key)
            }
            Err(error) => Err((error, job)),
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
            Action::Send { to, ticket, task, attempt, limit } => self.send(now, to, ticket, task, attempt, limit),
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
        let (Some(Some(link)), Some(job)) = (self.links.get_mut(to.index()), self.jobs.get(task)) else { return };
        let Some(routes) = link.routes.as_ref().filter(|_| link.who == to) else { return };
        let sent = routes.find(job.entry).and_then(|index| {
            let timeout_ns = limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
            let head = TaskHead { index, attempt, task: task.id.get(), timeout_ns };
            // Offered before the frame leaves, so that the worker never finds an older word in the slot.
            link.board.offer(ticket);
            link.writer.push(Kind::Task, ticket, &head.encode(), &job.args).map_err(|error| TaskError::Encode {
                task: job.shown().to_owned(),
                message: error.to_string(),
            })
        });
        match sent {
            Ok(()) => self.mark_dirty(to.index()),
            Err(error) => self.machine.on(now, Event::Unsendable(to, ticket, error)),
        }
    }

    fn take_back(&mut self, now: Instant, who: Incarnation, tickets: Vec<Ticket>) {
        let Some(link) = self.live(who) else { return };
        let answers: Vec<(Ticket, bool)> =
            tickets.into_iter().map(|ticket| (ticket, link.board.take_back(ticket))).collect();
        if answers.iter().any(|(_, unclaimed)| !unclaimed) {
            // It was claimed, so all older results have been written: they must be known before the answer.
            self.read_results(now, who.index(), usize::MAX);
        }
        self.machine.on(now, Event::TookBack(who, answers));
    }

    fn inspect(&mut self, now: Instant, who: Incarnation) {
        if self.live(who).is_none() {
            return;
        }
        self.read_results(now, who.index(), usize::MAX);
        let Some((ticket, _)) = self.machine.head(who) else {
            return self.machine.on(now, Event::Observed(who, Observation { ticket: None, started: None, moving: false }));
        };
        let Some(link) = self.live(who) else { return };
        let moving = link.writer.written() != link.written_then;
        link.written_then = link.writer.written();
        let started = match link.board.observe(ticket) {
            Slot::Offered => None,
            Slot::Claimed { since_ns } => Some(link.started_at(since_ns, now)),
            other => {
                // It may have finished since the results were read. Anything else cannot be.
                self.read_results(now, who.index(), usize::MAX);
                if other == Slot::Finished && self.machine.head(who).map(|(head, _)| head) != Some(ticket) {
                    return self.inspect(now, who);
                }
                let what = format!("its claim board shows {other:?} for the task it runs");
                return self.machine.on(now, Event::Violation(who, what));
            }
        };
        self.machine.on(now, Event::Observed(who, Observation { ticket: Some(ticket), started, moving }));
    }

    fn kill(&mut self, now: Instant, who: Incarnation, why: KillReason, fenced: bool) {
        if let Some(place) = self.to_spawn.iter().position(|waiting| *waiting == who) {
            self.to_spawn.remove(place);
            if !fenced {
                let death = unborn(who, "it could not be spawned in time (start_timeout)".to_owned());
                self.machine.on(now, Event::Died(who, Autopsy { death, started: false }));
            }
            return;
        }
        if let Some((spawning, decided)) = &mut self.spawning
            && *spawning == who
        {
            decided.get_or_insert(why);
            return;
        }
        let Some(link) = self.live(who) else { return };
        tracing::debug!(pid = link.pid, worker = %who.worker, ?why, "killing worker");
        link.kill(why);
        if fenced && let Some(mut link) = self.links[who.index()].take() {
            link.fenced = true;
            // Nothing that it still writes is wanted; closing the pipes frees them now.
            link.results = None;
            link.tasks = None;
            self.dying.push(link);
        }
    }

    /// The next worker to spawn; only the reactor asks, and answers with [`launched`](Self::launched).
    pub(crate) fn next_spawn(&mut self) -> Option<Incarnation> {
        let who = self.to_spawn.pop_front()?;
        self.spawning = Some((who, None));
        Some(who)
    }

    /// What became of a spawn.
    pub(crate) fn launched(&mut self, now: Instant, who: Incarnation, result: io::Result<Launched>) {
        let decided = self.spawning.take().and_then(|(_, decided)| decided);
        let launched = match result {
            Ok(launched) => launched,
            Err(error) => return self.not_launched(now, who, &error),
        };
        tracing::debug!(pool = self.pool, worker = %who.worker, pid = launched.pid, "worker spawned");
        let mut link = Link::new(who, launched, self.frame_limit);
        if let Err(error) = self.watch(&link) {
            link.kill(KillReason::Terminated);
            // SIGKILL cannot be refused; the wait is short, and without epoll there is nobody else to do it.
            while matches!(link.reap(), Ok(None)) {
                std::thread::yield_now();
            }
            return self.not_launched(now, who, &error);
        }
        if let Some(why) = decided {
            link.kill(why);
        }
        if self.machine.expects(who) {
            self.links[who.index()] = Some(link);
        } else {
            if link.killed.is_none() {
                link.kill(KillReason::Terminated);
            }
            link.fenced = true;
            self.dying.push(link);
        }
    }

    fn not_launched(&mut self, now: Instant, who: Incarnation, error: &io::Error) {
        tracing::warn!(pool = self.pool, worker = %who.worker, %error, "worker cannot be spawned");
        let event = if may_pass(error) || self.machine.was_ever_ready() {
            Event::SpawnFailed(who, unborn(who, format!("it cannot be spawned: {error}")))
        } else {
            let (executable, why) = (self.executable.clone(), error.to_string());
            Event::Unusable(who, BrokenReason::CannotStart { executable, why })
        };
        self.machine.on(now, event);
    }

    fn watch(&self, link: &Link) -> io::Result<()> {
        let add = |fd: &OwnedFd, source| {
            let token = Token { who: link.who, source }.encode();
            self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).map_err(io::Error::from)
        };
        add(&link.pidfd, Source::Death)?;
        for (fd, source) in [
            (&link.results, Source::Results),
            (&link.stdout.fd, Source::Output(OutputStream::Stdout)),
            (&link.stderr.fd, Source::Output(OutputStream::Stderr)),
        ] {
            if let Some(fd) = fd {
                add(fd, source)?;
            }
        }
        Ok(())
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
                    read_output(&self.epoll, &mut self.forwarder, &mut self.buffer, link, stream, 1);
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
        let due = self.machine.deadline().into_iter().chain(self.closed_pipes.iter().map(|(at, _)| *at)).min();
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

    /// Reads what a worker has written, `reads` times at most, and reports it.
    fn read_results(&mut self, now: Instant, index: usize, reads: usize) {
        for _ in 0..reads {
            let Some(Some(link)) = self.links.get_mut(index) else { return };
            let who = link.who;
            let Some(results) = &link.results else { return };
            let filled = match link.reader.fill(results.as_fd()) {
                Ok(filled) => filled,
                Err(error) => {
                    tracing::warn!(pid = link.pid, %error, "cannot read the result pipe");
                    Fill::Eof
                }
            };
            match filled {
                Fill::WouldBlock => return,
                Fill::Eof => {
                    // It is dying, and the pidfd will tell; or it has closed its pipes, which a deadline finds out.
                    link.results = None;
                    self.closed_pipes.push((now + CLOSED_PIPES_GRACE, who));
                    return;
                }
                Fill::Bytes(_) => {
                    if !self.report_frames(now, index) {
                        return;
                    }
                }
            }
        }
    }

    /// Reports the whole frames that have been read; false once the worker has broken the protocol.
    fn report_frames(&mut self, now: Instant, index: usize) -> bool {
        loop {
            let Some(Some(link)) = self.links.get_mut(index) else { return false };
            let who = link.who;
            let hello = link.routes.is_some();
            let frame = match link.reader.next_frame() {
                Ok(None) => return true,
                Ok(Some(frame)) => frame,
                Err(error) => {
                    link.results = None;
                    self.machine.on(now, Event::Violation(who, format!("a frame that makes no sense: {error}")));
                    return false;
                }
            };
            match (frame.kind, hello) {
                (Kind::Done, true) => {
                    let (ticket, payload) = (frame.ticket, frame.payload.into_owned());
                    link.finished += 1;
                    self.machine.on(now, Event::Finished(who, ticket, payload));
                }
                (Kind::Failed, true) => {
                    let (ticket, failure) = (frame.ticket, Failure::decode(&frame.payload));
                    link.finished += 1;
                    let event = match failure {
                        Ok(failure) => Event::Failed(who, ticket, self.task_error(who, failure)),
                        Err(error) => Event::Violation(who, format!("a failure report that makes no sense: {error}")),
                    };
                    self.machine.on(now, event);
                }
                (Kind::Bye, true) => {}
                (Kind::Hello, false) => {
                    let hello = Hello::decode(&frame.payload);
                    self.greet(now, who, hello);
                }
                (kind, _) => {
                    link.results = None;
                    self.machine.on(now, Event::Violation(who, format!("an unexpected {kind:?} frame")));
                    return false;
                }
            }
        }
    }

    fn greet(&mut self, now: Instant, who: Incarnation, hello: Result<Hello, MessageError>) {
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => {
                let why = match error {
                    MessageError::Version { theirs, ours } => format!(
                        "it speaks protocol version {theirs}, this program speaks {ours}; \
                         build both with the same version of pool-core"
                    ),
                    other => format!("its hello makes no sense: {other}"),
                };
                let executable = self.executable.clone();
                let reason = BrokenReason::Incompatible { executable, why };
                return self.machine.on(now, Event::Unusable(who, reason));
            }
        };
        let routes = match &self.routes {
            Some(routes) if routes.made_from(&hello.tasks) => Arc::clone(routes),
            _ => Arc::new(Routes::new(&self.executable, hello.tasks)),
        };
        self.routes = Some(Arc::clone(&routes));
        let discard = &mut self.buffer;
        let Some(link) = self.links.get_mut(who.index()).and_then(Option::as_mut) else { return };
        link.set_base(hello.base_max_rss);
        // What it printed before it was a worker (a banner of its main, say) is not for anybody.
        if let Some(fd) = &link.stdout.fd {
            while matches!(nix::unistd::read(fd, discard), Ok(read) if read == discard.len()) {}
        }
        link.routes = Some(routes);
        tracing::debug!(pool = self.pool, worker = %who.worker, pid = link.pid, "worker ready");
        self.machine.on(now, Event::Ready(who));
    }

    fn task_error(&self, who: Incarnation, failure: Failure) -> TaskError {
        let job = self.machine.head(who).and_then(|(_, task)| task).and_then(|task| self.jobs.get(task));
        let task = job.map_or_else(|| "(ended)".to_owned(), |job| job.shown().to_owned());
        match failure {
            Failure::Panicked { message, location, backtrace } => TaskError::Panicked { message, location, backtrace },
            Failure::Decode(message) => TaskError::Decode { task, message },
            Failure::Encode(message) => TaskError::Encode { task, message },
            Failure::State(message) => TaskError::State { task, message },
            Failure::UnknownTask { .. } => TaskError::UnknownTask { task, executable: self.executable.clone() },
        }
    }

    /// A worker is dead: deliver what it had written, find out what it was doing, and tell the state machine.
    fn bury(&mut self, now: Instant, who: Incarnation) {
        if let Some(place) = self.dying.iter().position(|link| link.who == who) {
            let link = &self.dying[place];
            // Before it is reaped: afterwards its number may belong to somebody else.
            link.kill_group();
            if let Some(remains) = self.reap(who) {
                let mut link = self.dying.swap_remove(place);
                self.last_words(&mut link);
                let death = link.death(&remains, &mut self.oom);
                self.deaths.count(&death.cause);
            }
            return;
        }
        let Some(link) = self.live(who) else { return };
        link.kill_group();
        self.read_results(now, who.index(), usize::MAX);
        let Some(remains) = self.reap(who) else { return };
        let Some(mut link) = self.links.get_mut(who.index()).and_then(Option::take) else { return };
        self.last_words(&mut link);
        let mut death = link.death(&remains, &mut self.oom);
        let mut started = false;
        if let Some((ticket, task)) = self.machine.head(who) {
            let slot = link.board.observe(ticket);
            // Whatever else than "offered" is in the slot, scribbling included: the task may have started.
            started = slot != Slot::Offered;
            if started {
                if let Slot::Claimed { since_ns } = slot {
                    death.ran_for = Some(now.saturating_duration_since(link.started_at(since_ns, now)));
                }
                if let Some(job) = task.and_then(|task| self.jobs.get(task)) {
                    death.task = Some(job.shown().to_owned());
                    death.task_id = task.map(|task| task.id);
                }
            }
        }
        let retired = self.machine.is_retiring(who) && death.cause == DeathCause::Exited(0);
        if !retired {
            self.deaths.count(&death.cause);
            tracing::warn!(pool = self.pool, worker = %who.worker, pid = link.pid, cause = %death.cause, task = death.task, "worker died");
        }
        self.machine.on(now, Event::Died(who, Autopsy { death, started }));
    }

    fn reap(&mut self, who: Incarnation) -> Option<process::Remains> {
        let link = match self.dying.iter().find(|link| link.who == who) {
            Some(link) => link,
            None => self.links.get(who.index())?.as_ref()?,
        };
        match link.reap() {
            Ok(remains) => remains,
            Err(error) => {
                tracing::error!(pid = link.pid, %error, "cannot wait for a dead worker");
                Some(process::Remains { status: None, max_rss: None })
            }
        }
    }

    /// Reads what a dead worker had printed.
    fn last_words(&mut self, link: &mut Link) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            // A pipe holds no more than this; a grandchild that has escaped may go on writing for ever.
            read_output(&self.epoll, &mut self.forwarder, &mut self.buffer, link, stream, 8);
            let (worker, pid, greeted) = (link.who.worker, link.pid, link.routes.is_some());
            let left = link.stream(stream);
            let stalled = left.stalled.take();
            let last = left.splitter.finish().filter(|_| greeted || stream == OutputStream::Stderr);
            for bytes in stalled.into_iter().chain(last) {
                let lines = Lines { worker, pid, stream, bytes };
                if let Err(lines) = self.forwarder.send(lines) {
                    if self.backlog.len() < BACKLOG {
                        self.backlog.push_back(lines);
                    } else {
                        tracing::warn!(pool = self.pool, pid, "output of a dead worker is dropped: this program's own output is blocked");
                    }
                }
            }
        }
    }

    /// Tries again to forward what found the queue full.
    fn retry_output(&mut self) {
        while let Some(lines) = self.backlog.pop_front() {
            if let Err(lines) = self.forwarder.send(lines) {
                self.backlog.push_front(lines);
                return;
            }
        }
        for link in self.links.iter_mut().flatten().chain(&mut self.dying) {
            for stream in [OutputStream::Stdout, OutputStream::Stderr] {
                let (worker, pid, who) = (link.who.worker, link.pid, link.who);
                let state = link.stream(stream);
                let Some(bytes) = state.stalled.take() else { continue };
                match self.forwarder.send(Lines { worker, pid, stream, bytes }) {
                    Ok(()) => {
                        let token = Token { who, source: Source::Output(stream) }.encode();
                        if let Some(fd) = &state.fd
                            && let Err(error) = self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
                        {
                            tracing::error!(pid, %error, "cannot watch the output of a worker");
                        }
                    }
                    Err(lines) => {
                        state.stalled = Some(lines.bytes);
                        return;
                    }
                }
            }
        }
    }

    fn flush_dirty(&mut self, now: Instant) {
        while let Some(index) = self.dirty.pop() {
            let Some(link) = &mut self.links[index] else { continue };
            link.dirty = false;
            let Some(tasks) = &link.tasks else { continue };
            match link.writer.flush(tasks.as_fd()) {
                Ok(Flush::Done) => self.watch_room(index, false),
                Ok(Flush::Blocked | Flush::More) => self.watch_room(index, true),
                Err(error) => {
                    // EPIPE: it is dying, or it has closed its pipes; as for the other pipe, a deadline tells.
                    tracing::debug!(pid = link.pid, %error, "cannot write to the task pipe");
                    let who = link.who;
                    link.tasks = None;
                    link.watching_room = false;
                    self.closed_pipes.push((now + CLOSED_PIPES_GRACE, who));
                }
            }
        }
    }

    fn watch_room(&mut self, index: usize, wanted: bool) {
        let Some(link) = &mut self.links[index] else { return };
        let Some(tasks) = link.tasks.as_ref().filter(|_| link.watching_room != wanted) else { return };
        let token = Token { who: link.who, source: Source::Room }.encode();
        let changed = if wanted {
            self.epoll.add(tasks, EpollEvent::new(EpollFlags::EPOLLOUT, token))
        } else {
            self.epoll.delete(tasks)
        };
        match changed {
            Ok(()) => link.watching_room = wanted,
            Err(error) => tracing::error!(pid = link.pid, %error, "cannot watch the task pipe"),
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

    /// Hands the forwarder over, with the last output queued, so that it can be waited for outside of the lock.
    pub(crate) fn take_forwarder(&mut self) -> Forwarder {
        let mut forwarder = std::mem::replace(
            &mut self.forwarder,
            Forwarder::new(crate::output::Output::Null, self.pool.clone(), Arc::new(|| {})),
        );
        while let Some(lines) = self.backlog.pop_front() {
            if forwarder.send(lines).is_err() {
                break;
            }
        }
        forwarder
    }

    /// The process and the present task of each worker.
    pub(crate) fn look(&self, index: usize) -> Option<(u32, u64, Option<(TaskKey, String)>)> {
        let link = self.links.get(index)?.as_ref()?;
        let running = self.machine.head(link.who).and_then(|(ticket, task)| {
            let claimed = matches!(link.board.observe(ticket), Slot::Claimed { .. });
            task.filter(|_| claimed).and_then(|task| Some((task, self.jobs.get(task)?.shown().to_owned())))
        });
        Some((link.pid, link.finished, running))
    }
}

/// A report for a worker that never was a process.
fn unborn(who: Incarnation, why: String) -> Death {
    Death {
        pid: 0,
        worker: who.worker,
        cause: DeathCause::StartFailed { why },
        task: None,
        task_id: None,
        ran_for: None,
        peak_rss: None,
        stderr_tail: String::new(),
    }
}

/// Reads an output stream, `reads` times at most, and forwards whole lines.
fn read_output(
    epoll: &Epoll,
    forwarder: &mut Forwarder,
    buffer: &mut [u8],
    link: &mut Link,
    stream: OutputStream,
    reads: usize,
) {
    let (worker, pid, greeted) = (link.who.worker, link.pid, link.routes.is_some());
    for _ in 0..reads {
        let state = match stream {
            OutputStream::Stdout => &mut link.stdout,
            OutputStream::Stderr => &mut link.stderr,
        };
        let Some(fd) = state.fd.as_ref().filter(|_| state.stalled.is_none()) else { return };
        let bytes = match nix::unistd::read(fd, buffer) {
            Ok(0) => {
                state.fd = None;
                return;
            }
            Ok(read) => &buffer[..read],
            Err(nix::errno::Errno::EINTR) => continue,
            Err(nix::errno::Errno::EAGAIN) => return,
            Err(error) => {
                tracing::warn!(pid, %error, "cannot read the output of a worker");
                state.fd = None;
                return;
            }
        };
        if stream == OutputStream::Stderr {
            link.tail.push(bytes);
        } else if !greeted {
            continue;
        }
        let Some(bytes) = state.splitter.feed(bytes) else { continue };
        if let Err(lines) = forwarder.send(Lines { worker, pid, stream, bytes }) {
            // The worker will block when its pipe is full, as it would on a terminal that does not scroll.
            // Taken out of epoll altogether: a hang-up would be reported without end.
            state.stalled = Some(lines.bytes);
            if let Err(error) = epoll.delete(fd) {
                tracing::error!(pid, %error, "cannot pause the output of a worker");
            }
        }
    }
}
