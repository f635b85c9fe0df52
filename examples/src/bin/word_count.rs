//! Counts words in worker processes while a saboteur kills them, and checks every count against one made in this process.
//!
//! ```text
//! cargo run --release -p pool-examples --bin word_count -- [DIR] [--workers N] [--kill-every 20ms] [--settled]
//! ```

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use pool_core::{Pool, RestartPolicy, Stats};
use pool_examples::{Count, Saboteur, below, cargo_sources, count, count_in_threads, parse_interval};

/// With a saboteur and no `--rounds`, the job is repeated for this long, so that there is time for kills.
const SABOTAGE: Duration = Duration::from_secs(3);

/// Retries with a saboteur: a limit that only a file is likely to reach which cannot be counted between two kills.
const RETRIES: u32 = 1000;

/// A worker that is killed before it has started, or idle, is replaced soon, and the pool does not take it for a sign that
/// its executable is broken.
const UNDER_FIRE: RestartPolicy = RestartPolicy {
    max_restarts: 10_000,
    window: Duration::from_secs(60),
    first_delay: Duration::from_millis(5),
    max_delay: Duration::from_millis(50),
};

/// Lost, and wrong, results that are shown one by one.
const SHOWN: usize = 5;

/// Count words, lines and bytes of files in worker processes, and check the counts.
///
/// Files must not change in the meantime. The exit status is 1 when a result is lost or wrong.
#[derive(Debug, Parser)]
struct Options {
    /// Directory whose files are counted; by default the crate sources that cargo has downloaded
    dir: Option<PathBuf>,
    /// Worker processes; by default one for each processor
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Kill a random worker at this interval, such as 20ms
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    kill_every: Option<Duration>,
    /// Use map_settled, where each file has its own outcome, instead of map, which the first failure aborts
    #[arg(long)]
    settled: bool,
    /// How often a file is tried again whose worker died; by default 1000 with --kill-every, otherwise 0
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// How often the whole job is done; by default for 3 s with --kill-every, otherwise once
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
}

type Results = Vec<Result<Count, String>>;

/// What the pool's rounds came to.
#[derive(Debug, Default)]
struct Verdict {
    rounds: u32,
    time: Duration,
    lost: u64,
    wrong: u64,
}

fn main() -> ExitCode {
    pool_core::init();
    let options = Options::parse();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Does it all; tells whether nothing was lost or wrong.
fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let none = "cargo has downloaded no crate sources; name a directory: word_count DIR";
    let dir = options.dir.clone().or_else(cargo_sources).ok_or(none)?;
    let files = below(&dir)?;
    if files.is_empty() {
        return Err(format!(
            "no regular file is below {}; name another directory: word_count DIR",
            dir.display()
        )
        .into());
    }
    let workers = match options.workers {
        Some(workers) => workers,
        None => std::thread::available_parallelism()?.get(),
    };

    // Once without a clock, so that both sides find the files in memory.
    drop(count_in_threads(&files, workers));
    let start = Instant::now();
    let expected = count_in_threads(&files, workers);
    let here = start.elapsed();

    let mut builder = Pool::builder().name("word_count").workers(workers);
    if options.kill_every.is_some() {
        builder = builder.restart(UNDER_FIRE);
    }
    let pool = builder.build()?;
    let saboteur = options.kill_every.map(|interval| Saboteur::start(pool.clone(), interval));
    let verdict = rounds(options, &pool, &files, &expected);
    let kills = saboteur.map_or(0, Saboteur::stop);
    // Deaths are counted when they are noticed: after this, all are.
    pool.join();
    report(workers, &expected, here, &verdict, kills, &pool.stats());
    Ok(verdict.lost == 0 && verdict.wrong == 0)
}

