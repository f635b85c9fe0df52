//! The worker's loop: claim, run, answer.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use pool_ipc::{Board, Boot, Bundle, Failure, HEADER_LEN, Kind, Locator, Region, TaskHead, write_frame};

use crate::buffer::Buffer;
use crate::context::{CancelProbe, TaskContext};
use crate::fork::Origin;
use crate::ids::{TaskId, WorkerId};
use crate::state::States;
use crate::sys::confine::CpuTimer;
use crate::sys::passing::lent;
use crate::sys::setup;
use crate::task::{self, RunContext, RunError, TaskEntry};
use crate::told::{caught, discard};
use crate::transport::pace_note;
use crate::worker::marks::{self, Marks};
use crate::worker::measure::Measure;
use crate::worker::panics;
use crate::worker::parcels::Parcels;
use crate::worker::wire::{Inlet, Outlet, Source};

/// After this long, the supervisor is told of results even if it has asked to be told late only.
const LONG_NS: u64 = 200_000;

/// Exit status of a worker that cannot go on, for a reason that it has printed.
const GAVE_UP: i32 = 102;

/// Exit status of a worker that has found its claim board or its task ring overwritten when it was about to start a task. The
/// supervisor learns from it that this task has not been started.
pub(crate) const SCRIBBLED: i32 = 103;

pub(super) struct Worker {
    pub(super) outlet: Outlet,
    parcels: Parcels,
    pub(super) board: Board,
    frame_limit: usize,
    pub(super) states: States,
    pub(super) context: TaskContext,
    /// The ticket of the task that is running, for the cancel probe.
    current: Arc<AtomicU64>,
    /// When the latest task was claimed.
    claimed_ns: u64,
    pub(super) gauge: Gauge,
    output: Buffer,
    pub(super) measure: Option<Measure>,
    marks: Option<Marks>,
    /// What limits the processor time of each task.
    cpu: Option<CpuTimer>,
    /// This process, as opposed to one that a task has forked.
    pub(super) origin: Origin,
}

/// Measures how long tasks take that come together, so that the supervisor need not conclude it from when it hears of them:
/// a worker that sleeps, or waits for a core, is slow to begin and not slow.
#[derive(Default)]
pub(super) struct Gauge {
    since: Option<Instant>,
    tasks: u32,
    /// How often something was measured, so that the same pace is seen to be news.
    round: u8,
}

/// Fewer bytes than two tasks have: the pace of a task that comes alone is not worth a look at the clock.
const ALONE: usize = 2 * HEADER_LEN + 2 * TaskHead::LEN;

impl Gauge {
    /// Tasks that have come together are about to be run.
    fn start(&mut self) {
        if self.since.is_none() {
            (self.since, self.tasks) = (Some(Instant::now()), 0);
        }
    }

    /// What has come together has been held up by something else than the tasks: what was measured means nothing.
    pub(super) fn forget(&mut self) {
        self.since = None;
    }

    /// They have been run: what is to be noted.
    fn stop(&mut self) -> Option<u64> {
        let since = self.since.take()?;
        let spent = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let pace = spent.checked_div(u64::from(self.tasks))?;
        self.round = self.round.wrapping_add(1);
        Some(pace_note(pace, self.round))
    }
}

/// Works until the supervisor says otherwise or is gone.
pub(super) fn serve(
    boot: &Boot,
    hello: &[u8],
    region: &Region,
    mut inlet: Inlet,
    outlet: Outlet,
    parcels: Parcels,
    cpu: Option<CpuTimer>,
) -> ! {
    let current = Arc::new(AtomicU64::new(0));
    let probe: CancelProbe = {
        let (board, current) = (region.board(), Arc::clone(&current));
        Arc::new(move |_| board.cancel_requested(current.load(Ordering::Relaxed)))
    };
    let mut worker = Worker {
        outlet,
        parcels,
        board: region.board(),
        frame_limit: boot.frame_limit as usize,
        states: States::new(),
        context: TaskContext::of_worker(WorkerId::new(boot.worker), probe),
        current,
        claimed_ns: pool_ipc::now_ns(),
        gauge: Gauge::default(),
        output: Buffer::limited(boot.frame_limit as usize),
        measure: Measure::wanted(boot, region),
        marks: Marks::wanted(boot),
        cpu,
        origin: Origin::here(),
    };
    if boot.states.is_empty() {
        // The hello first: somebody waits for it.
        worker.outlet.send(Kind::Hello, 0, hello);
    } else {
        worker.prepare_all(&boot.states);
        worker.outlet.send(Kind::Hello, 0, hello);
    }
    loop {
        if inlet.reader.unread() > ALONE {
            worker.gauge.start();
        }
        while let Some(frame) = sound(inlet.reader.next_frame()) {
            match frame.kind {
                Kind::Task => {
                    let (head, arguments) = sound(TaskHead::split(&frame.payload));
                    worker.run(frame.ticket, &head, arguments);
                }
                Kind::TaskAt => {
                    let (head, place) = sound(TaskHead::split(&frame.payload));
                    let (locator, _) = sound(Locator::split(place));
                    worker.run_at(frame.ticket, &head, &locator);
                }
                Kind::Release => worker.parcels.released(&sound(Locator::split(&frame.payload)).0),
                Kind::Forget => {
                    let id = sound(frame.payload.as_ref().try_into().map(u64::from_le_bytes));
                    worker.parcels.forget(id);
                }
                Kind::Bundle => worker.run_bundle(frame.ticket, &frame.payload, &mut inlet.source),
                Kind::Retire => worker.retire(),
                other => refuse(&format!("an unexpected {other:?} frame")),
            }
            if inlet.is_low() {
                worker.outlet.run_low();
            }
        }
        if let Some(pace) = worker.gauge.stop() {
            worker.outlet.note_pace(pace);
        }
        inlet.fill(&mut worker.outlet, &mut worker.parcels);
    }
}

