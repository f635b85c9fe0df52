//! Those who use a pool, each in a thread of its own: one step after another, each with another part of the interface.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pool_core::{
    Batch, MapError, OnFailure, Pool, Progress, RetryOn, TaskError, TaskHandle, as_completed, wait_all,
    wait_all_timeout, wait_any, wait_any_timeout,
};
use pool_tests::block_on;

use crate::deed::Reply;
use crate::plan::Plan;
use crate::random::Random;
use crate::record::{May, Outcome, Record};
use crate::settings::Settings;
use crate::watch::Pulse;

/// The text of a panic of this program that is part of the play.
pub(crate) const ON_PURPOSE: &str = "an input panics on purpose";

pub(crate) struct Actor {
    pub(crate) pool: Pool,
    pub(crate) number: usize,
    pub(crate) settings: Settings,
    /// How many workers the pool is to have, since somebody has changed it.
    pub(crate) size: Arc<Mutex<usize>>,
    pub(crate) random: Random,
    /// The number of the next task, which no other actor of the round uses.
    pub(crate) next: u64,
    /// Faults in a hundred tasks, in steps that have any.
    pub(crate) faults: u64,
    pub(crate) pulse: Pulse,
    pub(crate) records: Vec<Record>,
}

/// What the tasks of a step have in common.
#[derive(Debug, Clone, Copy, Default)]
struct Common {
    limit: Option<Duration>,
    retries: Option<u32>,
    retry_on: Option<RetryOn>,
    may: May,
}

type Handles = Vec<(Plan, May, TaskHandle<Reply>)>;

impl Actor {
    /// Takes steps until `enough`.
    pub(crate) fn play(mut self, enough: &AtomicBool) -> Vec<Record> {
        while !enough.load(Ordering::Relaxed) {
            match self.random.below(100) {
                0..15 => self.single(),
                15..50 => self.handles(),
                50..55 => self.try_submit(),
                55..75 => self.all_or_nothing(),
                75..90 => self.iterate(),
                90..95 => self.settle(),
                95..97 => self.resize(),
                97 => self.panic_in_the_midst(),
                _ => self.look(),
            }
        }
        self.pulse.step(None);
        self.records
    }

    fn plan(&mut self, faults: u64) -> Plan {
        self.next += 1;
        Plan::draw(&mut self.random, self.next, faults, &self.settings)
    }

    fn plans(&mut self, most: u64) -> Vec<Plan> {
        let faults = if self.random.percent(50) { self.faults } else { 0 };
        let count = self.random.skewed(most);
        (0..count).map(|_| self.plan(faults)).collect()
    }

    fn record(&mut self, plan: Plan, how: &'static str, common: Common, outcome: Outcome) {
        self.pulse.beat();
        let record = Record {
            pool: self.number,
            how,
            limit: plan.timeout.or(common.limit).unwrap_or(self.settings.task_timeout),
            retries: plan.retries.or(common.retries).unwrap_or(0),
            retry_on: plan.retry_on.or(common.retry_on).unwrap_or_default(),
            may: common.may,
            plan,
            outcome,
            more: 0,
        };
        self.records.push(record);
    }

    fn ended(&mut self, plan: Plan, how: &'static str, may: May, result: Result<Reply, TaskError>) {
        let outcome = Outcome::of(&plan, result);
        self.record(plan, how, Common { may, ..Common::default() }, outcome);
    }

    fn single(&mut self) {
        self.pulse.step(Some("apply"));
        let plan = self.plan(self.faults);
        let result = self.pool.apply(plan.call());
        self.ended(plan, "apply", May::default(), result);
    }

    fn try_submit(&mut self) {
        self.pulse.step(Some("try_apply_async"));
        let mut handles = Vec::new();
        for plan in self.plans(20) {
            match self.pool.try_apply_async(plan.call()) {
                Ok(handle) => handles.push((plan, handle)),
                // It is as if it had never been.
                Err(full) => drop(full.into_inner()),
            }
        }
        for (plan, handle) in handles {
            let result = handle.get();
            self.ended(plan, "try_apply_async", May::default(), result);
        }
    }

    /// Tasks with handles, which are waited for in all ways, cancelled, and dropped.
    fn handles(&mut self) {
        self.pulse.step(Some("apply_async"));
        let mut handles = Handles::new();
        for plan in self.plans(60) {
            let handle = self.pool.apply_async(plan.call());
            handles.push((plan, May::default(), handle));
        }
        if self.random.percent(30) {
            if self.random.percent(50) {
                // A moment by chance is the subject.
                std::thread::sleep(Duration::from_micros(self.random.skewed(20_000)));
            }
            for (_, may, handle) in &mut handles {
                if self.random.percent(40) {
                    handle.cancel();
                    may.be_cancelled = true;
                }
            }
        }
        match self.random.below(9) {
            0 => self.get(handles),
            1 => self.wait_shortly(handles),
            2 => self.await_futures(handles),
            3 => self.take_the_first(handles),
            4 => self.wait_for_all(handles),
            5 => self.as_they_end(handles),
            6 => self.have_them_told(handles),
            7 => self.drop_some(handles, false),
            _ => self.drop_some(handles, true),
        }
    }

