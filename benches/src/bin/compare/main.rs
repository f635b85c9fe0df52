//! This pool beside the limits of the machine and beside other pools, measured in one run.
//!
//! ```sh
//! cargo run --release -p pool-benches --bin compare -- --peers
//! ```
//!
//! Machines are noisy, so everything is measured in turn, several times, and the medians are compared: read the ratios. What
//! each row means is in `benches/README.md`, the rows and their targets are in `rows.rs`.

mod bare;
mod check;
mod effort;
mod heap;
mod journal;
mod ours;
mod peers;
mod report;
mod rows;
mod sys;
mod tasks;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pool_benches::Outcome;

use crate::effort::Effort;
use crate::journal::Journal;
use crate::ours::Probe;
use crate::peers::Peers;
use crate::report::environment::Environment;
use crate::rows::{ROWS, Row};
use crate::watchdog::Watchdog;

/// In how many rounds peers take part: they take long.
const PEER_ROUNDS: u32 = 3;

/// Measure the pool beside the limits of the machine, and beside other pools.
#[derive(Debug, Parser)]
struct Options {
    /// Fewer repetitions and smaller sizes: less than half a minute without peers
    #[arg(long)]
    quick: bool,
    /// Exit with status 1 when a target is missed
    #[arg(long)]
    check: bool,
    /// Write all samples into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure other pools too; they are installed on first use
    #[arg(long)]
    peers: bool,
    /// Draw figures into this folder
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "docs/performance")]
    svg: Option<PathBuf>,
    /// Only rows whose name or id contains this
    #[arg(long, value_name = "SUBSTRING")]
    only: Option<String>,
}

fn main() -> ExitCode {
    pool_core::init();
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some(bare::child::ARGUMENT) => bare::child::play(&arguments.next().unwrap_or_default()),
        Some(ours::memory::ARGUMENT) => ours::memory::play(&arguments.next().unwrap_or_default()),
        _ => return compare(&Options::parse()).unwrap_or_else(|error| complain(&*error)),
    };
    outcome.map_or_else(|error| complain(&*error), |()| ExitCode::SUCCESS)
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("compare: {error}");
    ExitCode::from(2)
}

fn compare(options: &Options) -> Outcome<ExitCode> {
    let rows = selected(options.only.as_deref())?;
    let effort = Effort { quick: options.quick };
    let mut journal = Journal::default();
    let mut peers = if options.peers { Some(Peers::set_up(&rows, &mut journal)?) } else { None };
    let mut environment = Environment::look(options.quick, effort.rounds())?;
    let failed = measure(&rows, effort, peers.as_mut(), &mut journal)?;
    environment.finish()?;

    print!("{}", report::table::write(&rows, &journal, &environment));
    if let Some(file) = &options.json {
        std::fs::write(file, report::json::write(&rows, &journal, &environment)?)?;
    }
    if let Some(folder) = &options.svg {
        report::svg::write(folder, &journal)?;
    }
    let misses = if options.check { check::misses(&rows, &journal) } else { Vec::new() };
    for miss in &misses {
        println!("{miss}");
    }
    if options.check {
        println!("{} of {} rows missed; {}", misses.len(), rows.len(), check::tolerance());
    }
    Ok(if failed || !misses.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn selected(only: Option<&str>) -> Outcome<Vec<Row>> {
    let only = only.unwrap_or_default();
    let rows: Vec<Row> =
        ROWS.iter().filter(|row| row.id.contains(only) || row.name.contains(only)).copied().collect();
    if rows.is_empty() {
        let ids: Vec<&str> = ROWS.iter().map(|row| row.id).collect();
        return Err(format!("no row contains {only:?}; there are {}", ids.join(", ")).into());
    }
    Ok(rows)
}

/// Measures everything in turn, again and again. Tells whether something of ours has failed, which is also a remark.
fn measure(
    rows: &[Row],
    effort: Effort,
    mut peers: Option<&mut Peers>,
    journal: &mut Journal,
) -> Outcome<bool> {
    let probes: Vec<Probe> =
        Probe::ALL.into_iter().filter(|probe| rows.iter().any(|row| row.probe == *probe)).collect();
    let watchdog = Watchdog::start()?;
    let mut failed = Vec::new();
    for round in 0..effort.rounds() {
        eprintln!("round {} of {}", round + 1, effort.rounds());
        for probe in &probes {
            if round >= probe.rounds(effort) || failed.contains(probe) {
                continue;
            }
            watchdog.watch(*probe);
            let outcome = probe.run(effort, journal);
            watchdog.rest();
            if let Err(error) = outcome {
                journal.remark(format!("{probe:?} has failed: {error}"));
                failed.push(*probe);
            }
        }
        if let Some(peers) = peers.as_deref_mut().filter(|_| round < effort.pick(1, PEER_ROUNDS)) {
            peers.run(effort, round > 0, journal);
        }
    }
    Ok(!failed.is_empty())
}
