//! Where the time of a pool goes.

use std::fmt;
use std::time::Duration;

use pool_ipc::Histogram;

use crate::describe::Called;
use crate::error::Death;
use crate::ids::{TaskId, WorkerId};
use crate::stats::Stats;

/// How many of the longest tasks are shown.
const LONGEST: usize = pool_ipc::gauges::LONGEST;

/// Where the time of a pool has gone, since it was built: see [`Pool::insights`](crate::Pool::insights).
///
/// Printed with `{}`, it is a table.
///
/// What a worker measures is its own word: it is left out where it cannot be true, because task code has overwritten it.
///
/// ```no_run
/// # fn show(pool: &pool_core::Pool) {
/// let insights = pool.insights();
/// if insights.working.ratio < 0.5 {
///     println!("the workers are idle half of the time:\n{insights}");
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Insights {
    /// Whether workers measure their tasks: [`Builder::insights`](crate::Builder::insights). If not, `wait`, `run`, `longest`,
    /// `working` and `init` are empty, and `waiting` is all the time that workers were ready.
    pub measured: bool,
    /// How long ago the pool was built.
    pub since: Duration,
    /// Tasks by their end, repeated attempts, and deaths by cause.
    pub stats: Stats,
    /// Each worker, all processes that have been in its place together.
    pub workers: Vec<WorkerInsights>,
    /// From the submission of tasks to the start of their first attempt.
    pub wait: Distribution,
    /// From the start of attempts to their end, deaths included.
    pub run: Distribution,
    /// What it took to start workers, from the system call to their first report.
    pub start: Spread,
    /// What it took to build the states of workers.
    pub init: Spread,
    /// How long workers were ready and ran no task.
    pub waiting: Spread,
    /// How long workers ran tasks.
    pub working: Spread,
    /// What it took workers to exit when they were asked to.
    pub exit: Spread,
    /// The longest tasks, the longest one first; at most five, each with its arguments.
    pub longest: Vec<LongTask>,
    /// The largest resident set of any worker, in bytes, where the kernel tells it.
    pub peak_memory: Option<u64>,
}

/// How times are distributed.
///
/// The quantiles are at most 12.5 % too large.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Distribution {
    /// How many were measured.
    pub count: u64,
    /// Their mean.
    pub mean: Duration,
    /// Half of them are not longer.
    pub p50: Duration,
    /// 99 of 100 are not longer.
    pub p99: Duration,
    /// The longest one.
    pub max: Duration,
}

/// What one part of the workers' time comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Spread {
    /// All workers together.
    pub total: Duration,
    /// The mean of the workers.
    pub mean: Duration,
    /// The standard deviation between the workers.
    pub std: Duration,
    /// The part of all measured time of all workers, from 0 to 1.
    pub ratio: f64,
}

/// Where the time of one worker has gone: all processes together that have been in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerInsights {
    /// Its place in the pool.
    pub worker: WorkerId,
    /// Tasks that it has brought to an end, failures that it has reported included.
    pub tasks: u64,
    /// Processes that have been started in its place.
    pub processes: u64,
    /// What it took to start them.
    pub start: Duration,
    /// What it took to build their states.
    pub init: Duration,
    /// How long they were ready and ran no task.
    pub waiting: Duration,
    /// How long they ran tasks.
    pub working: Duration,
    /// What it took them to exit when they were asked to.
    pub exit: Duration,
    /// The largest resident set of any of them, in bytes, where the kernel tells it.
    pub peak_memory: Option<u64>,
}

/// One of the longest tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LongTask {
    /// Its number.
    pub task: TaskId,
    /// The name of its function.
    pub name: String,
    /// The worker that ran it.
    pub worker: WorkerId,
    /// How long it ran.
    pub ran_for: Duration,
    /// Its arguments, each with its name and as its `Debug` shows it: `width: 3, name: "a"`. Empty if it has none.
    ///
    /// An argument without `Debug` is shown as its type, `<Image>`. After 200 characters the text ends with `…`. Arguments that are
    /// more than 1 KiB when they are encoded are not kept, and those that the worker could not decode are not decoded here
    /// either: their types are shown, and the size of all, `image: <&[u8]>, width: <u32> (3.0 MiB)`. `<unknown>` stands for arguments that were
    /// lost, because task code has overwritten them, and for those whose `Debug` panics.
    pub arguments: String,
}