    fn get(&mut self, handles: Handles) {
        self.pulse.step(Some("get"));
        for (plan, may, handle) in handles {
            let result = handle.get();
            self.ended(plan, "get", may, result);
        }
    }

    fn wait_shortly(&mut self, handles: Handles) {
        self.pulse.step(Some("wait_timeout"));
        for (plan, may, handle) in handles {
            while !handle.wait_timeout(Duration::from_millis(self.random.skewed(100))) {}
            let result = handle.get();
            self.ended(plan, "wait_timeout", may, result);
        }
    }

    fn await_futures(&mut self, handles: Handles) {
        self.pulse.step(Some("await"));
        for (plan, may, handle) in handles {
            let result = block_on(handle);
            self.ended(plan, "await", may, result);
        }
    }

    fn take_the_first(&mut self, handles: Handles) {
        self.pulse.step(Some("wait_any"));
        let (mut plans, mut left): (Vec<_>, Vec<_>) =
            handles.into_iter().map(|(plan, may, handle)| ((plan, may), handle)).unzip();
        while !left.is_empty() {
            let first = if self.random.percent(50) {
                wait_any(&left)
            } else {
                wait_any_timeout(&left, Duration::from_millis(self.random.skewed(100)))
            };
            if let Some(first) = first {
                let ((plan, may), handle) = (plans.swap_remove(first), left.swap_remove(first));
                let result = handle.get();
                self.ended(plan, "wait_any", may, result);
            }
        }
    }

    fn wait_for_all(&mut self, handles: Handles) {
        self.pulse.step(Some("wait_all"));
        let (plans, handles): (Vec<_>, Vec<_>) =
            handles.into_iter().map(|(plan, may, handle)| ((plan, may), handle)).unzip();
        if !wait_all_timeout(&handles, Duration::from_millis(self.random.skewed(100))) {
            wait_all(&handles);
        }
        for ((plan, may), handle) in plans.into_iter().zip(handles) {
            let outcome = if handle.is_finished() {
                Outcome::of(&plan, handle.get())
            } else {
                // All have ended, it has been told.
                Outcome::Missing
            };
            self.record(plan, "wait_all", Common { may, ..Common::default() }, outcome);
        }
    }

    fn as_they_end(&mut self, handles: Handles) {
        self.pulse.step(Some("as_completed"));
        let (mut plans, handles): (Vec<_>, Vec<_>) =
            handles.into_iter().map(|(plan, may, handle)| (Some((plan, may)), handle)).unzip();
        for (index, result) in as_completed(handles) {
            match plans.get_mut(index).and_then(Option::take) {
                Some((plan, may)) => self.ended(plan, "as_completed", may, result),
                None => self.came_again(index),
            }
        }
        for (plan, may) in plans.into_iter().flatten() {
            self.record(plan, "as_completed", Common { may, ..Common::default() }, Outcome::Missing);
        }
    }

    /// An outcome has come that is nobody's: it is put down as one too many of the task before.
    fn came_again(&mut self, _index: usize) {
        if let Some(record) = self.records.last_mut() {
            record.more += 1;
        }
    }

    fn have_them_told(&mut self, handles: Handles) {
        self.pulse.step(Some("on_complete"));
        let (tell, told) = channel();
        let (tell_more, told_more) = channel();
        if self.random.percent(30)
            && let Some((_, _, first)) = handles.first()
        {
            // A callback may use the pool.
            let (pool, plan) = (self.pool.clone(), self.plan(0));
            let call = plan.call();
            first.on_complete(move |_| drop(tell_more.send((plan, pool.apply_async(call)))));
        } else {
            drop(tell_more);
        }
        let mut plans: Vec<Option<(Plan, May)>> = Vec::new();
        for (index, (plan, may, handle)) in handles.into_iter().enumerate() {
            let tell = tell.clone();
            handle.on_complete(move |result| drop(tell.send((index, result))));
            plans.push(Some((plan, may)));
        }
        drop(tell);
        // It ends when every callback has been called or dropped.
        for (index, result) in told {
            match plans.get_mut(index).and_then(Option::take) {
                Some((plan, may)) => self.ended(plan, "on_complete", may, result),
                None => self.came_again(index),
            }
        }
        for (plan, may) in plans.into_iter().flatten() {
            self.record(plan, "on_complete", Common { may, ..Common::default() }, Outcome::Missing);
        }
        self.pulse.step(Some("a task of a callback"));
        for (plan, handle) in told_more {
            let result = handle.get();
            self.ended(plan, "a callback", May::default(), result);
        }
    }

