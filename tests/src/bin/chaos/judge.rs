//! Whether everything ended as it had to: a pure function of what callers saw, what workers noted, what the saboteur did, and what
//! the pools told of their workers.
//!
//! An error needs a *reason*: the deed of this very task, a signal that the saboteur sent to this very worker, or something its
//! caller did. The only excuse by which one task may pay for another one is a deed that attacks the memory or the descriptors of
//! its worker, and it holds for tasks of the same process only.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use pool_core::{Death, DeathCause, RetryOn, TaskError, WorkerEvent};

use crate::journal::{Entry, Step};
use crate::record::{Outcome, Record};
use crate::saboteur::Hit;
use crate::settings::Settings;
use nix::sys::signal::Signal;

/// Tasks of a worker that are told of.
const TOLD: usize = 40;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Wrong {
    /// A task has no outcome, or its answer came without its having run.
    Lost,
    /// A task ended, or ran, more often than it should.
    Doubled,
    /// A task failed for no reason of its own, or has an answer that is not its own.
    Blamed,
    /// Something is left.
    Leaked,
    /// The pool is not what it was, or its figures do not add up.
    Unsound,
}

/// Something that is wrong, with all that is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) wrong: Wrong,
    pub(crate) text: String,
}

/// How a pool lived.
pub(crate) struct Life {
    pub(crate) settings: Settings,
    pub(crate) events: Vec<WorkerEvent>,
    /// It was closed or terminated while tasks were being submitted.
    pub(crate) cut_short: bool,
}

/// All that is known of a round.
pub(crate) struct Evidence {
    pub(crate) records: Vec<Record>,
    pub(crate) journal: Vec<Entry>,
    pub(crate) hits: Vec<Hit>,
    pub(crate) lives: Vec<Life>,
    /// By how much this program was kept waiting for a processor at most.
    pub(crate) gap: Duration,
}

/// The same, ordered by what it is about.
struct Index<'a> {
    evidence: &'a Evidence,
    deeds: HashMap<u64, &'a Record>,
    /// Entries by task.
    runs: HashMap<u64, Vec<Entry>>,
    /// Tasks that a worker has begun, in their order, and whether it has left them.
    by_worker: HashMap<u32, Vec<(u64, bool)>>,
    signals: HashMap<u32, Vec<Signal>>,
    /// Workers in which somebody has attacked what connects them with the pool.
    tainted: HashSet<u32>,
    /// Pools that have such workers.
    tainted_pools: HashSet<usize>,
    leaking: HashSet<u32>,
    /// They have said that they are about to die.
    doomed: HashSet<u32>,
}

/// All that is wrong with a round.
pub(crate) fn judge(evidence: &Evidence) -> Vec<Finding> {
    let index = Index::of(evidence);
    let mut findings = Vec::new();
    let mut blamed: HashMap<u32, u64> = HashMap::new();
    for record in &evidence.records {
        index.judge(record, &mut blamed, &mut findings);
    }
    for (number, life) in evidence.lives.iter().enumerate() {
        index.judge_life(number, life, &mut findings);
    }
    findings
}

