//! Many calls at once: the engine room of the map family.
//!
//! A [`Flight`] is driven by whoever wants the results, on their own thread, step by step: it pulls items, encodes the calls
//! and submits them, small calls of a kind many at a time ([`fill`](Flight::fill)); waits ([`wait`](Flight::wait)); and
//! hands out what has come through its [`Inbox`] ([`take`](Flight::take)). `map` and its like do that in a loop
//! ([`drive`](Flight::drive)), an iterator does as much of it as its next result needs. A bounded number of items is held
//! at a time, and nothing is kept of those that are done, so an input may be endless.
//!
//! # States of the source
//!
//! ```text
//!        items.next() is called          it returns an item, and the call is made
//! Open ──────────────────────▶ Pulling ──────────────────────▶ Open
//!   │                             │ no more items
//!   │ the batch has ended         └──────▶ Dry
//!   └──────▶ Refused
//! ```
//!
//! # Events and races
//! * *The input, or the closure, panics.* The panic unwinds to the caller; the drop of the flight cancels what is in flight.
//!   Somebody may catch it, and ask an iterator again: the source is still `Pulling` then, and the flight is over.
//! * *The pool or the batch ends while items are submitted* (closed, broken, terminated, a failure, the deadline). Those that
//!   are refused have their error in the inbox, like all others; the first such error turns the source to `Refused`.
//! * *An item fails, and others are submitted before its failure has been delivered.* They are refused as cancelled, and come
//!   first. A consumer that wants the cause waits for it: it is in flight.
//! * *The deadline passes while nobody asks.* The state machine ends what is in flight; what is pulled later is refused here.
//! * *A result comes while items are pulled.* It is looked at between two pulls (`Inbox::has_any`), so that a slow input
//!   delays no result by more than one item.
//! * *Outcomes are known* ([`remembered`](crate::remembered)). They are not submitted, and are handed out with the next that come. Until
//!   then they are in flight, like all others.
//! * *What remembers them refuses an item, or fails.* What is prepared is cancelled, and what runs, too.
//! * *Items are stored* ([`stored`](crate::stored)). What somebody else computes is put aside, and what has been computed lands once more
//!   when it is written. Until then they are in flight, too.
//! * *The flight ends,* in whatever way: its group is closed, which cancels what is left of it.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "durable")]
use self::stored::Item;
use crate::batch::{OnFailure, Plan};
use crate::buffer::Args;
use crate::call::{CallOptions, CallParts, IntoCall};
use crate::error::TaskError;
use crate::handle::{Decode, decode};
use crate::inbox::{Inbox, Landed};
use crate::job::{Job, Part, PartArgs, Run, Settled};
use crate::packed::Packed;
use crate::policy::bounded;
use crate::pool::{Inner, spec_of};
use crate::progress::{self, Feed};
use crate::remembered::{Asked, Recall, Remembered};
use crate::reply::Encoded;
use crate::supervisor::event::{Event, GroupId, GroupSpec, TaskSpec};
use crate::supervisor::shared::Shared;
use crate::task::TaskEntry;

mod landing;
mod stored;

/// Most items that are submitted together.
const MOST_TOGETHER: usize = 2048;
/// Most bytes of arguments that are submitted together.
const BYTES_TOGETHER: usize = 32 << 10;
/// Larger arguments are submitted alone.
const SMALL: usize = 1 << 10;
/// Making what is submitted together should take no longer than this, because workers may be waiting for it.
const PATIENCE: Duration = Duration::from_micros(100);
/// After so many items it is looked whether it does. A look costs as much as a tenth of an item.
const LOOK: usize = 32;
/// Results that have come are looked at after this, whatever else there is to do.
const SOON: Duration = Duration::from_millis(1);
/// Results that are to be kept beyond this program are looked at after this.
const UNKEPT: Duration = Duration::from_millis(10);
/// Most bytes of arguments in flight, unless a single one is larger; and about as many bytes of results are held.
const BYTES_IN_FLIGHT: usize = 64 << 20;