    fn drop_some(&mut self, handles: Handles, cancels: bool) {
        self.pulse.step(Some("drop"));
        for (plan, mut may, handle) in handles {
            let handle = if cancels { handle.cancel_on_drop() } else { handle };
            if self.random.percent(70) {
                drop(handle);
                may.be_cancelled |= cancels;
                self.record(plan, "drop", Common { may, ..Common::default() }, Outcome::Unseen);
            } else {
                let result = handle.get();
                self.ended(plan, "get", may, result);
            }
        }
    }

    /// A batch with options by chance.
    fn batch<'p>(&mut self, pool: &'p Pool) -> (Batch<'p>, Common, Option<OnFailure>) {
        let random = &mut self.random;
        let (mut batch, mut common, mut policy) = (pool.batch(), Common::default(), None);
        if random.percent(20) {
            let limit = Duration::from_millis(random.between(2500, 4000));
            (batch, common.limit) = (batch.timeout(limit), Some(limit));
        }
        if random.percent(15) {
            batch = batch.deadline(Duration::from_millis(random.skewed(1000)));
            common.may.be_overdue = true;
        }
        if random.percent(30) {
            batch = batch.chunk_size(random.skewed(50) as usize);
        }
        if random.percent(20) {
            batch = batch.priority(random.between(0, 4) as i8 - 2);
        }
        if random.percent(15) {
            batch = batch.order_tasks(true);
        }
        if random.percent(30) {
            batch = batch.max_in_flight(random.skewed(100) as usize);
        }
        if random.percent(50) {
            let retries = random.below(3) as u32;
            (batch, common.retries) = (batch.retries(retries), Some(retries));
        }
        if random.percent(15) {
            let failures = RetryOn::TIMEOUT | RetryOn::PANIC;
            (batch, common.retry_on) = (batch.retry_on(failures), Some(failures));
        }
        if random.percent(60) {
            let chosen = *random.pick(&[OnFailure::Isolate, OnFailure::Abort]);
            (batch, policy) = (batch.on_failure(chosen), Some(chosen));
        }
        if random.percent(10) {
            batch = batch.progress(Progress::with(|report| drop(report.to_string())));
        }
        (batch, common, policy)
    }

    fn all_or_nothing(&mut self) {
        let pool = self.pool.clone();
        let (batch, common, _) = self.batch(&pool);
        let plans = self.plans(400);
        if self.random.percent(50) {
            self.pulse.step(Some("map"));
            let outcome = batch.map(Plan::call, &plans);
            let right = |replies: Vec<Reply>| replies.into_iter().map(Some).collect();
            self.mapped("map", plans, common, outcome.map(right));
        } else {
            self.pulse.step(Some("map_unordered"));
            let outcome = batch.map_unordered(Plan::call, &plans);
            let in_order = |replies: Vec<Reply>| {
                let mut ordered: Vec<Option<Reply>> = plans.iter().map(|_| None).collect();
                for reply in replies {
                    let Reply::Done { task, .. } = &reply else { continue };
                    let index = plans.iter().position(|plan| plan.task == *task);
                    match index.and_then(|index| ordered.get_mut(index)) {
                        Some(place @ None) => *place = Some(reply),
                        // One too many, or nobody's: the number of replies tells.
                        _ => ordered.push(Some(reply)),
                    }
                }
                ordered
            };
            let outcome = outcome.map(in_order);
            self.mapped("map_unordered", plans, common, outcome);
        }
    }

    fn mapped(
        &mut self,
        how: &'static str,
        plans: Vec<Plan>,
        common: Common,
        outcome: Result<Vec<Option<Reply>>, MapError>,
    ) {
        match outcome {
            Ok(replies) => {
                let extra = replies.len().saturating_sub(plans.len()) as u32;
                let mut replies = replies.into_iter();
                for plan in plans {
                    let outcome = match replies.next().flatten() {
                        Some(reply) => Outcome::of(&plan, Ok(reply)),
                        None => Outcome::Missing,
                    };
                    self.record(plan, how, common, outcome);
                }
                if let Some(last) = self.records.last_mut() {
                    last.more += extra;
                }
            }
            Err(MapError { index, error, .. }) => {
                for (place, plan) in plans.into_iter().enumerate() {
                    let outcome =
                        if place == index { Outcome::of(&plan, Err(error.clone())) } else { Outcome::Unseen };
                    self.record(plan, how, common, outcome);
                }
            }
        }
    }

    /// Iterators, some of which are dropped on the way.
    fn iterate(&mut self) {
        let pool = self.pool.clone();
        let (batch, common, policy) = self.batch(&pool);
        let plans = self.plans(300);
        let stop_after = self.random.percent(25).then(|| self.random.below(plans.len() as u64 + 1));
        let stop_after = stop_after.map_or(usize::MAX, |count| count as usize);
        let patience = Duration::from_millis(self.random.skewed(200));
        let (timed, ordered) = (self.random.percent(30), self.random.percent(50));
        let how = if ordered { "imap" } else { "imap_unordered" };
        self.pulse.step(Some(how));
        let pulse = self.pulse.clone();
        let mut came: Vec<(usize, Result<Reply, TaskError>)> = Vec::new();
        // Both iterators have the same methods and no trait for them.
        macro_rules! collect {
            ($iterator:expr) => {{
                let mut iterator = $iterator;
                let mut ended = false;
                while came.len() < stop_after {
                    let next = if timed {
                        match iterator.next_timeout(patience) {
                            Ok(next) => next,
                            Err(_) => continue,
                        }
                    } else {
                        iterator.next()
                    };
                    pulse.beat();
                    let Some(result) = next else {
                        ended = true;
                        break;
                    };
                    came.push((iterator.index().unwrap_or(usize::MAX), result));
                }
                ended
            }};
        }
        let ended = if ordered {
            collect!(batch.imap(Plan::call, &plans))
        } else {
            collect!(batch.imap_unordered(Plan::call, &plans))
        };
        // An aborted batch gives what has come before, its error, and nothing more.
        let aborts = policy.unwrap_or_default() == OnFailure::Abort;
        let of_all =
            |error: &TaskError| matches!(error, TaskError::PoolClosed | TaskError::DeadlineExceeded { .. });
        let cut = came.iter().any(|(_, result)| result.as_ref().is_err_and(|error| aborts || of_all(error)));
        let mut outcomes: Vec<Option<Outcome>> = plans.iter().map(|_| None).collect();
        let mut extra = 0;
        for (place, (index, result)) in came.into_iter().enumerate() {
            let out_of_order = ordered && result.is_ok() && index != place;
            match (outcomes.get_mut(index), plans.get(index)) {
                (Some(outcome @ None), Some(_)) if out_of_order => {
                    *outcome = Some(Outcome::Misplaced(format!("item {index} came as number {place}")));
                }
                (Some(outcome @ None), Some(plan)) => *outcome = Some(Outcome::of(plan, result)),
                _ => extra += 1,
            }
        }
        for (plan, outcome) in plans.into_iter().zip(outcomes) {
            let missing = if ended && !cut { Outcome::Missing } else { Outcome::Unseen };
            self.record(plan, how, common, outcome.unwrap_or(missing));
        }
        if let Some(last) = self.records.last_mut() {
            last.more += extra;
        }
    }

    fn settle(&mut self) {
        self.pulse.step(Some("map_settled"));
        let pool = self.pool.clone();
        let (batch, mut common, policy) = self.batch(&pool);
        let plans = self.plans(300);
        let results = batch.map_settled(Plan::call, &plans);
        // What the first failure cancels is not told apart from it here.
        common.may.be_cancelled |= policy == Some(OnFailure::Abort);
        let extra = results.len().saturating_sub(plans.len()) as u32;
        let mut results = results.into_iter();
        for plan in plans {
            let outcome = results.next().map_or(Outcome::Missing, |result| Outcome::of(&plan, result));
            self.record(plan, "map_settled", common, outcome);
        }
        if let Some(last) = self.records.last_mut() {
            last.more += extra;
        }
    }

    fn resize(&mut self) {
        self.pulse.step(Some("resize"));
        let workers = self.random.between(1, 5) as usize;
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        // A pool that is closed meanwhile stays as it is, and is not asked for its size.
        self.pool.resize(workers).expect("between 1 and the limit");
        *size = workers;
    }

    /// An input that panics ends its map, and nothing else.
    fn panic_in_the_midst(&mut self) {
        self.pulse.step(Some("an input that panics"));
        let pool = self.pool.clone();
        let (batch, mut common, _) = self.batch(&pool);
        let plans = self.plans(100);
        let at = self.random.below(plans.len() as u64 + 1) as usize;
        let mut pulled = 0;
        let call = |plan: &Plan| {
            if pulled == at {
                panic_any(ON_PURPOSE);
            }
            pulled += 1;
            plan.call()
        };
        let lazily = self.random.percent(50);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if lazily {
                batch.imap(call, &plans).for_each(drop);
            } else {
                drop(batch.map_settled(call, &plans));
            }
        }));
        drop(outcome);
        common.may.be_cancelled = true;
        for plan in plans {
            self.record(plan, "an input that panics", common, Outcome::Unseen);
        }
    }

    /// Whoever looks at a pool disturbs nobody.
    fn look(&mut self) {
        self.pulse.step(Some("look"));
        drop((self.pool.stats(), self.pool.workers(), self.pool.insights().to_string()));
        drop(self.pool.exit_values::<crate::deed::Mood, u64>());
    }
}
