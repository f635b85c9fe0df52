//! How many instructions each step of a tiny task takes, counted by callgrind.
//!
//! ```sh
//! cargo run --release -p pool-benches --bin instructions              # the table
//! cargo run --release -p pool-benches --bin instructions -- --check   # status 1 when a step has changed
//! cargo run --release -p pool-benches --bin instructions -- --record  # writes docs/performance/instructions.md
//! ```
//!
//! Time varies with whatever else the machine does; instructions do not. So what a change costs shows here, to the
//! instruction, on a busy machine too.

mod callgrind;
mod record;
mod steps;

use std::process::ExitCode;

use clap::Parser;
use pool_benches::Outcome;

use crate::record::Record;

/// How far a count may be from the recorded one.
const TOLERANCE: f64 = 0.03;

/// Count the instructions of each step of a tiny task.
#[derive(Debug, Parser)]
struct Options {
    /// Exit with status 1 when a step takes 3 % more or fewer instructions than recorded
    #[arg(long)]
    check: bool,
    /// Write the recorded table anew
    #[arg(long, conflicts_with = "check")]
    record: bool,
}

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        Some(callgrind::ARGUMENT) => callgrind::play().map(|()| ExitCode::SUCCESS),
        _ => count(&Options::parse()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("instructions: {error}");
        ExitCode::from(2)
    })
}

fn count(options: &Options) -> Outcome<ExitCode> {
    let now = Record { tools: callgrind::tools()?, counts: callgrind::count()? };
    if options.record {
        now.write()?;
        println!("{}", now.table());
        return Ok(ExitCode::SUCCESS);
    }
    let old = match Record::read() {
        Ok(old) => old,
        Err(error) if options.check => return Err(error),
        Err(_) => Record::default(),
    };
    if !old.counts.is_empty() && old.tools != now.tools {
        println!("recorded with {}; now {}: counts may differ for that reason\n", old.tools, now.tools);
    }
    println!("{:<10} {:<42} {:>12} {:>12} {:>8}", "part", "step", "instructions", "recorded", "change");
    let mut misses = Vec::new();
    for (step, count) in &now.counts {
        let recorded = old.find(step);
        let change = recorded.map(|recorded| count / recorded - 1.0);
        let shown = recorded.map_or_else(|| "-".to_owned(), |recorded| format!("{recorded:.1}"));
        let percent = change.map_or_else(|| "-".to_owned(), |change| format!("{:+.1} %", change * 100.0));
        println!("{:<10} {:<42} {count:>12.1} {shown:>12} {percent:>8}", step.0, step.1);
        match change {
            None => misses.push(format!("{}, {}: not recorded", step.0, step.1)),
            Some(change) if change.abs() > TOLERANCE => {
                misses.push(format!("{}, {}: {count:.1} against {shown} ({percent})", step.0, step.1));
            }
            Some(_) => {}
        }
    }
    for (step, _) in old.counts.iter().filter(|(step, _)| now.find(step).is_none()) {
        misses.push(format!("{}, {}: recorded, but no longer there", step.0, step.1));
    }
    if !options.check || misses.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    misses.iter().for_each(|miss| println!("miss: {miss}"));
    println!("where that is meant, update the record with --record");
    Ok(ExitCode::FAILURE)
}
