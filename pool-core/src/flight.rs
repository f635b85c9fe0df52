//! Many calls at once: the engine room of [`Pool::map`](crate::Pool::map) and [`Pool::map_settled`](crate::Pool::map_settled).
//!
//! The calling thread pulls items, encodes the calls and submits them, small calls of a kind many at a time; it keeps a
//! bounded number in flight, so a long input is never held in memory as a whole. Outcomes come back through an
//! [`Inbox`]. However the thread leaves (a failure, a panic of the input iterator, the end), whatever is still in flight is
//! cancelled.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Plan;
use crate::call::{Call, CallOptions, IntoCall};
use crate::error::TaskError;
use crate::handle::{Decode, decode};
use crate::job::{Job, Part, PartArgs, Settled};
use crate::outcome::{Inbox, Landed, Results};
use crate::packed::Packed;
use crate::pool::{Inner, spec_of};
use crate::reply::Encoded;
use crate::supervisor::event::{Event, GroupId, GroupSpec, TaskSpec};
use crate::task::TaskEntry;

/// Most items that are submitted together.
const MOST_TOGETHER: usize = 2048;
/// Most bytes of arguments that are submitted together.
const BYTES_TOGETHER: usize = 32 << 10;
/// Larger arguments are submitted alone.
const SMALL: usize = 1 << 10;
/// Making what is submitted together should take no longer than this, because workers may be waiting for it.
const PATIENCE: Duration = Duration::from_micros(100);
/// Most bytes of arguments in flight, unless a single one is larger.
const BYTES_IN_FLIGHT: usize = 64 << 20;

/// Runs `f(item)` for every item, and reports each result with the index of its item, in order of completion, until `report`
/// breaks off.
pub(crate) fn run<F, I, C>(
    pool: &Inner,
    plan: Plan,
    mut f: F,
    items: I,
    mut report: impl FnMut(usize, Result<C::Output, TaskError>) -> ControlFlow<()>,
) where
    I: Iterator,
    F: FnMut(I::Item) -> C,
    C: IntoCall,
{
    let mut flight = Flight::new(pool, plan);
    let window = pool.window();
    let mut items = items.fuse();
    let mut exhausted = false;
    let mut landed: Vec<Landed> = Vec::new();
    // Few at first: workers are waiting.
    let mut together = 1;
    loop {
        while !exhausted && flight.has_room(window) {
            let begun = Instant::now();
            let mut count = 0;
            while count < together && flight.has_room(window) {
                let Some(item) = items.next() else {
                    exhausted = true;
                    break;
                };
                count += 1;
                if let Err((index, error)) = flight.prepare(f(item).into_call())
                    && report(index, Err(error)).is_break()
                {
                    return;
                }
            }
            flight.submit();
            together = match begun.elapsed() {
                long if long > PATIENCE => (together / 2).max(1),
                _ => (together * 2).min(MOST_TOGETHER),
            };
        }
        if flight.count == 0 {
            if exhausted {
                return;
            }
            continue;
        }
        // Waking up for a quarter of what is in flight keeps the workers supplied; the last ones are waited for together.
        let wanted = if exhausted { flight.count } else { (flight.count / 4).max(1) };
        flight.inbox.want(wanted);
        pool.shared.wait_for(&*flight.inbox, None);
        landed = flight.inbox.take(landed);
        let mut outcomes = landed.drain(..);
        if outcomes.try_for_each(|outcome| flight.land(outcome, &mut report)).is_break() {
            // What had been finished by then counts, in whatever order it has come.
            let late = flight.inbox.take(Vec::new());
            for outcome in outcomes.chain(late).filter(|landed| landed.outcome.is_ok()) {
                let _ = flight.land(outcome, &mut report);
            }
            return;
        }
    }
}

/// Items that are about to be submitted together, and what they have in common.
struct Pack {
    entry: &'static TaskEntry,
    options: Option<Box<CallOptions>>,
    /// Index of the first item.
    first: usize,
    args: Packed,
}

/// How the results of the items from an index on are decoded.
struct Route<R> {
    from: usize,
    decode: Decode<R>,
    entry: &'static TaskEntry,
}

/// What is in flight.
struct Flight<'p, R> {
    pool: &'p Inner,
    plan: Plan,
    /// Opened with the first items.
    group: Option<GroupId>,
    inbox: Arc<Inbox>,
    pack: Option<Pack>,
    /// Items and bytes of the latest pack.
    last_pack: (usize, usize),
    bundle: Vec<(TaskSpec, Job)>,
    /// In the order of their first items; items of a kind share one.
    routes: Vec<Route<R>>,
    /// By item: bytes of its arguments.
    sizes: Vec<u32>,
    count: usize,
    bytes: usize,
}

impl<'p, R> Flight<'p, R> {
    fn new(pool: &'p Inner, plan: Plan) -> Self {
        Self {
            pool,
            plan,
            group: None,
            inbox: Arc::new(Inbox::new()),
            pack: None,
            last_pack: (0, 0),
            bundle: Vec::new(),
            routes: Vec::new(),
            sizes: Vec::new(),
            count: 0,
            bytes: 0,
        }
    }

    fn has_room(&self, window: usize) -> bool {
        self.count < window && (self.bytes < BYTES_IN_FLIGHT || self.count == 0)
    }

