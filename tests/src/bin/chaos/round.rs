//! A few seconds with a few pools: built, used by many at once, sabotaged, looked over, ended, and judged.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pool_core::{Pool, TaskError, WorkerStatus};
use pool_tests::Footprint;

use crate::actor::Actor;
use crate::deed::Reply;
use crate::judge::{Evidence, Finding, Life, Wrong, judge};
use crate::plan::Plan;
use crate::random::Random;
use crate::record::{May, Outcome, Record};
use crate::saboteur::{Cruelty, sabotage};
use crate::settings::{NAME, Settings, Subject, build};
use crate::tally::Tally;
use crate::watch::{Pulse, Watch};

/// How long a pool may take until it is complete again, and processes and threads to be gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a pool that recycles its workers has to become complete before it is given more work.
const AGAIN: Duration = Duration::from_secs(1);

/// How the pools of a round end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// When everybody has what they wanted.
    Peace,
    Close,
    Shutdown,
    Terminate,
    /// Dropped while handles of it are still there.
    Drop,
}

/// What a round is about.
pub(crate) struct Round<'a> {
    pub(crate) seed: u64,
    pub(crate) number: u64,
    pub(crate) dir: &'a Path,
    pub(crate) watch: &'a Watch,
    /// What was there before the first round.
    pub(crate) before: &'a Footprint,
    pub(crate) mark: (&'a str, &'a str),
    /// Prints what is going to happen.
    pub(crate) verbose: bool,
}