/// What is kept of a [`LongTask`].
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) task: TaskId,
    pub(crate) name: String,
    pub(crate) worker: WorkerId,
    pub(crate) ran_for: Duration,
    pub(crate) called: Called,
}

/// What was measured of the tasks of several workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Totals {
    pub(crate) waits: Histogram,
    pub(crate) runs: Histogram,
    /// The longest one first.
    pub(crate) longest: Vec<Listed>,
}

/// What the engine knows at one moment.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) measured: bool,
    pub(crate) since: Duration,
    pub(crate) totals: Totals,
    pub(crate) workers: Vec<WorkerInsights>,
    /// Process ids of those that live, and their places.
    pub(crate) alive: Vec<(usize, u32)>,
}

impl Totals {
    pub(crate) fn list(&mut self, task: Listed) {
        let place = self.longest.partition_point(|listed| listed.ran_for >= task.ran_for);
        self.longest.insert(place, task);
        self.longest.truncate(LONGEST);
    }
}

impl Listed {
    /// The task that a worker ran when it died.
    pub(crate) fn ended_by(death: &Death, called: Called) -> Option<Self> {
        let (task, name, ran_for) = (death.task_id?, death.task.clone()?, death.ran_for?);
        Some(Self { task, name, worker: death.worker, ran_for, called })
    }

    /// Calls code of the program: not under a lock.
    fn describe(self) -> LongTask {
        let Self { task, name, worker, ran_for, called } = self;
        LongTask { task, name, worker, ran_for, arguments: called.describe() }
    }
}

impl WorkerInsights {
    pub(crate) fn none(worker: WorkerId) -> Self {
        Self {
            worker,
            tasks: 0,
            processes: 0,
            start: Duration::ZERO,
            init: Duration::ZERO,
            waiting: Duration::ZERO,
            working: Duration::ZERO,
            exit: Duration::ZERO,
            peak_memory: None,
        }
    }

    /// Adds what another process in the same place has done.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tasks += other.tasks;
        self.processes += other.processes;
        self.start += other.start;
        self.init += other.init;
        self.waiting += other.waiting;
        self.working += other.working;
        self.exit += other.exit;
        self.peak_memory = self.peak_memory.max(other.peak_memory);
    }

    fn all(&self) -> Duration {
        self.start + self.init + self.waiting + self.working + self.exit
    }

    fn parts(&self) -> [Duration; 5] {
        [self.start, self.init, self.waiting, self.working, self.exit]
    }
}

impl Insights {
    pub(crate) fn new(survey: Survey, stats: Stats) -> Self {
        let Survey { measured, since, totals, mut workers, alive } = survey;
        for (place, pid) in alive {
            let peak = crate::memory::resident(pid).map(|(_, peak)| peak);
            workers[place].peak_memory = workers[place].peak_memory.max(peak);
        }
        let all: Duration = workers.iter().map(WorkerInsights::all).sum();
        let spread = |part: fn(&WorkerInsights) -> Duration| Spread::of(&workers, part, all);
        Self {
            measured,
            since,
            stats,
            wait: Distribution::of(&totals.waits),
            run: Distribution::of(&totals.runs),
            start: spread(|worker| worker.start),
            init: spread(|worker| worker.init),
            waiting: spread(|worker| worker.waiting),
            working: spread(|worker| worker.working),
            exit: spread(|worker| worker.exit),
            longest: totals.longest.into_iter().map(Listed::describe).collect(),
            peak_memory: workers.iter().filter_map(|worker| worker.peak_memory).max(),
            workers,
        }
    }

    /// Of a pool that cannot be asked.
    pub(crate) fn none() -> Self {
        let survey = Survey {
            measured: false,
            since: Duration::ZERO,
            totals: Totals::default(),
            workers: Vec::new(),
            alive: Vec::new(),
        };
        Self::new(survey, Stats::default())
    }
}

impl Distribution {
    fn of(histogram: &Histogram) -> Self {
        let quantile = |part| Duration::from_nanos(histogram.quantile(part));
        Self {
            count: histogram.count(),
            mean: Duration::from_nanos(histogram.mean()),
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: Duration::from_nanos(histogram.max()),
        }
    }
}