impl<'a> Index<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let deeds: HashMap<u64, &Record> =
            evidence.records.iter().map(|record| (record.plan.task, record)).collect();
        let mut index = Self {
            evidence,
            deeds,
            runs: HashMap::new(),
            by_worker: HashMap::new(),
            signals: HashMap::new(),
            tainted: HashSet::new(),
            tainted_pools: HashSet::new(),
            leaking: HashSet::new(),
            doomed: HashSet::new(),
        };
        for hit in &evidence.hits {
            index.signals.entry(hit.pid).or_default().push(hit.signal);
        }
        for entry in &evidence.journal {
            if entry.step == Step::Dies {
                index.doomed.insert(entry.worker);
                continue;
            }
            index.runs.entry(entry.task).or_default().push(*entry);
            let tasks = index.by_worker.entry(entry.worker).or_default();
            match entry.step {
                Step::Begun => tasks.push((entry.task, false)),
                _ => {
                    let begun = tasks.iter_mut().rev().find(|(task, _)| *task == entry.task);
                    if let Some((_, left)) = begun {
                        *left = true;
                    }
                }
            }
            let Some(record) = index.deeds.get(&entry.task) else { continue };
            let rings = evidence.lives.get(record.pool).is_some_and(|life| life.settings.rings);
            if record.plan.deed.taints(rings) {
                index.tainted.insert(entry.worker);
                index.tainted_pools.insert(record.pool);
            }
            if record.plan.deed.leaks() {
                index.leaking.insert(entry.worker);
            }
        }
        index
    }

    fn judge(&self, record: &Record, blamed: &mut HashMap<u32, u64>, findings: &mut Vec<Finding>) {
        let mut find = |wrong, what: String| {
            let text = format!("{what}\n{}", self.explain(record));
            findings.push(Finding { wrong, text });
        };
        if record.more > 0 {
            find(Wrong::Doubled, format!("{} outcomes too many came with it or after it", record.more));
        }
        let begun: Vec<&Entry> =
            self.runs.get(&record.plan.task).into_iter().flatten().filter(is_begun).collect();
        if begun.len() > 1 + record.retries as usize {
            find(Wrong::Doubled, format!("it ran {} times", begun.len()));
        }
        let attempts: HashSet<u32> = begun.iter().map(|entry| entry.attempt).collect();
        if attempts.len() < begun.len() {
            find(Wrong::Doubled, "it ran twice in the same attempt".to_owned());
        }
        match &record.outcome {
            Outcome::Unseen => {}
            Outcome::Missing => find(Wrong::Lost, "it has no outcome".to_owned()),
            // Longer payloads in rings have no sum: a vandal in the same worker may have overwritten them.
            Outcome::Wrong(_)
                if record.plan.is_long()
                    && begun.iter().any(|entry| self.tainted.contains(&entry.worker)) => {}
            Outcome::Misplaced(what) => find(Wrong::Blamed, what.clone()),
            Outcome::Wrong(reply) => find(Wrong::Blamed, format!("its answer is wrong: {reply}")),
            Outcome::Right if !record.plan.deed.may_return() => {
                find(Wrong::Blamed, "it cannot have ended well".to_owned());
            }
            Outcome::Right if begun.is_empty() => {
                find(Wrong::Lost, "it ended well and never ran".to_owned());
            }
            Outcome::Right => {}
            Outcome::Failed(error) => {
                if let Err(why) = self.has_reason(record, error) {
                    find(Wrong::Blamed, format!("{why}: {error}"));
                }
                // The death of a worker is the end of one task, unless it took memory or descriptors along.
                let deaths: &[Death] = match &**error {
                    TaskError::WorkerDied(death) => std::slice::from_ref(&**death),
                    TaskError::Poisoned { deaths, .. } => deaths,
                    _ => &[],
                };
                for death in deaths.iter().filter(|death| !self.tainted.contains(&death.pid)) {
                    if let Some(other) = blamed.insert(death.pid, record.plan.task)
                        && other != record.plan.task
                    {
                        find(Wrong::Blamed, format!("task {other} ended with the same worker {}", death.pid));
                    }
                }
            }
        }
    }

    /// Whether an error is one that this task may end with.
    fn has_reason(&self, record: &Record, error: &TaskError) -> Result<(), String> {
        let (deed, may) = (&record.plan.deed, record.may);
        let settled = |is: bool, why: &str| if is { Ok(()) } else { Err(why.to_owned()) };
        let life = self.evidence.lives.get(record.pool);
        match error {
            TaskError::Cancelled => settled(may.be_cancelled, "nobody has cancelled it"),
            TaskError::DeadlineExceeded { .. } => settled(may.be_overdue, "it has no deadline"),
            TaskError::PoolClosed => settled(life.is_some_and(|life| life.cut_short), "the pool was open"),
            // A task before it in the same worker has closed the pipes that it wants to write to.
            TaskError::Panicked { message, .. } if message.contains("no write end of a pipe") => {
                settled(deed.writes_garbage(), "it writes to no pipe")
            }
            TaskError::Panicked { message, .. } => {
                settled(deed.panics(), "it does not panic")?;
                let others = message.contains("panics on purpose")
                    && !message.contains(&crate::deed::panic_of(record.plan.task));
                settled(!others, "this is the panic of another task")?;
                let again = record.retries > 0 && record.retry_on.contains(RetryOn::PANIC);
                settled(!again || self.attempts(record) > 1, "it was to be retried")
            }
            TaskError::Encode { .. } => settled(deed.panics(), "it can be encoded"),
            TaskError::TimedOut { limit, .. } => {
                settled(*limit == record.limit, "this is not its limit")?;
                let reads_symbols = deed.panics() && life.is_some_and(|life| life.settings.backtraces);
                let slow = deed.may_be_slow() || reads_symbols || self.gap_excuses(record.limit);
                settled(slow || self.was_held_up(record), "nothing has held it up")
            }
            TaskError::WorkerDied(death) => {
                let others = record.retry_on != RetryOn::DEATH;
                settled(record.retries == 0 || others, "it was to be retried")?;
                self.may_die(record, death)
            }
            TaskError::Poisoned { deaths, .. } => {
                let others = record.retry_on != RetryOn::DEATH;
                let all = deaths.len() == 1 + record.retries as usize;
                settled(record.retries > 0 && (all || others), "so many deaths do not make it poisonous")?;
                deaths.iter().try_for_each(|death| self.may_die(record, death))
            }
            // It may be that it could not even be begun, and nobody knows where.
            TaskError::NoResources { .. } | TaskError::Decode { .. } => {
                let mut workers = self.workers_of(record).peekable();
                let nowhere = workers.peek().is_none() && self.tainted_pools.contains(&record.pool);
                settled(nowhere || workers.any(|pid| self.tainted.contains(&pid)), "nobody is to blame")
            }
            _ => Err("no task of this program can end like this".to_owned()),
        }
    }

    fn attempts(&self, record: &Record) -> u32 {
        let runs = self.runs.get(&record.plan.task).into_iter().flatten();
        runs.map(|entry| entry.attempt).max().unwrap_or(0)
    }

    fn workers_of(&self, record: &Record) -> impl Iterator<Item = u32> {
        self.runs.get(&record.plan.task).into_iter().flatten().map(|entry| entry.worker)
    }

    fn gap_excuses(&self, limit: Duration) -> bool {
        self.evidence.gap > limit / 4
    }

    /// Whether its worker was stopped, or its messages lost. One that was stopped before the task function was entered has noted
    /// nothing.
    fn was_held_up(&self, record: &Record) -> bool {
        let stopped = |pid: u32| self.was_sent(pid, Signal::SIGSTOP) || self.tainted.contains(&pid);
        let mut workers = self.workers_of(record).peekable();
        if workers.peek().is_none() {
            return !self.tainted.is_empty()
                || self.evidence.hits.iter().any(|hit| hit.signal == Signal::SIGSTOP);
        }
        workers.any(stopped)
    }

    fn was_sent(&self, pid: u32, signal: Signal) -> bool {
        self.signals.get(&pid).is_some_and(|signals| signals.contains(&signal))
    }

    /// Whether this task may end with the death of this worker.
    fn may_die(&self, record: &Record, death: &Death) -> Result<(), String> {
        if self.tainted.contains(&death.pid) {
            return Ok(());
        }
        let (deed, pid) = (&record.plan.deed, death.pid);
        let leaks = matches!(death.cause, DeathCause::MemoryLimit { .. }) && self.leaking.contains(&pid);
        if !deed.causes(&death.cause) && !self.was_killed(pid, &death.cause) && !leaks {
            return Err(format!("neither it nor the saboteur has done this to worker {pid}"));
        }
        // Who dies is who ran: nobody else can be in the midst of something.
        let tasks = self.by_worker.get(&pid).map_or(&[][..], Vec::as_slice);
        let running = tasks.iter().find(|(task, left)| !left && *task != record.plan.task);
        match running {
            Some((other, _)) => Err(format!("worker {pid} was running task {other} when it died")),
            None => Ok(()),
        }
    }

    /// Whether the saboteur has ended a worker in this way.
    fn was_killed(&self, pid: u32, cause: &DeathCause) -> bool {
        match cause {
            DeathCause::Signalled { signal, .. } => {
                Signal::try_from(*signal).is_ok_and(|signal| self.was_sent(pid, signal))
            }
            DeathCause::OutOfMemory { .. } => self.was_sent(pid, Signal::SIGKILL),
            _ => false,
        }
    }

    fn judge_life(&self, number: usize, life: &Life, findings: &mut Vec<Finding>) {
        let mut find = |text: String| {
            findings.push(Finding { wrong: Wrong::Unsound, text: format!("pool {number}: {text}") });
        };
        let (mut living, mut missed) = (HashSet::new(), false);
        for event in &life.events {
            match event {
                WorkerEvent::Spawned { pid, .. } => {
                    living.insert(*pid);
                }
                WorkerEvent::Died(death) if !self.is_death_explained(death) => {
                    find(format!("nobody has done this: {death}\n{}", self.worker(death.pid)));
                }
                WorkerEvent::Broken(reason) => find(format!("it broke: {reason}")),
                WorkerEvent::Missed { .. } => missed = true,
                _ => {}
            }
            let ended = match event {
                WorkerEvent::Exited { pid, .. } => Some(*pid),
                WorkerEvent::Died(death) => Some(death.pid),
                _ => None,
            };
            if let Some(pid) = ended
                && !living.remove(&pid)
                && !missed
            {
                find(format!("worker {pid} ended, and was never started or had ended before"));
            }
        }
        if !living.is_empty() && !missed {
            find(format!("it is gone, and has not told of the ends of {living:?}"));
        }
    }

    fn is_death_explained(&self, death: &Death) -> bool {
        let pid = death.pid;
        if self.tainted.contains(&pid) || self.was_killed(pid, &death.cause) {
            return true;
        }
        let runs = self.by_worker.get(&pid).into_iter().flatten();
        let tasks: HashSet<u64> = runs.map(|(task, _)| *task).collect();
        let mut deeds = self.evidence.records.iter().filter(|record| tasks.contains(&record.plan.task));
        match &death.cause {
            // Whether the tasks concerned may end like that is judged with them.
            DeathCause::TaskTimeout | DeathCause::Cancelled | DeathCause::Terminated => true,
            cause @ DeathCause::MemoryLimit { .. } => {
                self.leaking.contains(&pid) || deeds.any(|record| record.plan.deed.causes(cause))
            }
            DeathCause::Unresponsive { waited, .. } => {
                self.was_sent(pid, Signal::SIGSTOP) || self.gap_excuses(*waited)
            }
            DeathCause::StartFailed { .. } => self.signals.contains_key(&pid),
            cause => self.doomed.contains(&pid) || deeds.any(|record| record.plan.deed.causes(cause)),
        }
    }

    /// What is known of a task.
    fn explain(&self, record: &Record) -> String {
        let runs = self.runs.get(&record.plan.task).map_or(&[][..], Vec::as_slice);
        let mut workers: Vec<u32> = self.workers_of(record).collect();
        if let Outcome::Failed(error) = &record.outcome
            && let TaskError::WorkerDied(death) = &**error
        {
            workers.push(death.pid);
        }
        workers.sort_unstable();
        workers.dedup();
        let workers: Vec<String> = workers.into_iter().map(|pid| self.worker(pid)).collect();
        let Record { plan, how, limit, retries, retry_on, may, .. } = record;
        format!(
            "    {how}: {plan:?}\n    limit {limit:?}, retries {retries} on {retry_on:?}, {may:?}\n    runs {runs:?}\n    {}",
            workers.join("\n    ")
        )
    }

    /// What is known of a worker.
    fn worker(&self, pid: u32) -> String {
        let tasks = self.by_worker.get(&pid).map_or(&[][..], Vec::as_slice);
        let from = tasks.len().saturating_sub(TOLD);
        let deeds: Vec<String> = tasks[from..]
            .iter()
            .map(|(task, left)| {
                let deed = self.deeds.get(task).map(|record| &record.plan.deed);
                format!("{task} {deed:?}{}", if *left { "" } else { ", not left" })
            })
            .collect();
        format!(
            "worker {pid}: {} tasks; tainted {}; signals {:?}; the last: {}",
            tasks.len(),
            self.tainted.contains(&pid),
            self.signals.get(&pid).map_or(&[][..], Vec::as_slice),
            deeds.join("; ")
        )
    }
}

fn is_begun(entry: &&Entry) -> bool {
    entry.step == Step::Begun
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