impl Round<'_> {
    /// Plays it, and adds what came of it.
    pub(crate) fn play(&self, tally: &mut Tally) -> Result<Vec<Finding>, Box<dyn std::error::Error>> {
        let mut random = Random::of(&[self.seed, self.number]);
        let journal = self.dir.join(format!("journal-{}", self.number));
        std::fs::write(&journal, [])?;
        let pools = random.between(1, 3);
        let mut subjects = Vec::new();
        for number in 0..pools {
            subjects.push(build(&mut random, number as usize, self.mark, &journal)?);
        }
        let ending = *random.pick(&[
            Ending::Peace,
            Ending::Peace,
            Ending::Peace,
            Ending::Peace,
            Ending::Close,
            Ending::Shutdown,
            Ending::Terminate,
            Ending::Drop,
        ]);
        let cruelty = Cruelty::draw(&mut random);
        let faults = if random.percent(10) { 0 } else { random.between(1, 20) };
        let span = Duration::from_millis(random.between(300, 3000));
        let title = format!(
            "round {}: {pools} pools, {span:?}, {faults} % faults, {cruelty:?}, {ending:?}",
            self.number
        );
        if self.verbose {
            eprintln!("{title}");
            subjects.iter().for_each(|subject| eprintln!("    {}", subject.text));
        }
        self.watch.title(title.clone());
        self.watch.pools(subjects.iter().map(|subject| subject.pool.clone()).collect());
        self.watch.longest_gap();

        let enough = AtomicBool::new(false);
        let sizes: Vec<_> =
            subjects.iter().map(|subject| Arc::new(Mutex::new(subject.settings.workers))).collect();
        let mut actors = Vec::new();
        for number in 0..subjects.len() * random.between(1, 4) as usize {
            let subject = &subjects[number % subjects.len()];
            actors.push(Actor {
                pool: subject.pool.clone(),
                number: number % subjects.len(),
                settings: subject.settings.clone(),
                size: Arc::clone(&sizes[number % subjects.len()]),
                random: Random::of(&[self.seed, self.number, 1 + number as u64]),
                next: (number as u64 + 1) << 32,
                faults,
                pulse: self.watch.actor(format!("actor {number} of pool {}", number % subjects.len())),
                records: Vec::new(),
            });
        }
        let mut findings = Vec::new();
        let pulse = self.watch.actor("round".to_owned());
        let (mut records, hits) = thread::scope(|scope| {
            let quiet = AtomicBool::new(false);
            let quiet = Arc::new(quiet);
            let saboteur = cruelty.map(|cruelty| {
                let victims: Vec<Pool> = subjects.iter().map(|subject| subject.pool.clone()).collect();
                let mut random = Random::of(&[self.seed, self.number, u64::MAX]);
                let quiet = Arc::clone(&quiet);
                scope.spawn(move || sabotage(&mut random, cruelty, &victims, &quiet))
            });
            let enough = &enough;
            let playing: Vec<_> = actors
                .into_iter()
                .map(|actor| {
                    let thread = thread::Builder::new().name("actor".to_owned());
                    thread
                        .spawn_scoped(scope, move || actor.play(enough))
                        .expect("there is room for a thread")
                })
                .collect();
            pause(&pulse, span);
            if !matches!(ending, Ending::Peace | Ending::Drop) {
                pulse.step(Some("the end"));
                subjects.iter().for_each(|subject| end(&subject.pool, ending));
            }
            enough.store(true, Ordering::Relaxed);
            pulse.step(None);
            let mut records = Vec::new();
            for actor in playing {
                records.extend(actor.join().expect("an actor does not panic"));
            }
            quiet.store(true, Ordering::Relaxed);
            let hits = saboteur.map(|thread| thread.join().expect("the saboteur does not panic"));
            (records, hits.unwrap_or_default())
        });

        for (number, subject) in subjects.iter().enumerate() {
            if ending == Ending::Peace {
                let size = *sizes[number].lock().unwrap_or_else(PoisonError::into_inner);
                pulse.step(Some("look over"));
                let next = (subjects.len() as u64 * 4 + 2 + number as u64) << 32;
                if let Err(text) = look_over(subject, number, size, next, &pulse, &mut records) {
                    findings.push(Finding { wrong: Wrong::Unsound, text: format!("pool {number}: {text}") });
                }
                pulse.step(Some("join"));
                subject.pool.join();
            } else if ending != Ending::Drop {
                pulse.step(Some("join"));
                subject.pool.join();
            }
        }
        pulse.step(Some("drop"));
        self.watch.pools(Vec::new());
        let mut lives = Vec::new();
        for (number, Subject { pool, settings, events, .. }) in subjects.into_iter().enumerate() {
            let stats = pool.stats();
            let mut late = Vec::new();
            if ending == Ending::Drop {
                let first = (20 + number as u64) << 32;
                let mut random = Random::of(&[self.seed, self.number, first]);
                let plans = (first..first + 30).map(|task| Plan::draw(&mut random, task, faults, &settings));
                late = plans.map(|plan| (pool.apply_async(plan.call()), plan)).collect();
            }
            drop(pool);
            for (handle, plan) in late {
                pulse.beat();
                records.push(record(number, "drop of the pool", plan, &settings, handle.get()));
            }
            let ended = stats.succeeded + stats.failed + stats.cancelled + stats.timed_out + stats.overdue;
            if ending == Ending::Peace && (stats.pending, stats.submitted) != (0, ended) {
                let text = format!("pool {number}: the figures do not add up: {stats:?}");
                findings.push(Finding { wrong: Wrong::Unsound, text });
            }
            tally.add(&stats, settings.workers as u64);
            lives.push(Life { settings, events: events.take(), cut_short: ending != Ending::Peace });
        }
        pulse.step(None);

        let entries = crate::journal::read(&journal)?;
        let gap = self.watch.longest_gap();
        findings.extend(judge(&Evidence { records, journal: entries, hits, lives, gap }));
        findings.extend(self.leftovers());
        std::fs::remove_file(&journal)?;
        for finding in &mut findings {
            finding.text = format!("{title}: {}", finding.text);
        }
        Ok(findings)
    }

    /// Processes and threads that are still there. Memory that is kept for the next pool is looked at when there is none.
    fn leftovers(&self) -> Option<Finding> {
        let deadline = Instant::now() + PATIENCE;
        let mark = format!("{}={}", self.mark.0, self.mark.1);
        loop {
            let now = Footprint::take(&mark, NAME);
            if now.has_no_more_life_than(self.before) {
                return None;
            }
            if Instant::now() > deadline {
                return Some(Finding { wrong: Wrong::Leaked, text: now.beyond(self.before) });
            }
            self.watch.title(format!("round {}: waiting for the last processes to end", self.number));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Lets the actors play.
fn pause(pulse: &Pulse, span: Duration) {
    // Time passing is the subject.
    pulse.step(None);
    thread::sleep(span);
}

fn end(pool: &Pool, ending: Ending) {
    match ending {
        Ending::Close => pool.close(),
        Ending::Shutdown => drop(pool.shutdown(Duration::from_millis(100))),
        Ending::Terminate => pool.terminate(),
        Ending::Peace | Ending::Drop => {}
    }
}

fn record(
    pool: usize,
    how: &'static str,
    plan: Plan,
    settings: &Settings,
    result: Result<Reply, TaskError>,
) -> Record {
    Record {
        pool,
        how,
        limit: plan.timeout.unwrap_or(settings.task_timeout),
        retries: plan.retries.unwrap_or(0),
        retry_on: plan.retry_on.unwrap_or_default(),
        may: May::default(),
        outcome: Outcome::of(&plan, result),
        plan,
        more: 0,
    }
}

/// Whether the pool is complete again, and every worker of it works.
fn look_over(
    subject: &Subject,
    number: usize,
    size: usize,
    mut task: u64,
    pulse: &Pulse,
    records: &mut Vec<Record>,
) -> Result<(), String> {
    let pool = &subject.pool;
    let state = || format!("{:?} {:?}", pool.workers(), pool.stats());
    let deadline = Instant::now() + PATIENCE;
    let least = subject.settings.min_workers.unwrap_or(size).min(size);
    let mut seen = BTreeSet::new();
    loop {
        let plans: Vec<Plan> = (0..8 * size as u64)
            .map(|_| {
                task += 1;
                Plan::innocent(task, 2)
            })
            .collect();
        let results = pool.map_settled(Plan::call, &plans);
        for (plan, result) in plans.into_iter().zip(results) {
            pulse.beat();
            records.push(record(number, "look over", plan, &subject.settings, result));
        }
        // Where workers retire after a task, those that have worked have retired by now, and others are on their way.
        let more_at = if subject.settings.recycles { Instant::now() + AGAIN } else { Instant::now() };
        loop {
            let workers = pool.workers();
            seen.extend(workers.iter().filter(|worker| worker.finished > 0).filter_map(|worker| worker.pid));
            let serve = |status: WorkerStatus| matches!(status, WorkerStatus::Idle | WorkerStatus::Busy);
            let serving: Vec<_> = workers.iter().filter(|worker| serve(worker.status)).collect();
            let all_work = subject.settings.recycles
                || serving.iter().all(|worker| worker.pid.is_some_and(|pid| seen.contains(&pid)));
            let stats = pool.stats();
            if (least..=size).contains(&serving.len()) && all_work && stats.workers_ready == serving.len() {
                return Ok(());
            }
            let now = Instant::now();
            if now > deadline {
                return Err(format!("of {least} to {size} workers, {} serve: {}", serving.len(), state()));
            }
            thread::sleep(Duration::from_millis(1));
            if now >= more_at {
                break;
            }
        }
    }
}
