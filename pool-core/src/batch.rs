//! Many calls at once: the engine room of [`Pool::map`](crate::Pool::map) and [`Pool::map_settled`](crate::Pool::map_settled).
//!
//! The calling thread pulls items, encodes the calls and submits them in bundles; it keeps a bounded number in flight, so
//! a long input is never held in memory as a whole. Outcomes come back through an [`Inbox`]. However the thread leaves
//! (a failure, a panic of the input iterator, the end), whatever is still in flight is cancelled.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::call::IntoCall;
use crate::error::TaskError;
use crate::handle::{Decode, decode};
use crate::outcome::{Inbox, Outcome};
use crate::pool::{Inner, spec_of};
use crate::supervisor::engine::{Job, Sink};
use crate::supervisor::event::{Event, GroupId, TaskSpec};

/// Items that are submitted under one lock.
const BUNDLE: usize = 128;
/// Bytes of arguments in flight, unless a single item is larger.
const BYTES_IN_FLIGHT: usize = 64 << 20;

static NEXT_GROUP: AtomicU64 = AtomicU64::new(1);

/// Runs `f` over `items`, and reports each outcome with its position, in the order of completion.
///
/// `report` may break off; what is in flight is cancelled then.
pub(crate) fn run<F, I, C>(
    pool: &Inner,
    abort: bool,
    mut f: F,
    items: I,
    mut report: impl FnMut(usize, Result<C::Output, TaskError>) -> ControlFlow<()>,
) where
    I: Iterator,
    F: FnMut(I::Item) -> C,
    C: IntoCall,
{
    let group = GroupId(NEXT_GROUP.fetch_add(1, Ordering::Relaxed));
    let mut flight = Flight {
        pool,
        group,
        inbox: Arc::new(Inbox::new()),
        routes: Vec::new(),
        sizes: Vec::new(),
        count: 0,
        bytes: 0,
        landed: false,
    };
    let window = pool.window();
    let mut items = items.fuse();
    let mut exhausted = false;
    let mut bundle: Vec<(TaskSpec, Job)> = Vec::with_capacity(BUNDLE);
    let mut outcomes: Vec<(usize, Outcome)> = Vec::new();
    loop {
        while !exhausted && flight.has_room(window) {
            while bundle.len() < BUNDLE && flight.has_room(window) {
                let Some(item) = items.next() else {
                    exhausted = true;
                    break;
                };
                if let Err((index, error)) = flight.prepare(f(item), abort, &mut bundle)
                    && report(index, Err(error)).is_break()
                {
                    return;
                }
            }
            flight.submit(&mut bundle);
        }
        if flight.count == 0 {
            if exhausted {
                flight.landed = true;
                return;
            }
            continue;
        }
        // Waking up for a quarter of the window keeps the workers supplied; the last ones are waited for together.
        let wanted = if exhausted { flight.count } else { flight.count.min(window / 4).max(1) };
        outcomes = flight.inbox.take(outcomes, wanted);
        for (index, outcome) in outcomes.drain(..) {
            let Some(result) = flight.land(index, outcome) else { continue };
            if report(index, result).is_break() {
                return;
            }
        }
    }
}

/// What is in flight.
struct Flight<'p, R> {
    pool: &'p Inner,
    group: GroupId,
    inbox: Arc<Inbox>,
    /// By item: how its result is decoded, and the name of its task.
    routes: Vec<(Decode<R>, &'static str)>,
    sizes: Vec<u32>,
    count: usize,
    bytes: usize,
    /// Nothing is in flight any more, so nothing needs to be cancelled.
    landed: bool,
}

impl<R> Flight<'_, R> {
    fn has_room(&self, window: usize) -> bool {
        self.count < window && (self.bytes < BYTES_IN_FLIGHT || self.count == 0)
    }

    /// Adds a call to the bundle. An error is the outcome of that item.
    fn prepare(
        &mut self,
        call: impl IntoCall<Output = R>,
        abort: bool,
        bundle: &mut Vec<(TaskSpec, Job)>,
    ) -> Result<(), (usize, TaskError)> {
        let parts = call.into_call().into_parts();
        let index = self.routes.len();
        let task = parts.entry.name;
        self.routes.push((parts.decode, task));
        let args = match parts.args {
            Ok(args) => args,
            Err(message) => {
                self.sizes.push(0);
                return Err((index, TaskError::Encode { task: task.to_owned(), message }));
            }
        };
        let mut spec = spec_of(&parts.options, args.len(), self.pool.task_timeout);
        spec.group = Some(self.group);
        spec.abort = abort;
        self.sizes.push(u32::try_from(args.len()).unwrap_or(u32::MAX));
        self.bytes += args.len();
        self.count += 1;
        let sink = Sink::Batch { inbox: Arc::clone(&self.inbox), index };
        bundle.push((spec, Job { entry: parts.entry, name: parts.options.name, args, sink }));
        Ok(())
    }

    fn submit(&mut self, bundle: &mut Vec<(TaskSpec, Job)>) {
        if bundle.is_empty() {
            return;
        }
        let shared = &self.pool.shared;
        if shared.origin.is_elsewhere() {
            for (_, job) in bundle.drain(..) {
                shared.deliver(job.sink, Err(TaskError::Forked));
            }
            return;
        }
        shared.with(|engine, now| {
            for (spec, job) in bundle.drain(..) {
                // A task that is refused has its outcome in the inbox.
                let _ = engine.submit(spec, job);
            }
            engine.machine.on(now, Event::Pump);
        });
    }

    fn land(&mut self, index: usize, outcome: Outcome) -> Option<Result<R, TaskError>> {
        let (convert, task) = *self.routes.get(index)?;
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(self.sizes.get(index).map_or(0, |size| *size as usize));
        Some(decode(task, convert, &outcome))
    }
}

impl<R> Drop for Flight<'_, R> {
    fn drop(&mut self) {
        let shared = &self.pool.shared;
        if !self.landed && !shared.origin.is_elsewhere() {
            let group = self.group;
            shared.with(|engine, now| engine.machine.on(now, Event::CancelGroup(group)));
        }
    }
}