/// A batch that is being run.
pub(crate) struct Flight<F, I, R> {
    shared: Arc<Shared>,
    plan: Plan,
    /// Whether the first failure ends it.
    abort: bool,
    /// Whether results count as held until somebody has taken them.
    lazy: bool,
    /// Most items that are given to a worker ahead.
    prefetch: usize,
    task_timeout: Option<Duration>,
    until: Option<(Instant, Duration)>,
    f: F,
    items: I,
    source: Source,
    group: Option<GroupId>,
    inbox: Arc<Inbox>,
    /// A buffer for outcomes, between two uses.
    spare: Vec<Landed>,
    pack: Option<Pack>,
    /// Items and bytes of the latest pack.
    last_pack: (usize, usize),
    bundle: Vec<(TaskSpec, Job)>,
    /// The tasks that have occurred.
    kinds: Vec<Kind<R>>,
    /// Items that have been pulled.
    next: usize,
    /// Items that are no longer held.
    done: usize,
    /// Items whose outcomes have not been taken.
    flying: usize,
    /// Bytes of their arguments.
    bytes: usize,
    landed: usize,
    /// Bytes of the results of `landed`.
    result_bytes: usize,
    /// Items that the latest look into the inbox has brought.
    brought: usize,
    /// Items to submit together.
    together: usize,
    feed: Option<Feed>,
    /// What remembers outcomes beyond this program.
    memory: Option<Box<Remembered>>,
    /// The items whose results are stored.
    stored: stored::Slot<R>,
    /// Outcomes that need not be waited for.
    known: Vec<(usize, Result<R, TaskError>)>,
    /// Bytes of their results.
    known_bytes: usize,
}

/// Where items come from.
#[derive(Debug)]
enum Source {
    Open,
    /// Foreign code runs, or has panicked.
    Pulling,
    /// There are no more items.
    Dry,
    /// There may be more items, and this is what would become of them.
    Refused(TaskError),
}

/// Items that are about to be submitted together, and what they have in common.
struct Pack {
    entry: &'static TaskEntry,
    options: Option<Box<CallOptions>>,
    /// Index of the first item.
    first: usize,
    kind: u16,
    args: Packed,
}

/// A task that has occurred, and how its results are decoded.
struct Kind<R> {
    entry: &'static TaskEntry,
    decode: Decode<R>,
}

impl<F, I, R> Flight<F, I, R> {
    /// `lazy`: results are held until [`hand_out`](Self::hand_out).
    pub(crate) fn new(pool: &Inner, plan: Plan, default: OnFailure, lazy: bool, f: F, items: I) -> Self
    where
        I: Iterator,
    {
        let shared = Arc::clone(&pool.shared);
        let until = plan.deadline.map(|limit| (Instant::now() + bounded(limit), limit));
        let feed = plan
            .progress
            .clone()
            .map(|progress| Feed::new(progress, items.size_hint(), vec![Arc::clone(&shared)]));
        // In a forked child nothing runs.
        let memory = if shared.origin.is_elsewhere() { None } else { Remembered::of(&plan) };
        Self {
            shared,
            abort: plan.on_failure.unwrap_or(default) == OnFailure::Abort,
            memory,
            plan,
            lazy,
            prefetch: pool.prefetch,
            task_timeout: pool.task_timeout,
            until,
            f,
            items,
            source: Source::Open,
            group: None,
            inbox: Arc::new(Inbox::new()),
            spare: Vec::new(),
            pack: None,
            last_pack: (0, 0),
            bundle: Vec::new(),
            kinds: Vec::new(),
            next: 0,
            done: 0,
            flying: 0,
            bytes: 0,
            landed: 0,
            result_bytes: 0,
            brought: 0,
            // Few at first: workers are waiting.
            together: 1,
            feed,
            stored: stored::Slot::default(),
            known: Vec::new(),
            known_bytes: 0,
        }
    }

    /// Whether the first failure ends it.
    pub(crate) fn aborts(&self) -> bool {
        self.abort
    }

