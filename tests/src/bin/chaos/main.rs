//! A soak: pools with options by chance are used in every way while tasks crash, hang and vandalise, and a saboteur sends signals
//! to workers. At the end every task must have ended once, with its result or with an error for which there is a reason.
//!
//! ```text
//! cargo run --release -p pool-tests --bin chaos -- [--seed N] [--duration 60s] [--round K]
//! ```
//!
//! A run is a sequence of rounds of a few seconds. All decisions of a round follow from the seed and its number, so one that
//! failed can be played again by itself with `--round`; what happens in which order is the machine's decision.
//!
//! The exit status is 0 when nothing is wrong, 1 when something is, or nothing moves any more, and 2 when it cannot be told.

#[cfg(test)]
pool_core::test_worker!();

mod actor;
mod deed;
mod journal;
mod judge;
mod plan;
mod random;
mod record;
mod round;
mod saboteur;
mod settings;
mod tally;
mod watch;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use pool_tests::Footprint;

use crate::judge::{Finding, Wrong};
use crate::round::Round;
use crate::tally::Tally;
use crate::watch::Watch;

/// The environment variable by which everything is found that a run has started.
const MARK: &str = "POOL_CHAOS";
/// Findings that are printed in full.
const SHOWN: u64 = 20;
/// How long memory for the next pool may be kept when there is none.
const KEPT: Duration = Duration::from_secs(30);

/// Random faults at random moments, and whether the pool survives them.
#[derive(Debug, Parser)]
struct Options {
    /// Decides what happens; by default taken from the clock
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long rounds are begun, such as 60s or 30m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    duration: Duration,
    /// Play this round only, again and again
    #[arg(long, value_name = "K")]
    round: Option<u64>,
    /// Print the settings of each round before it begins
    #[arg(long, short)]
    verbose: bool,
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

/// Plays round after round; tells whether nothing was wrong.
fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    silence_what_is_on_purpose();
    let seed = match options.seed {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64,
    };
    let mark = std::process::id().to_string();
    let dir = tempfile::tempdir()?;
    let watch = Watch::start(options.verbose);
    let text = format!("{MARK}={mark}");
    let before = Footprint::take(&text, settings::NAME);
    let start = Instant::now();
    let mut tally = Tally::new(seed);
    let mut shown = 0;
    while start.elapsed() < options.duration {
        let round = Round {
            seed,
            number: options.round.unwrap_or(tally.rounds),
            dir: dir.path(),
            watch: &watch,
            before: &before,
            mark: (MARK, &mark),
            verbose: options.verbose,
        };
        watch.verdict(tally.so_far());
        for finding in round.play(&mut tally)? {
            report(&mut tally, &finding, &mut shown);
        }
        tally.rounds += 1;
        tally.time = start.elapsed();
    }
    if let Some(finding) = leftovers(&watch, &text, &before) {
        report(&mut tally, &finding, &mut shown);
    }
    drop(watch);
    println!("{tally}");
    Ok(tally.is_clean())
}

fn report(tally: &mut Tally, finding: &Finding, shown: &mut u64) {
    tally.find(finding);
    *shown += 1;
    if *shown <= SHOWN {
        eprintln!("\n{:?}: {}", finding.wrong, finding.text);
    }
}

/// What is there at the end, and was not there before.
fn leftovers(watch: &Watch, mark: &str, before: &Footprint) -> Option<Finding> {
    let deadline = Instant::now() + KEPT;
    loop {
        let now = Footprint::take(mark, settings::NAME);
        if now.is_within(before) {
            return None;
        }
        if Instant::now() > deadline {
            return Some(Finding { wrong: Wrong::Leaked, text: now.beyond(before) });
        }
        watch.title("waiting until memory for the next pool is given back".to_owned());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Panics that are part of the play are not shown.
fn silence_what_is_on_purpose() {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let on_purpose = panic.payload().downcast_ref::<&str>() == Some(&actor::ON_PURPOSE);
        if !on_purpose {
            show(panic);
        }
    }));
}

/// Reads a span of time such as `500ms`, `60s`, `30m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let read = |(unit, seconds): (&str, f64)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * seconds);
    units
        .into_iter()
        .find_map(read)
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "write a number with its unit: 500ms, 60s, 30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Options as clap::CommandFactory>::command().debug_assert();
        let options = Options::parse_from(["chaos", "--seed", "7", "--duration", "1.5m"]);
        assert_eq!((options.seed, options.duration), (Some(7), Duration::from_secs(90)));
        assert!(parse_duration("60").is_err() && parse_duration("-1s").is_err());
    }
}
