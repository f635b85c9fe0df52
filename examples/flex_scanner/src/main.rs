//! A scanner that threads cannot share, in several processes at once.
//!
//! Scanners made by flex keep buffer, state and counters in global variables. This program shows what becomes of that when
//! threads share one, and then scans the same files with a pool, where each worker has a scanner of its own.
//!
//! ```text
//! cargo run --release -p flex-scanner -- [DIR]
//! ```

mod counts;
mod ffi;
mod threads;

use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use pool_core::Pool;
use pool_examples::{below, cargo_sources};
use pool_worker::command::Command;

use crate::counts::{Counts, scan, scan_here};

/// What is scanned.
const EXTENSIONS: [&str; 8] = ["c", "cc", "cpp", "h", "hpp", "java", "js", "rs"];

/// Scan source files with a flex scanner: with threads that share it, and with a pool of processes.
///
/// The exit status is 1 when a count of the pool is wrong.
#[derive(Debug, Parser)]
struct Options {
    /// Directory whose source files are scanned; by default the crate sources that cargo has downloaded
    dir: Option<PathBuf>,
    /// Worker processes, beside the runs with one and two; by default one for each processor
    #[arg(long, value_name = "N")]
    workers: Option<NonZero<usize>>,
    /// Threads that share the scanner
    #[arg(long, value_name = "N", default_value = "4")]
    threads: NonZero<usize>,
    /// How often threads are given the chance to go wrong
    #[arg(long, value_name = "N", default_value_t = 20)]
    attempts: u32,
    /// Scan each file this many times
    #[arg(long, value_name = "N", default_value = "1")]
    repeat: NonZero<usize>,
    /// Only scan, with threads that share the scanner, and print the sums: undefined behaviour
    #[arg(long)]
    share: bool,
}

fn main() -> ExitCode {
    pool_core::init();
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Does it all; tells whether the pool's counts are right.
fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let none = "cargo has downloaded no crate sources; name a directory: flex-scanner DIR";
    let dir = options.dir.clone().or_else(cargo_sources).ok_or(none)?;
    let mut files = below(&dir)?;
    files.retain(|file| is_source(file));
    if files.is_empty() {
        return Err(format!(
            "no source file is below {}; name another directory: flex-scanner DIR",
            dir.display()
        )
        .into());
    }
    let files: Vec<PathBuf> = std::iter::repeat_n(files, options.repeat.get()).flatten().collect();
    if options.share {
        threads::share(&files, options.threads);
        return Ok(true);
    }
    // An unreadable file has no size; its error is compared like a count.
    let bytes: u64 = files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();

    // The first scan brings the files into memory; the second one is timed.
    let expected: Vec<Result<Counts, String>> = files.iter().map(|file| scan_here(file)).collect();
    let start = Instant::now();
    let again: Vec<Result<Counts, String>> = files.iter().map(|file| scan_here(file)).collect();
    let here = start.elapsed().as_secs_f64();
    if again != expected {
        return Err("two scans in one thread differ: have the files changed?".into());
    }
    let total: Counts = expected.iter().flatten().copied().sum();
    println!("{} files, {bytes} bytes: {total:?}", files.len());

    println!("\n{} threads share the scanner:", options.threads);
    share_elsewhere(options, &dir, total)?;

    println!("\nprocesses have a scanner each:");
    let speed = |what: &str, seconds: f64, wrong: usize| {
        println!("{what:<22}{seconds:>8.3} s{:>10.1} MB/s   wrong {wrong}", bytes as f64 / seconds / 1e6);
    };
    speed("one thread, no pool", here, 0);
    let mut sizes =
        vec![1, 2, options.workers.or(std::thread::available_parallelism().ok()).map_or(2, NonZero::get)];
    sizes.sort_unstable();
    sizes.dedup();
    let (mut times, mut right) = (Vec::new(), true);
    for workers in sizes {
        let (seconds, wrong) = in_pool(workers, &files, &expected)?;
        speed(&format!("pool, workers: {workers}"), seconds, wrong);
        times.push((workers, seconds));
        right &= wrong == 0;
    }
    if let [(1, one), (2, two), ..] = times[..] {
        println!("2 workers are {:.2} times as fast as 1", one / two);
    }
    Ok(right)
}

fn is_source(file: &Path) -> bool {
    file.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
}

/// Has a child process share the scanner among threads until something goes wrong, and reports it.
fn share_elsewhere(options: &Options, dir: &Path, total: Counts) -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().name("share").workers(1).build()?;
    let child = Command::new(std::env::current_exe()?)
        .arg("--share")
        .args(["--threads", &options.threads.to_string(), "--repeat", &options.repeat.to_string(), "--"])
        .arg(dir);
    for attempt in 1..=options.attempts {
        if let Some(trouble) = threads::observe(&pool, child.clone(), total)? {
            println!("run {attempt} went wrong: {trouble}");
            return Ok(());
        }
    }
    println!("nothing went wrong in {} runs, by chance: the files are few; try --repeat", options.attempts);
    Ok(())
}

/// Scans the files in a pool; returns the seconds that it took and how many results differ from what is expected.
fn in_pool(
    workers: usize,
    files: &[PathBuf],
    expected: &[Result<Counts, String>],
) -> Result<(f64, usize), Box<dyn std::error::Error>> {
    let pool = Pool::builder().name("scan").workers(workers).build()?;
    // The workers' start is not what is measured.
    pool.map(scan, files.iter().take(4 * workers).cloned())?;
    let start = Instant::now();
    let found = pool.map(scan, files.iter().cloned())?;
    let seconds = start.elapsed().as_secs_f64();
    if found.len() != expected.len() {
        return Err(
            format!("{} of {} results are missing", expected.len() - found.len(), expected.len()).into()
        );
    }
    Ok((seconds, found.iter().zip(expected).filter(|(found, expected)| found != expected).count()))
}