    /// Whether this is a forked child of the process that has begun it, where nothing of it may be touched.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.shared.origin.is_elsewhere()
    }

    /// Whether every item has ended, and there will be no more.
    pub(crate) fn is_over(&self) -> bool {
        self.flying == 0 && !matches!(self.source, Source::Open | Source::Pulling)
    }

    /// Whether foreign code has panicked.
    pub(crate) fn is_torn(&self) -> bool {
        matches!(self.source, Source::Pulling)
    }

    /// Items in flight.
    pub(crate) fn flying(&self) -> usize {
        self.flying
    }

    /// An item's result has been handed out by an iterator.
    pub(crate) fn hand_out(&mut self) {
        self.done += 1;
    }

    /// Whether workers may run out of work while what has come is handed out, and the input is quick enough to do something
    /// about that.
    pub(crate) fn runs_low(&self) -> bool {
        self.together > 1 && self.is_open() && self.next - self.done < self.room() / 2
    }

    /// Whether outcomes can be taken.
    pub(crate) fn has_any(&self) -> bool {
        !self.known.is_empty() || self.inbox.has_any()
    }

    /// How many items are still to come, as far as the input tells.
    pub(crate) fn size_hint(&self) -> (usize, Option<usize>)
    where
        I: Iterator,
    {
        match self.source {
            Source::Open => self.items.size_hint(),
            Source::Pulling | Source::Dry | Source::Refused(_) => (0, Some(0)),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.source, Source::Open)
    }

    /// Most items that are held.
    fn room(&self) -> usize {
        if let Some(most) = self.plan.in_flight {
            return most.max(1);
        }
        let size = self.shared.size();
        let window = self.fair((4 * size).saturating_mul(self.prefetch));
        if !self.lazy {
            return window;
        }
        // Whoever takes the first results may want no more of them, and results may be large.
        let chunk = self.plan.chunk.min(1024) as usize;
        let enough = (8 * size).max(2 * chunk * size).max(4 * self.landed);
        let fit = (BYTES_IN_FLIGHT.saturating_mul(self.landed) / self.result_bytes.max(1)).max(2 * size);
        let fit = if self.landed == 0 { enough } else { fit };
        window.min(enough).min(fit)
    }

    fn has_room(&self) -> bool {
        self.next - self.done - self.put_aside() < self.room() && self.can_carry()
    }

    fn can_carry(&self) -> bool {
        self.bytes + self.known_bytes < BYTES_IN_FLIGHT || self.flying == 0
    }

    /// Adds a call to what is to be submitted.
    fn prepare(&mut self, parts: CallParts<R>) {
        let index = self.next;
        self.next += 1;
        self.flying += 1;
        let kind = self.kind(parts.entry, parts.decode);
        let args = match parts.args {
            Ok(args) => args,
            Err(message) => {
                let task = parts.entry.name.to_owned();
                let error = TaskError::Encode { task, message: message.into() };
                return self.inbox.push(Run { index, bytes: 0, kind }, 1, Err(error));
            }
        };
        if self.memory.is_some() && self.need_not_run(index, kind, &args) {
            return;
        }
        #[cfg(feature = "durable")]
        if let Some(store) = self.store_of(parts.options.as_deref()) {
            let CallParts { entry, options, decode, .. } = parts;
            return self.ask_store(store, Item { index, kind, entry, args, options, decode });
        }
        self.enlist(index, kind, parts.entry, args, parts.options);
    }

    /// Has a call run.
    #[inline]
    fn enlist(
        &mut self,
        index: usize,
        kind: u16,
        entry: &'static TaskEntry,
        args: Args,
        options: Option<Box<CallOptions>>,
    ) {
        if self.plan.ordered
            && self.pack.as_ref().is_some_and(|pack| self.piece(pack.first) != self.piece(index))
        {
            self.close_pack();
        }
        if args.len() > SMALL || options.as_ref().is_some_and(|options| options.name.is_some()) {
            self.close_pack();
            self.bytes += args.len();
            let spec = self.spec(options.as_deref(), (index, 1), args.len());
            let name = options.and_then(|options| options.name);
            return self.add(spec, entry, name, PartArgs::One(args), (index, kind));
        }
        // A frame holds them all.
        let together = BYTES_TOGETHER.min(self.shared.launcher.frame_limit as usize - 64);
        let fits = |pack: &Pack| {
            pack.kind == kind
                && pack.options == options
                && pack.first + pack.args.len() == index
                && pack.args.size() + args.len() < together
        };
        if !self.pack.as_ref().is_some_and(fits) {
            self.close_pack();
        }
        // As large as the one before.
        let (items, bytes) = self.last_pack;
        let open = || Pack { entry, options, first: index, kind, args: Packed::with_capacity(items, bytes) };
        self.pack.get_or_insert_with(open).args.push(&args);
    }

    /// Whether what becomes of a call is known already.
    #[cold]
    fn need_not_run(&mut self, index: usize, kind: u16, args: &[u8]) -> bool {
        let (Some(memory), Some(of)) = (&mut self.memory, self.kinds.get(usize::from(kind))) else {
            return false;
        };
        let asked = Asked { index, entry: of.entry, kind, args };
        let known = match memory.recall(asked) {
            Recall::Run => return false,
            Recall::Known(result) => match decode(of.entry.name, of.decode, Encoded::from(&result[..])) {
                Ok(value) => {
                    self.known_bytes += result.len();
                    Ok(value)
                }
                Err(error) => {
                    tracing::warn!(index, %error, "a remembered result is not used");
                    memory.run_after_all(asked);
                    return false;
                }
            },
            Recall::Failed(error) => Err(error),
            Recall::Refuse(error) => {
                self.source = Source::Refused(error.clone());
                self.close_pack();
                self.refuse(&TaskError::Cancelled);
                self.close();
                Err(error)
            }
        };
        self.known.push((index, known));
        true
    }

    fn kind(&mut self, entry: &'static TaskEntry, decode: Decode<R>) -> u16 {
        let known = self.kinds.iter().rposition(|kind| std::ptr::eq(kind.entry, entry));
        let kind = known.unwrap_or_else(|| {
            self.kinds.push(Kind { entry, decode });
            self.kinds.len() - 1
        });
        // A program has no more tasks than that; see `pool_ipc::MAX_TASKS`.
        u16::try_from(kind).unwrap_or(u16::MAX)
    }

    /// What is packed so far will be submitted as it is.
    fn close_pack(&mut self) {
        let Some(pack) = self.pack.take() else { return };
        self.last_pack = (pack.args.len(), pack.args.size());
        self.bytes += pack.args.size();
        let spec = self.spec(pack.options.as_deref(), (pack.first, pack.args.len()), pack.args.size());
        let args = PartArgs::Many(Arc::new(pack.args), 0);
        self.add(spec, pack.entry, None, args, (pack.first, pack.kind));
    }

    fn add(
        &mut self,
        spec: TaskSpec,
        entry: &'static TaskEntry,
        name: Option<Box<str>>,
        args: PartArgs,
        (index, kind): (usize, u16),
    ) {
        let part = Part { entry, name, args, inbox: Arc::clone(&self.inbox), index, kind, end: spec.count };
        self.bundle.push((spec, Job::Part(Box::new(part))));
    }

    /// Which piece of the batch an item belongs to, where these go to the workers in turns.
    fn piece(&self, index: usize) -> Option<u64> {
        self.plan.ordered.then(|| index as u64 / u64::from(self.plan.chunk.max(1)))
    }

    /// How so many items from this one on are to be run: the call says it first, then the batch, and then the pool.
    fn spec(&self, options: Option<&CallOptions>, (first, count): (usize, usize), size: usize) -> TaskSpec {
        let plan = &self.plan;
        let spec = spec_of(options, size, plan.limit.or(self.task_timeout));
        let retries = options.and_then(|options| options.retries).or(plan.retries);
        let retry_on = options.and_then(|options| options.retry_on).or(plan.retry_on);
        TaskSpec {
            count: count as u32,
            chunk: plan.chunk,
            priority: options.and_then(|options| options.priority).or(plan.priority).unwrap_or(0),
            piece: self.piece(first),
            retries: retries.unwrap_or(spec.retries),
            retry_on: retry_on.unwrap_or(spec.retry_on),
            ..spec
        }
    }

    /// Submits what is prepared. What is refused has its outcome in the inbox.
    fn submit(&mut self) {
        self.close_pack();
        if self.bundle.is_empty() {
            return;
        }
        if self.is_elsewhere() {
            return self.refuse(&TaskError::Forked);
        }
        if let Some((at, limit)) = self.until
            && Instant::now() >= at
        {
            return self.refuse(&TaskError::DeadlineExceeded { limit });
        }
        let (bundle, group) = (&mut self.bundle, &mut self.group);
        let terms = GroupSpec { abort: self.abort, deadline: self.until };
        self.shared.with(|engine, now| {
            let group = *group.get_or_insert_with(|| engine.machine.open(terms));
            for (spec, job) in bundle.drain(..) {
                let _ = engine.submit(now, TaskSpec { group: Some(group), ..spec }, job);
            }
            engine.hand_out(now, false);
        });
    }

    fn refuse(&mut self, error: &TaskError) {
        for (spec, job) in self.bundle.drain(..) {
            let (sink, count) = (job.into_sink(), spec.count);
            self.shared.deliver(Settled { sink, count, outcome: Err(error.clone()) });
        }
    }

    /// Waits until so many outcomes have come, one of them is an error, or until the time has come.
    fn wait(&mut self, wanted: usize, until: Option<Instant>) {
        self.inbox.want(self.enough(wanted));
        let tick = self.feed.is_some().then(|| Instant::now() + progress::INTERVAL);
        self.shared.wait_for(&*self.inbox, tick.into_iter().chain(until).chain(self.next_look()).min());
    }

    /// Waits until so many outcomes have come, or one of them is an error. What has to be kept is not left lying for long.
    fn wait_for_many(&mut self, wanted: usize) {
        if self.memory.is_none() {
            return self.wait(wanted, None);
        }
        self.wait(wanted, Some(Instant::now() + UNKEPT));
        if !self.inbox.has_any() {
            self.wait(1, self.next_look());
        }
    }

    /// Waits until some outcomes have come, or until the time has come; whether there are any.
    pub(crate) fn wait_for_some(&mut self, until: Option<Instant>) -> bool {
        // To be woken for each one costs much where they are many.
        let mut wanted = (self.brought / 2).clamp(1, self.flying.max(1));
        while !self.has_any() {
            let soon = (wanted > 1).then(|| Instant::now() + SOON);
            self.wait(wanted, soon.into_iter().chain(until).min());
            wanted = 1;
            if let Some(feed) = &mut self.feed {
                feed.tick();
            }
            self.tend();
            if until.is_some_and(|until| Instant::now() >= until) {
                return self.has_any();
            }
        }
        true
    }

    /// What would become of the items that have not been pulled, and how many have been; after the end.
    pub(crate) fn refusal(&self) -> Option<(usize, TaskError)> {
        match &self.source {
            Source::Refused(error) => Some((self.next, error.clone())),
            Source::Open | Source::Pulling | Source::Dry => None,
        }
    }

    /// There will be no more results: cancels what is left, and reports for the last time. The error is that of what should
    /// have remembered the outcomes.
    pub(crate) fn finish(&mut self) -> Result<(), TaskError> {
        self.close();
        let mut unstored = self.stop_storing();
        let kept = match &mut self.memory {
            None => Ok(()),
            Some(memory) => {
                // What has come and nobody wants any more need not run again either.
                memory.keep(&mut unstored);
                memory.keep(&mut self.inbox.take(Vec::new()));
                memory.finish()
            }
        };
        if let (Err(error), Some(feed)) = (&kept, &mut self.feed) {
            feed.failed(error);
        }
        self.feed = None;
        kept
    }

    /// The item that was pulled last.
    pub(crate) fn last(&self) -> usize {
        self.next.saturating_sub(1)
    }

    /// Cancels what is left of it.
    fn close(&mut self) {
        if let Some(group) = self.group.take()
            && !self.is_elsewhere()
        {
            self.shared.with(|engine, now| engine.machine.on(now, Event::CloseGroup(group)));
        }
    }
}

