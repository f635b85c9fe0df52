//! How far a batch is, for those who watch it.
//!
//! The thread that runs a batch counts what it takes out of the inbox, and reports now and then and once at the end; nobody
//! else does anything, and a batch that is not watched pays nothing.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::TaskError;
use crate::fork::Origin;
use crate::supervisor::shared::Shared;
use crate::told::caught;

/// Reports are this far apart at least.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// Reports how far a batch is; given to [`Batch::progress`](crate::Batch::progress), or to [`Completed::progress`](crate::Completed::progress)
/// for single tasks.
///
/// ```no_run
/// use pool_core::{Pool, Progress, task};
///
/// #[task]
/// fn square(n: u64) -> u64 {
///     n * n
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// pool_core::init();
/// let pool = Pool::builder().workers(2).build()?;
/// let progress = Progress::with(|report| eprintln!("{report}"));
/// let squares = pool.batch().progress(progress).map(square, 0..1_000_000)?;
/// assert_eq!(squares.len(), 1_000_000);
/// # Ok(())
/// # }
/// ```
///
/// Reports come from the thread that waits for the results: while nobody asks an iterator for the next one, there are none.
#[derive(Clone)]
pub struct Progress {
    show: Show,
    total: Option<u64>,
}

#[derive(Clone)]
enum Show {
    Call(Arc<dyn Fn(&ProgressReport) + Send + Sync>),
    #[cfg(feature = "progress")]
    Bar(String),
}

/// How far a batch is. Printed, it is a line such as `250/1000 in 3.2 s, 3 failed, 2 workers died`; the last one has the latest
/// failure as well.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ProgressReport {
    /// Items that have ended, in whatever way.
    pub done: u64,
    /// How many of them have failed.
    pub failed: u64,
    /// How many items there are, where that is known.
    pub total: Option<u64>,
    /// Time since the batch began.
    pub elapsed: Duration,
    /// Items per second since the batch began, without those whose outcomes were known.
    pub rate: f64,
    /// Workers of the pool that have died since the batch began.
    pub deaths: u64,
    /// The latest failure.
    pub last_failure: Option<String>,
    /// Whether this is the last report.
    pub finished: bool,
}

impl Progress {
    /// Calls a function at most ten times a second, and once at the end, also when the batch fails, is dropped or panics.
    ///
    /// A function that panics is not called again; the batch goes on.
    pub fn with(report: impl Fn(&ProgressReport) + Send + Sync + 'static) -> Self {
        Self { show: Show::Call(Arc::new(report)), total: None }
    }

    /// Draws a bar on stderr, with how many items have ended, the time since the start, the time that is left, items per second and
    /// failures, and leaves one line at the end; does nothing where stderr is no terminal.
    ///
    /// Several at once are drawn below each other.
    #[cfg(feature = "progress")]
    #[must_use]
    pub fn bar(name: impl Into<String>) -> Self {
        Self { show: Show::Bar(name.into()), total: None }
    }

    /// How many items there are, for an input that does not tell by its [`size_hint`](Iterator::size_hint).
    #[must_use]
    pub fn total(mut self, items: u64) -> Self {
        self.total = Some(items);
        self
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("total", &self.total).finish_non_exhaustive()
    }
}

impl fmt::Display for ProgressReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.total {
            Some(total) => write!(f, "{}/{total}", self.done)?,
            None => write!(f, "{}", self.done)?,
        }
        let mut line = format!(" in {:.1} s", self.elapsed.as_secs_f64());
        self.add_troubles(&mut line);
        f.write_str(&line)
    }
}

impl ProgressReport {
    fn add_troubles(&self, line: &mut String) {
        if self.failed > 0 {
            *line += &format!(", {} failed", self.failed);
        }
        if let Some(failure) = self.last_failure.as_deref().and_then(|failure| failure.lines().next())
            && self.finished
        {
            *line += &format!(" (last: {failure})");
        }
        match self.deaths {
            0 => {}
            1 => *line += ", 1 worker died",
            deaths => *line += &format!(", {deaths} workers died"),
        }
    }
}

/// The counts of one batch, and where they are shown. Dropped, it gives the last report.
pub(crate) struct Feed {
    show: Option<Shown>,
    /// The pools, each with its deaths before the batch.
    pools: Vec<(Arc<Shared>, u64)>,
    origin: Origin,
    begun: Instant,
    reported: Instant,
    done: u64,
    /// How many of them were known without being run.
    known: u64,
    failed: u64,
    total: Option<u64>,
    last_failure: Option<String>,
}

enum Shown {
    Call(Arc<dyn Fn(&ProgressReport) + Send + Sync>),
    #[cfg(feature = "progress")]
    Bar(bar::Bar),
}