/// Has the pool count the files again and again, and compares each round with what is expected.
fn rounds(options: &Options, pool: &Pool, files: &[PathBuf], expected: &Results) -> Verdict {
    let retries = options.retries.unwrap_or(if options.kill_every.is_some() { RETRIES } else { 0 });
    let call = |file: &PathBuf| count(file.clone()).retries(retries);
    let mut verdict = Verdict::default();
    let enough = |verdict: &Verdict| match (options.rounds, options.kill_every) {
        (Some(rounds), _) => verdict.rounds >= rounds,
        (None, None) => verdict.rounds >= 1,
        (None, Some(_)) => verdict.time >= SABOTAGE,
    };
    while !enough(&verdict) {
        let start = Instant::now();
        let outcomes: Vec<Option<Result<Count, String>>> = if options.settled {
            let outcomes = pool.map_settled(call, files);
            let failed = outcomes
                .iter()
                .zip(files)
                .filter_map(|(outcome, file)| Some((outcome.as_ref().err()?, file)));
            for (error, file) in failed.take(SHOWN.saturating_sub(verdict.lost as usize)) {
                eprintln!("lost: {}: {error}", file.display());
            }
            outcomes.into_iter().map(Result::ok).collect()
        } else {
            match pool.map(call, files) {
                Ok(results) => results.into_iter().map(Some).collect(),
                Err(error) => {
                    eprintln!("the map failed: {error}");
                    Vec::new()
                }
            }
        };
        verdict.time += start.elapsed();
        verdict.rounds += 1;
        let found = outcomes.iter().flatten().count() as u64;
        verdict.lost += (files.len() as u64).saturating_sub(found);
        let differ = |((outcome, expected), _): &((&Option<_>, _), _)| {
            outcome.as_ref().is_some_and(|result| result != *expected)
        };
        let wrong = outcomes.iter().zip(expected).zip(files).filter(differ);
        for ((outcome, expected), file) in wrong.clone().take(SHOWN.saturating_sub(verdict.wrong as usize)) {
            eprintln!("wrong: {}: {outcome:?} in the pool, {expected:?} here", file.display());
        }
        verdict.wrong += wrong.count() as u64;
        if found == 0 {
            // The pool is broken, or its map has been aborted: the next round would end likewise.
            break;
        }
    }
    verdict
}

fn report(workers: usize, expected: &Results, here: Duration, verdict: &Verdict, kills: u64, stats: &Stats) {
    let total: Count = expected.iter().flatten().copied().sum();
    let unreadable = expected.iter().filter(|result| result.is_err()).count();
    let line = |name: &str, value: String| println!("{name:<22}{value:>14}");
    line("files", expected.len().to_string());
    line("unreadable files", unreadable.to_string());
    line("words", total.words.to_string());
    line("lines", total.lines.to_string());
    line("bytes", total.bytes.to_string());

    let speed = |what: &str, rounds: u32, time: Duration| {
        let (seconds, rounds) = (time.as_secs_f64(), f64::from(rounds));
        let (files, bytes) = (expected.len() as f64 * rounds, total.bytes as f64 * rounds);
        println!(
            "{what:<22}{seconds:>12.3} s{:>12.0} files/s{:>10.1} MB/s",
            files / seconds,
            bytes / seconds / 1e6
        );
    };
    println!();
    speed(&format!("pool, {workers} workers"), verdict.rounds, verdict.time);
    speed(&format!("here, {workers} threads"), 1, here);
    println!();

    line("rounds", verdict.rounds.to_string());
    line("kills", kills.to_string());
    line("workers started", stats.spawned.to_string());
    line("deaths", stats.deaths.total().to_string());
    for (cause, deaths) in stats.deaths.by_cause().into_iter().filter(|(_, deaths)| *deaths > 0) {
        line(&format!("  {cause}"), deaths.to_string());
    }
    line("re-queued", stats.requeued.to_string());
    line("retried", stats.retried.to_string());
    line("lost", verdict.lost.to_string());
    line("wrong", verdict.wrong.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Options as clap::CommandFactory>::command().debug_assert();
        let options =
            Options::parse_from(["word_count", "dir", "--kill-every", "20ms", "--settled", "--workers", "3"]);
        assert_eq!(options.kill_every, Some(Duration::from_millis(20)));
        assert_eq!((options.dir, options.workers), (Some("dir".into()), Some(3)));
    }
}