impl<F, I, C> Flight<F, I, C::Output>
where
    I: Iterator,
    F: FnMut(I::Item) -> C,
    C: IntoCall,
{
    /// Pulls items and submits their calls, until there is no room for more, results that have come want to be looked at, or the
    /// time has come.
    pub(crate) fn fill(&mut self, until: Option<Instant>) {
        if !self.is_open() || !self.has_room() {
            return;
        }
        let begun = Instant::now();
        let mut since = begun;
        loop {
            self.pull(since);
            self.submit();
            let now = Instant::now();
            self.together = match now.duration_since(since) {
                long if long > 4 * PATIENCE => 1,
                long if long > PATIENCE => (self.together / 2).max(1),
                _ => (self.together * 2).min(MOST_TOGETHER),
            };
            since = now;
            if !self.is_open() || !self.has_room() || until.is_some_and(|until| now >= until) {
                return;
            }
            let supplied = self.flying >= 2 * self.shared.size() || now.duration_since(begun) > SOON;
            if supplied && self.has_any() {
                return;
            }
            if let Some(feed) = &mut self.feed {
                feed.tick();
            }
        }
    }

    /// Pulls as many items as are to be submitted together. They are no more than are in flight already: should the input block
    /// now, those that it has given wait no longer than workers have something else to do.
    fn pull(&mut self, begun: Instant) {
        let room = self.room();
        for count in 1..=self.together.min(self.flying.max(1)) {
            if self.next - self.done - self.put_aside() >= room || !self.can_carry() {
                return;
            }
            self.source = Source::Pulling;
            let Some(item) = self.items.next() else {
                self.source = Source::Dry;
                return;
            };
            let parts = (self.f)(item).into_call().into_parts();
            self.source = Source::Open;
            self.prepare(parts);
            if !self.is_open() {
                return;
            }
            if count % LOOK == 0 && begun.elapsed() > PATIENCE {
                return;
            }
        }
    }

    /// Runs it to its end, and reports each result with the index of its item, in order of completion, until `report`
    /// breaks off.
    pub(crate) fn drive(
        &mut self,
        mut report: impl FnMut(usize, Result<C::Output, TaskError>) -> ControlFlow<()>,
    ) {
        while !self.is_over() {
            self.tend();
            self.fill(None);
            let waits = self.flying > 0 && (!self.is_open() || !self.has_room());
            if waits && self.known.is_empty() {
                // Waking up for a quarter of what is in flight keeps the workers supplied; the last ones are waited for
                // together.
                let wanted = if self.is_open() { (self.flying / 4).max(1) } else { self.flying };
                self.wait_for_many(wanted);
            }
            if (waits || self.has_any()) && self.take(&mut report).is_break() {
                break;
            }
        }
        if let Err(error) = self.finish() {
            let _ = report(self.last(), Err(error));
        }
    }
}

impl<F, I: Iterator, R> Flight<F, I, R> {
    /// The items that have not been pulled.
    pub(crate) fn rest(&mut self) -> &mut I {
        &mut self.items
    }
}

impl<F, I, R> Drop for Flight<F, I, R> {
    fn drop(&mut self) {
        if self.is_elsewhere() {
            // It belongs to the parent, with its thread and its lock.
            std::mem::forget(self.memory.take());
        }
        if self.memory.is_some() {
            // There is nobody to tell. What remembers them has said it in the traces.
            let _ = self.finish();
        }
        self.close();
        drop(self.stop_storing());
    }
}
