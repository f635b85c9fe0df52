//! What the pools of a round are like.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_core::{BuildError, Builder, Output, Pool, RestartPolicy, StartMethod, Transport, WorkerEvent};

use crate::deed::{MOODS, Mood, SHARED, load};
use crate::journal::JOURNAL;
use crate::random::Random;

/// The beginning of the names of all pools, and so of their threads.
pub(crate) const NAME: &str = "chaos";

/// What the judge has to know of a pool. The rest of its settings is in the builder.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) min_workers: Option<usize>,
    pub(crate) rings: bool,
    pub(crate) task_timeout: Duration,
    pub(crate) memory_limit: Option<u64>,
    /// A panic has its stack read, which takes as long as this program has symbols.
    pub(crate) backtraces: bool,
    /// Workers retire after a number of tasks, or when they have grown.
    pub(crate) recycles: bool,
}

/// What has happened to the workers of a pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<WorkerEvent>>>);

impl Events {
    fn tell(&self, event: &WorkerEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }

    pub(crate) fn take(&self) -> Vec<WorkerEvent> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A pool, and how it can be judged.
pub(crate) struct Subject {
    pub(crate) pool: Pool,
    pub(crate) settings: Settings,
    pub(crate) events: Events,
    pub(crate) text: String,
}

/// Lines that workers have printed, and that have been captured.
pub(crate) static LINES: AtomicU64 = AtomicU64::new(0);

/// Builds a pool with options by chance. `mark` is an entry of the environment of everything that it starts.
pub(crate) fn build(
    random: &mut Random,
    number: usize,
    mark: (&str, &str),
    journal: &Path,
) -> Result<Subject, BuildError> {
    let rings = random.percent(70);
    let workers = random.between(1, 4) as usize;
    let min_workers = random.percent(15).then(|| random.below(workers as u64 + 1) as usize);
    let memory_limit = random.percent(25).then_some(48 << 20);
    let mut settings = Settings {
        workers,
        min_workers,
        rings,
        task_timeout: Duration::from_millis(random.between(2000, 3000)),
        memory_limit,
        backtraces: true,
        recycles: false,
    };
    let events = Events::default();
    let hook = events.clone();
    let mut builder = Pool::builder()
        .name(format!("{NAME}{number}"))
        .workers(workers)
        .transport(if rings { Transport::Rings } else { Transport::Pipes })
        .start(if random.percent(25) { StartMethod::Zygote } else { StartMethod::Spawn })
        .env(mark.0, mark.1)
        .env(JOURNAL, journal)
        .task_timeout(settings.task_timeout)
        .start_timeout(Duration::from_millis(random.between(2500, 4000)))
        .exit_timeout(Duration::from_millis(random.between(300, 1500)))
        .cancel_grace(Duration::from_millis(random.skewed(200)))
        .spares(random.below(5).saturating_sub(3) as usize)
        .restart(UNDER_FIRE)
        .insights(random.percent(30))
        .output(if random.percent(50) { Output::Null } else { Output::capture(|_| count_line()) })
        .share(SHARED, load(0, 10_000).as_bytes())
        .on_worker_event(move |event| hook.tell(event));
    if random.percent(70) || memory_limit.is_some() {
        // What it takes to read this program's symbols is more than the limit.
        builder = builder.env("RUST_BACKTRACE", "0");
        settings.backtraces = false;
    }
    if let Some(least) = min_workers {
        builder = builder.min_workers(least).idle_timeout(Duration::from_millis(random.between(20, 500)));
    }
    if let Some(limit) = memory_limit {
        builder = builder.memory_limit(limit);
        if random.percent(50) {
            builder = builder.recycle_above(limit / 2);
            settings.recycles = true;
        }
    }
    if random.percent(20) {
        builder = builder.queue_limit(random.below(20) as usize);
    }
    if random.percent(30) {
        builder = builder.env(MOODS, random.between(5, 20).to_string());
    }
    if random.percent(30) {
        builder = builder.state::<Mood>();
    }
    if random.percent(30) {
        let tasks = random.between(1, 300);
        builder = builder.max_tasks_per_worker(tasks).recycle_jitter(random.below(tasks));
        builder = builder.recycle_overlap(random.percent(50));
        settings.recycles = true;
    }
    if random.percent(10) {
        builder = builder.nice(1);
    }
    if random.percent(10) {
        builder = builder.inner_threads(1);
    }
    let text = describe(&builder);
    Ok(Subject { pool: builder.build()?, settings, events, text })
}

fn count_line() {
    LINES.fetch_add(1, Ordering::Relaxed);
}

/// The settings without those that are the same for all.
fn describe(builder: &Builder) -> String {
    let text = format!("{builder:?}");
    // What is shared is long.
    let (head, tail) = text.split_once(", sharing").unwrap_or((&text, ""));
    format!("{head}, …{}", tail.find(", transport").map_or("", |from| &tail[from..]))
}

/// Deaths that no task is to blame for are what this is about: they do not break a pool.
const UNDER_FIRE: RestartPolicy = RestartPolicy {
    max_restarts: 100_000,
    window: Duration::from_secs(60),
    first_delay: Duration::from_millis(1),
    max_delay: Duration::from_millis(20),
};