impl Feed {
    /// Begins to count. `hint` is what the input says of its length; the tasks are those of these pools.
    pub(crate) fn new(progress: Progress, hint: (usize, Option<usize>), pools: Vec<Arc<Shared>>) -> Self {
        let exact = hint.1.filter(|most| *most == hint.0).map(|items| items as u64);
        let total = progress.total.or(exact);
        let show = match progress.show {
            Show::Call(report) => Some(Shown::Call(report)),
            #[cfg(feature = "progress")]
            Show::Bar(name) => bar::Bar::new(name, total).map(Shown::Bar),
        };
        let now = Instant::now();
        Self {
            show,
            pools: pools.into_iter().map(|pool| (Arc::clone(&pool), deaths(&pool))).collect(),
            origin: Origin::here(),
            begun: now,
            reported: now,
            done: 0,
            known: 0,
            failed: 0,
            total,
            last_failure: None,
        }
    }

    /// Items were known, which are about to be counted as ended.
    pub(crate) fn known(&mut self, items: usize) {
        self.known += items as u64;
    }

    /// Items have ended.
    pub(crate) fn landed(&mut self, items: usize) {
        self.done += items as u64;
        self.tick();
    }

    /// One of them has failed.
    pub(crate) fn failed(&mut self, error: &TaskError) {
        self.failed += 1;
        // What was cancelled because of a failure is not the news.
        if self.last_failure.is_none() || !matches!(error, TaskError::Cancelled) {
            self.last_failure = Some(error.to_string());
        }
    }

    /// Reports, if it is time.
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.reported) >= INTERVAL {
            self.reported = now;
            self.report(false);
        }
    }

    fn report(&mut self, finished: bool) {
        if self.origin.is_elsewhere() {
            // What it was shown on belongs to another process.
            std::mem::forget(self.show.take());
            return;
        }
        let Some(show) = &self.show else { return };
        let elapsed = self.begun.elapsed();
        let report = ProgressReport {
            done: self.done,
            failed: self.failed,
            total: self.total,
            elapsed,
            rate: self.done.saturating_sub(self.known) as f64 / elapsed.as_secs_f64().max(1e-9),
            deaths: self.pools.iter().map(|(pool, before)| deaths(pool).saturating_sub(*before)).sum(),
            last_failure: self.last_failure.clone(),
            finished,
        };
        let shown = caught(|| match show {
            Shown::Call(call) => call(&report),
            #[cfg(feature = "progress")]
            Shown::Bar(bar) => bar.show(&report),
        });
        if shown.is_none() {
            tracing::warn!("a progress report has panicked: no more are given");
            self.show = None;
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.report(true);
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("done", &self.done).field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// How many workers of a pool have died; none that is known of, if it is another process's.
fn deaths(pool: &Shared) -> u64 {
    if pool.origin.is_elsewhere() {
        return 0;
    }
    pool.look(|engine| engine.deaths.total())
}

#[cfg(feature = "progress")]
mod bar {
    use std::io::{IsTerminal, stderr};
    use std::sync::OnceLock;

    use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

    use super::ProgressReport;

    /// All bars of this program share the terminal.
    static BARS: OnceLock<MultiProgress> = OnceLock::new();

    fn bars() -> &'static MultiProgress {
        BARS.get_or_init(MultiProgress::new)
    }

    pub(super) struct Bar {
        name: String,
        bar: ProgressBar,
    }

    impl Bar {
        /// None where stderr is no terminal.
        pub(super) fn new(name: String, total: Option<u64>) -> Option<Self> {
            if !stderr().is_terminal() {
                return None;
            }
            let (bar, template) = match total {
                Some(total) => {
                    (ProgressBar::new(total), "{prefix} {wide_bar} {pos}/{len} {elapsed}<{eta} {msg}")
                }
                None => (ProgressBar::no_length(), "{prefix} {spinner} {pos} {elapsed} {msg}"),
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            let bar = bars().add(bar);
            bar.set_prefix(name.clone());
            bar.tick();
            Some(Self { name, bar })
        }

        pub(super) fn show(&self, report: &ProgressReport) {
            if !report.finished {
                self.bar.set_position(report.done);
                let mut message = format!("{:.0}/s", report.rate);
                report.add_troubles(&mut message);
                self.bar.set_message(message);
                return;
            }
            self.bar.finish_and_clear();
            bars().remove(&self.bar);
            if let Err(error) = bars().println(format!("{}: {report}", self.name)) {
                tracing::debug!(%error, "the terminal is gone");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line() {
        let mut report = ProgressReport {
            done: 3,
            failed: 0,
            total: None,
            elapsed: Duration::from_millis(1250),
            rate: 2.4,
            deaths: 0,
            last_failure: None,
            finished: false,
        };
        assert_eq!(report.to_string(), "3 in 1.2 s");
        (report.total, report.finished) = (Some(10), true);
        (report.failed, report.last_failure) = (2, Some("first line\nsecond line".to_owned()));
        assert_eq!(report.to_string(), "3/10 in 1.2 s, 2 failed (last: first line)");
        report.deaths = 1;
        assert!(report.to_string().ends_with("), 1 worker died"));
        report.deaths = 2;
        assert!(report.to_string().ends_with("), 2 workers died"));
    }
}
