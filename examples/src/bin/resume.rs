//! A long job that may be killed at any moment, with Ctrl-C or `kill -9`, and goes on where it was when it is started again.
//!
//! ```text
//! cargo run --release -p pool-examples --bin resume -- [JOURNAL] [--blocks N] [--workers N] [--crash]
//! ```
//!
//! Workers look for the longest Collatz chain below a number: from `n` to `n / 2` if it is even, else to `3 n + 1`, until it is 1.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pool_core::{Pool, Progress, TaskContext, task};
use serde::{Deserialize, Serialize};

/// Starting numbers in a block.
const BLOCK: u64 = 10_000;
/// One block in so many crashes its worker with `--crash`.
const ONE_IN: u64 = 40;

/// Look for the longest Collatz chain, with a journal.
///
/// Kill the program at any moment, and start it again with the same options. The last three lines are the same as if it had not been
/// killed. Remove the journal to start from the beginning.
#[derive(Debug, Parser)]
struct Options {
    /// The journal, which is made if it is not there
    #[arg(default_value = "resume.journal")]
    journal: PathBuf,
    /// Blocks of 10,000 numbers
    #[arg(long, value_name = "N", default_value_t = 5000)]
    blocks: u64,
    /// Worker processes; by default one for each processor
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Have one block in 40 crash its worker when it is first tried
    #[arg(long)]
    crash: bool,
}

/// A chain: where it starts, and how many steps it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Chain {
    start: u64,
    steps: u32,
}

/// The longest chain from a number of this block. A journal of another version is refused: raise it when this changes.
#[task(version = 1)]
fn longest(block: u64, crash: bool, #[context] cx: &TaskContext) -> Chain {
    if crash && cx.attempt() == 1 && block.is_multiple_of(ONE_IN) {
        std::process::abort();
    }
    let starts = (block * BLOCK).max(1)..(block + 1) * BLOCK;
    let chains = starts.map(|start| Chain { start, steps: steps(start) });
    // Of chains of the same length, the first.
    chains.rev().max_by_key(|chain| chain.steps).unwrap_or(Chain { start: 1, steps: 0 })
}

fn steps(start: u64) -> u32 {
    let (mut n, mut steps) = (start, 0);
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}

fn main() -> ExitCode {
    pool_core::init();
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = Pool::builder().name("resume");
    if let Some(workers) = options.workers {
        builder = builder.workers(workers);
    }
    let pool = builder.build()?;
    let batch = pool.batch().journal(&options.journal).retries(2).progress(Progress::bar("blocks"));
    let chains = batch.map(|block| longest(block, options.crash), 0..options.blocks)?;

    let ran = pool.stats().succeeded;
    println!("{} blocks were done before, {ran} now", options.blocks - ran.min(options.blocks));
    let best = chains.iter().rev().max_by_key(|chain| chain.steps).ok_or("there are no blocks")?;
    println!("{} blocks of {BLOCK} numbers", chains.len());
    println!("longest chain: {} steps, from {}", best.steps, best.start);
    // Any result that were lost, doubled or in the wrong place would change this.
    let sum = chains.iter().fold(0_u64, |sum, chain| {
        sum.wrapping_mul(31).wrapping_add(chain.start).wrapping_mul(31).wrapping_add(u64::from(chain.steps))
    });
    println!("sum of all results: {sum:016x}");
    Ok(())
}