impl Spread {
    fn of(workers: &[WorkerInsights], part: impl Fn(&WorkerInsights) -> Duration, all: Duration) -> Self {
        let total: Duration = workers.iter().map(&part).sum();
        let count = workers.len().max(1) as f64;
        let mean = total.as_secs_f64() / count;
        let square = |worker: &WorkerInsights| (part(worker).as_secs_f64() - mean).powi(2);
        let std = (workers.iter().map(square).sum::<f64>() / count).sqrt();
        let ratio = if all.is_zero() { 0.0 } else { total.as_secs_f64() / all.as_secs_f64() };
        Self { total, mean: Duration::from_secs_f64(mean), std: Duration::from_secs_f64(std), ratio }
    }
}

impl fmt::Display for Insights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stats, .. } = self;
        writeln!(
            f,
            "{} tasks in {}: {} succeeded, {} failed, {} timed out, {} cancelled, {} pending",
            stats.submitted,
            time(self.since),
            stats.succeeded,
            stats.failed,
            stats.timed_out,
            stats.cancelled,
            stats.pending
        )?;
        writeln!(
            f,
            "{} retried, {} requeued, {} taken back; {} workers died{}, {} retired{}",
            stats.retried,
            stats.requeued,
            stats.taken_back,
            stats.deaths.total(),
            kinds(&stats.deaths.by_cause()),
            stats.retired.total(),
            kinds(&stats.retired.by_reason())
        )?;
        writeln!(f)?;
        let mut workers = Table::new([
            "worker",
            "processes",
            "tasks",
            "start",
            "init",
            "waiting",
            "working",
            "exit",
            "peak memory",
        ]);
        for worker in &self.workers {
            let counts = [worker.worker.to_string(), worker.processes.to_string(), worker.tasks.to_string()];
            workers.row(&counts, worker.parts().map(time), memory(worker.peak_memory));
        }
        let spreads = [self.start, self.init, self.waiting, self.working, self.exit];
        let sum = |count: fn(&WorkerInsights) -> u64| self.workers.iter().map(count).sum::<u64>().to_string();
        let sums = ["total".to_owned(), sum(|worker| worker.processes), sum(|worker| worker.tasks)];
        workers.row(&sums, spreads.map(|spread| time(spread.total)), memory(self.peak_memory));
        let blank = |name: &str| [name.to_owned(), String::new(), String::new()];
        workers.row(&blank("mean"), spreads.map(|spread| time(spread.mean)), String::new());
        workers.row(&blank("std"), spreads.map(|spread| time(spread.std)), String::new());
        let percent = |spread: Spread| format!("{:.1} %", 100.0 * spread.ratio);
        workers.row(&blank("ratio"), spreads.map(percent), String::new());
        workers.fmt(f)?;
        if !self.measured {
            return f.write_str("\n\ntasks are not measured: see `Builder::insights`");
        }
        f.write_str("\n\n")?;
        let mut tasks = Table::new(["tasks", "count", "mean", "p50", "p99", "max"]);
        for (name, times) in [("wait", self.wait), ("run", self.run)] {
            let counts = [name.to_owned(), times.count.to_string()];
            tasks.row(&counts, [times.mean, times.p50, times.p99].map(time), time(times.max));
        }
        tasks.fmt(f)?;
        for (place, task) in self.longest.iter().enumerate() {
            let before = if place == 0 { "\n\nlongest:" } else { "\n        " };
            let LongTask { task, name, worker, ran_for, arguments } = task;
            write!(f, "{before} {:>8}  `{name}` (task {task}) on worker {worker}", time(*ran_for))?;
            if !arguments.is_empty() {
                write!(f, ": {arguments}")?;
            }
        }
        Ok(())
    }
}