    /// Adds a call to what is to be submitted. An error is the outcome of that item.
    fn prepare(&mut self, call: Call<R>) -> Result<(), (usize, TaskError)> {
        let parts = call.into_parts();
        let (index, task) = (self.sizes.len(), parts.entry.name);
        let known = self.routes.last();
        if known.is_none_or(|route| !std::ptr::eq(route.entry, parts.entry)) {
            self.routes.push(Route { from: index, decode: parts.decode, entry: parts.entry });
        }
        let args = match parts.args {
            Ok(args) => args,
            Err(message) => {
                self.sizes.push(0);
                return Err((index, TaskError::Encode { task: task.to_owned(), message: message.into() }));
            }
        };
        self.sizes.push(u32::try_from(args.len()).unwrap_or(u32::MAX));
        self.bytes += args.len();
        self.count += 1;
        if args.len() > SMALL || parts.options.as_ref().is_some_and(|options| options.name.is_some()) {
            self.close_pack();
            let spec = self.spec(parts.options.as_deref(), 1, args.len());
            let name = parts.options.and_then(|options| options.name);
            self.add(spec, parts.entry, name, PartArgs::One(args), index);
            return Ok(());
        }
        // A frame holds them all.
        let together = BYTES_TOGETHER.min(self.pool.shared.launcher.frame_limit as usize - 64);
        let fits = |pack: &Pack| {
            std::ptr::eq(pack.entry, parts.entry)
                && pack.options == parts.options
                && pack.first + pack.args.len() == index
                && pack.args.size() + args.len() < together
        };
        if !self.pack.as_ref().is_some_and(fits) {
            self.close_pack();
        }
        // As large as the one before.
        let (items, bytes) = self.last_pack;
        let open = || Pack {
            entry: parts.entry,
            options: parts.options,
            first: index,
            args: Packed::with_capacity(items, bytes),
        };
        self.pack.get_or_insert_with(open).args.push(&args);
        Ok(())
    }

    /// What is packed so far will be submitted as it is.
    fn close_pack(&mut self) {
        let Some(pack) = self.pack.take() else { return };
        self.last_pack = (pack.args.len(), pack.args.size());
        let spec = self.spec(pack.options.as_deref(), pack.args.len(), pack.args.size());
        self.add(spec, pack.entry, None, PartArgs::Many(Arc::new(pack.args), 0), pack.first);
    }

    fn add(
        &mut self,
        spec: TaskSpec,
        entry: &'static TaskEntry,
        name: Option<Box<str>>,
        args: PartArgs,
        index: usize,
    ) {
        let part = Part { entry, name, args, inbox: Arc::clone(&self.inbox), index, end: spec.count };
        self.bundle.push((spec, Job::Part(Box::new(part))));
    }

    fn spec(&self, options: Option<&CallOptions>, count: usize, size: usize) -> TaskSpec {
        let priority = options.and_then(|options| options.priority).or(self.plan.priority);
        TaskSpec {
            count: count as u32,
            chunk: self.plan.chunk,
            priority: priority.unwrap_or(0),
            ..spec_of(options, size, self.pool.task_timeout)
        }
    }

    fn submit(&mut self) {
        self.close_pack();
        if self.bundle.is_empty() {
            return;
        }
        let shared = &self.pool.shared;
        if shared.origin.is_elsewhere() {
            for (spec, job) in self.bundle.drain(..) {
                let (sink, count) = (job.into_sink(), spec.count);
                shared.deliver(Settled { sink, count, outcome: Err(TaskError::Forked) });
            }
            return;
        }
        let (bundle, group) = (&mut self.bundle, &mut self.group);
        let terms = GroupSpec { abort: self.plan.abort, deadline: None };
        shared.with(|engine, now| {
            let group = *group.get_or_insert_with(|| engine.machine.open(terms));
            for (spec, job) in bundle.drain(..) {
                // What is refused has its outcome in the inbox.
                let _ = engine.submit(TaskSpec { group: Some(group), ..spec }, job);
            }
            engine.hand_out(now, false);
        });
    }

    /// Reports what has come.
    fn land(
        &mut self,
        landed: Landed,
        report: &mut impl FnMut(usize, Result<R, TaskError>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Landed { index, count, outcome } = landed;
        let end = index + count as usize;
        self.count = self.count.saturating_sub(count as usize);
        let bytes: usize =
            self.sizes.get(index..end).unwrap_or_default().iter().map(|size| *size as usize).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        let route = self.routes.partition_point(|route| route.from <= index);
        // What is submitted together is of one kind.
        let Some(Route { decode: convert, entry, .. }) =
            route.checked_sub(1).and_then(|place| self.routes.get(place))
        else {
            return ControlFlow::Continue(());
        };
        let task = entry.name;
        match outcome {
            Ok(Results::One(reply)) => report(index, decode(task, *convert, reply.encoded())),
            Ok(Results::Run(frames)) => (index..end)
                .zip(pool_ipc::frames(&frames))
                .try_for_each(|(index, bytes)| report(index, decode(task, *convert, Encoded::from(bytes)))),
            Err(error) => (index..end).try_for_each(|index| report(index, Err(error.clone()))),
        }
    }
}

impl<R> Drop for Flight<'_, R> {
    fn drop(&mut self) {
        let shared = &self.pool.shared;
        if let Some(group) = self.group.filter(|_| !shared.origin.is_elsewhere()) {
            shared.with(|engine, now| engine.machine.on(now, Event::CloseGroup(group)));
        }
    }
}