/// What the supervisor has sent, or the end of this worker if it makes no sense.
pub(super) fn sound<T>(what: Result<T, impl std::fmt::Display>) -> T {
    what.unwrap_or_else(|error| refuse(&error.to_string()))
}

impl Worker {
    /// Runs one task after another, each with its own ticket, claim and result.
    fn run_bundle(&mut self, first: u64, payload: &[u8], source: &mut Source) {
        self.gauge.start();
        let (mut head, items) = sound(Bundle::split(payload));
        let half = items.len() / 2;
        for (place, arguments) in items.enumerate() {
            self.run(first + place as u64, &head, sound(arguments));
            head.task += 1;
            if place == half && source.is_empty() {
                self.outlet.run_low();
            }
        }
    }

    #[inline]
    fn run(&mut self, ticket: u64, head: &TaskHead, arguments: &[u8]) {
        let entry = self.entry(ticket, head);
        if self.claim(ticket, head) {
            self.answer(ticket, head, entry, arguments);
        }
    }

    /// The task that is to be run, with the state that it needs.
    #[inline]
    fn entry(&mut self, ticket: u64, head: &TaskHead) -> Option<&'static TaskEntry> {
        let entry = usize::try_from(head.index).ok().and_then(|index| task::table().get(index));
        if let Some(state) = entry.and_then(|entry| entry.state) {
            self.prepare(ticket, state);
        }
        entry
    }

    /// Runs a task whose arguments are in shared memory.
    fn run_at(&mut self, ticket: u64, head: &TaskHead, locator: &Locator) {
        // First what may fail, through no fault of this task: unclaimed, it goes to another worker.
        let segment = self.parcels.find(locator);
        if !segment.contains(locator.offset, locator.len) {
            give_up(&format!("arguments where none can be: {locator:?}"));
        }
        let entry = self.entry(ticket, head);
        // Borrowed once it is claimed, because then nobody writes to them.
        if self.claim(ticket, head)
            && let Some(arguments) = lent(&segment, locator)
        {
            self.answer(ticket, head, entry, arguments);
        }
    }

    /// Whether the task is to be run, by this worker.
    #[inline]
    fn claim(&mut self, ticket: u64, head: &TaskHead) -> bool {
        // A limit counts from here, to the nanosecond, and so does what is measured; otherwise the time is for reports, and a reading less exact costs less.
        let exact = head.timeout_ns > 0 || self.measure.is_some();
        let now = if exact { pool_ipc::now_ns() } else { pool_ipc::coarse_now_ns() };
        if now.saturating_sub(self.claimed_ns) > LONG_NS {
            // Some time has passed since the last one: results that wait for company have waited long enough.
            self.outlet.run_low();
        }
        self.claimed_ns = now;
        if !self.board.claim(ticket, now) {
            if !self.board.is_withdrawn(ticket) {
                // Skipping it would lose it, and running it might be the second time.
                let slot = self.board.describe(ticket);
                refuse(&format!("an earlier task has overwritten its claim board: {slot}"));
            }
            return false;
        }
        CLAIMED.store(ticket, Ordering::Relaxed);
        if let Some(marks) = &self.marks {
            marks.begin(head.task);
        }
        if let Some(measure) = &mut self.measure {
            measure.start(head, now, self.states.took_ns());
        }
        true
    }

    #[inline]
    fn answer(&mut self, ticket: u64, head: &TaskHead, entry: Option<&'static TaskEntry>, arguments: &[u8]) {
        self.parcels.protect();
        self.current.store(ticket, Ordering::Relaxed);
        if let Some(cpu) = &self.cpu {
            timed(cpu.arm());
        }
        let failure = self.call(head, entry, arguments);
        if self.origin.is_elsewhere() {
            // The task has forked, and this is the child: the worker's pipes and rings are not its own.
            setup::leave();
        }
        if let Some(cpu) = &self.cpu {
            timed(cpu.disarm());
        }
        self.current.store(0, Ordering::Relaxed);
        if let Some(measure) = &mut self.measure {
            // Before its result can be seen.
            measure.end(head, pool_ipc::now_ns(), self.states.took_ns(), arguments);
        }
        match failure {
            None if self.output.whole_len() <= self.frame_limit => {
                match self.parcels.lend(&mut self.output) {
                    None => self.outlet.send(Kind::Done, ticket, &self.output),
                    Some(locator) => {
                        let payload = [&locator.encode()[..], &self.output].concat();
                        self.outlet.send(Kind::DoneAt, ticket, &payload);
                    }
                }
            }
            None => {
                let message = format!(
                    "its result is {} bytes, over the limit of {} (frame_limit); raise it with `Builder::frame_limit`",
                    self.output.whole_len(),
                    self.frame_limit,
                );
                self.fail(ticket, Failure::Encode(message));
            }
            Some(failure) => self.fail(ticket, failure),
        }
        self.board.finish(ticket);
        self.gauge.tasks = self.gauge.tasks.saturating_add(1);
        self.output.clear();
    }

    /// Runs the task; its result is in `output` unless a failure is returned.
    fn call(
        &mut self,
        head: &TaskHead,
        entry: Option<&'static TaskEntry>,
        arguments: &[u8],
    ) -> Option<Failure> {
        let Some(entry) = entry else {
            return Some(Failure::UnknownTask { index: head.index });
        };
        let deadline = (head.timeout_ns > 0)
            .then(|| Instant::now().checked_add(Duration::from_nanos(head.timeout_ns)))
            .flatten();
        self.context.enter(TaskId::new(head.task), head.attempt, deadline);
        panics::forget();
        let (context, states, output) = (&self.context, &mut self.states, &mut self.output);
        let mut run = RunContext::new(context, states);
        if let Some(measure) = &self.measure {
            run = run.measured(&measure.gauges, head.task);
        }
        let run = AssertUnwindSafe(|| (entry.run)(&mut run, arguments, output));
        match catch_unwind(run) {
            Ok(Ok(())) => None,
            Ok(Err(RunError::Decode(message))) => Some(Failure::Decode(message)),
            Ok(Err(RunError::Encode(message))) => Some(Failure::Encode(message)),
            // It was built before the task was claimed.
            Ok(Err(RunError::State(message))) => give_up(&message),
            Err(payload) => {
                let report = panics::report(&*payload);
                // Dropping what was thrown, or states that were in use, may panic again; that must not end the worker.
                discard(payload);
                caught(|| self.states.clear());
                Some(report)
            }
        }
    }

    fn fail(&mut self, ticket: u64, failure: Failure) {
        let report = match failure.bounded().encode() {
            Ok(report) => report,
            Err(error) => give_up(&format!("cannot encode a failure: {error}")),
        };
        // The supervisor looks at what the task has printed when it hears of the failure.
        marks::flush_stdout();
        self.outlet.send(Kind::Failed, ticket, &report);
        self.outlet.run_low();
    }

    fn retire(&mut self) -> ! {
        self.bequeath();
        self.outlet.send(Kind::Bye, 0, &[]);
        std::process::exit(0)
    }
}