/// Rows of columns that are as wide as they need to be: the first one to the left, the others to the right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new<const N: usize>(titles: [&str; N]) -> Self {
        Self { rows: vec![titles.map(str::to_owned).into()] }
    }

    fn row<const N: usize>(&mut self, first: &[String], middle: [String; N], last: String) {
        self.rows.push(first.iter().cloned().chain(middle).chain([last]).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        for (place, row) in self.rows.iter().enumerate() {
            let mut line = format!("{:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                line.push_str(&format!("  {cell:>width$}"));
            }
            let line_break = if place == 0 { "" } else { "\n" };
            write!(f, "{line_break}{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Those that there are: ` (2 signalled, 1 exited)`.
fn kinds(counts: &[(&'static str, u64)]) -> String {
    let seen: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    if seen.is_empty() { String::new() } else { format!(" ({})", seen.join(", ")) }
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0 => "0".to_owned(),
        ..0.000_999_5 => format!("{:.1} µs", seconds * 1e6),
        ..0.999_5 => format!("{:.1} ms", seconds * 1e3),
        ..600.0 => format!("{seconds:.1} s"),
        _ => format!("{:.1} min", seconds / 60.0),
    }
}

fn memory(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn worker(number: u32, working: u32) -> WorkerInsights {
        WorkerInsights {
            tasks: u64::from(working),
            processes: 1,
            start: 2 * MS,
            waiting: 18 * MS,
            working: working * MS,
            peak_memory: Some(3 << 20),
            ..WorkerInsights::none(WorkerId::new(number))
        }
    }

    fn insights(measured: bool) -> Insights {
        let mut totals = Totals::default();
        for ms in 1..=3 {
            totals.waits.record(500);
            totals.runs.record(ms * 1_000_000);
            let task = Listed {
                task: TaskId::new(ms),
                name: "crate::resize".to_owned(),
                worker: WorkerId::new(0),
                ran_for: Duration::from_millis(ms),
                called: Called::somehow(),
            };
            totals.list(task);
        }
        let survey = Survey {
            measured,
            since: Duration::from_secs(2),
            totals,
            workers: vec![worker(0, 20), worker(1, 40)],
            alive: Vec::new(),
        };
        let mut stats = Stats { submitted: 61, succeeded: 58, failed: 3, ..Stats::default() };
        stats.deaths.signalled = 2;
        (stats.retired.idle, stats.retired.tasks) = (1, 3);
        Insights::new(survey, stats)
    }

    #[test]
    fn the_parts_of_the_time_add_up() {
        let Insights { start, init, waiting, working, exit, longest, .. } = insights(true);
        let ratio: f64 = [start, init, waiting, working, exit].iter().map(|spread| spread.ratio).sum();
        assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
        assert_eq!((working.total, working.mean, working.std), (60 * MS, 30 * MS, 10 * MS));
        let order: Vec<u64> = longest.iter().map(|task| task.task.get()).collect();
        assert_eq!(order, [3, 2, 1]);
    }

    #[test]
    fn it_prints_an_aligned_table() {
        let expected = "\
61 tasks in 2.0 s: 58 succeeded, 3 failed, 0 timed out, 0 cancelled, 0 pending
0 retried, 0 requeued, 0 taken back; 2 workers died (2 signalled), 4 retired (3 tasks, 1 idle)

worker  processes  tasks   start   init  waiting  working   exit  peak memory
0               1     20  2.0 ms      0  18.0 ms  20.0 ms      0      3.0 MiB
1               1     40  2.0 ms      0  18.0 ms  40.0 ms      0      3.0 MiB
total           2     60  4.0 ms      0  36.0 ms  60.0 ms      0      3.0 MiB
mean                      2.0 ms      0  18.0 ms  30.0 ms      0
std                            0      0        0  10.0 ms      0
ratio                      4.0 %  0.0 %   36.0 %   60.0 %  0.0 %

tasks  count    mean     p50     p99     max
wait       3  0.5 µs  0.5 µs  0.5 µs  0.5 µs
run        3  2.0 ms  2.1 ms  3.0 ms  3.0 ms

longest:   3.0 ms  `crate::resize` (task 3) on worker 0: <unknown>
           2.0 ms  `crate::resize` (task 2) on worker 0: <unknown>
           1.0 ms  `crate::resize` (task 1) on worker 0: <unknown>";
        let found = insights(true).to_string();
        assert_eq!(found, expected, "\n{found}");
        assert!(insights(false).to_string().ends_with("tasks are not measured: see `Builder::insights`"));
    }
}