/// The processor time of tasks is measured, or this worker is of no use.
fn timed(set: io::Result<()>) {
    if let Err(error) = set {
        give_up(&format!(
            "cannot limit the processor time of a task: {error} (has a task deleted timers that are not its own?)"
        ));
    }
}

/// Says something on stderr, if there is one.
pub(super) fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "pool worker {what}");
}

/// The last ticket that this process has claimed.
static CLAIMED: AtomicU64 = AtomicU64::new(0);

/// Where a worker that gives up says so.
static RESULTS: OnceLock<&'static OwnedFd> = OnceLock::new();

/// Where [`refuse`] writes to.
pub(super) fn note_result_pipe(pipe: &'static OwnedFd) {
    // A process becomes a worker once.
    let _ = RESULTS.set(pipe);
}

/// Ends a worker that finds, when it is about to start a task, that its memory has been overwritten.
pub(super) fn refuse(why: &str) -> ! {
    complain(&format!("gives up: {why}"));
    if let Some(pipe) = RESULTS.get() {
        // Whatever becomes of it: without it, less is known.
        let _ = write_frame(pipe.as_fd(), Kind::Refused, CLAIMED.load(Ordering::Relaxed), &[]);
    }
    std::process::exit(SCRIBBLED)
}

/// Ends a worker that cannot go on.
pub(super) fn give_up(why: &str) -> ! {
    complain(&format!("gives up: {why}"));
    std::process::exit(GAVE_UP)
}
