//! This program under callgrind.
//!
//! It runs itself there, does each step in a function of its own, twice, and has callgrind write down what that function
//! has taken each time, everything that it calls included. The difference, divided by how much more was done the second
//! time, is what doing it once takes: without the loop's beginning, and without what comes from the first time ever.

use std::fs;
use std::hint::black_box;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

use pool_benches::Outcome;

use crate::record::Count;
use crate::steps::{self, MOST, Repeat};

/// What this program is called with under callgrind.
pub(crate) const ARGUMENT: &str = "under-callgrind";

/// How often a step is done, the first time and the second.
const TIMES: [u32; 2] = [MOST / 4, MOST];

/// Does each step where it is counted.
pub(crate) fn play() -> Outcome<()> {
    for step in steps::all() {
        let mut repeat = (step.make)()?;
        // First uncounted: tables grow.
        for _ in 0..2 {
            repeat.prepare(MOST);
            repeat.run(MOST);
        }
        for count in TIMES {
            repeat.prepare(count);
            counted(&mut *repeat, count);
        }
    }
    Ok(())
}

/// Callgrind counts in here, and writes down what it has counted when this returns.
#[inline(never)]
fn counted(repeat: &mut dyn Repeat, count: u32) {
    repeat.run(black_box(count));
    // So that the call above is not turned into a jump, and this function into nothing.
    black_box(count);
}

/// Counts the instructions of each step.
pub(crate) fn count() -> Outcome<Vec<Count>> {
    let folder = tempfile::tempdir()?;
    let parts = folder.path().join("part");
    let function = std::any::type_name_of_val(&counted);
    let mut command = Command::new("valgrind");
    command
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--toggle-collect={function}"))
        .arg(format!("--dump-after={function}"))
        .arg(format!("--callgrind-out-file={}", parts.display()))
        .arg(std::env::current_exe()?)
        .arg(ARGUMENT);
    let output = run(&mut command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("callgrind: {}\n{said}", output.status).into());
    }
    let mut counts = Vec::new();
    for (step, first) in steps::all().zip((1..).step_by(TIMES.len())) {
        let totals = [total(&parts, first)?, total(&parts, first + 1)?];
        let each = (totals[1] - totals[0]) / f64::from(TIMES[1] - TIMES[0]);
        counts.push(((step.part.to_owned(), step.name.to_owned()), each));
    }
    Ok(counts)
}

/// The instructions in a part of what callgrind has written.
fn total(parts: &Path, number: usize) -> Outcome<f64> {
    let path = parts.with_extension(number.to_string());
    let part = fs::read_to_string(&path)
        .map_err(|error| format!("callgrind has not counted part {number}: {error}"))?;
    let totals = part.lines().find_map(|line| line.strip_prefix("totals: "));
    let totals = totals.ok_or_else(|| format!("no totals in part {number} of callgrind's output"))?;
    Ok(totals.trim().parse()?)
}

/// What the counts depend on besides the code.
pub(crate) fn tools() -> Outcome<String> {
    let version = |program: &str| -> Outcome<String> {
        let output = run(Command::new(program).arg("--version"))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Ok(format!("{}, {}, {}", version("rustc")?, version("valgrind")?, std::env::consts::ARCH))
}

fn run(command: &mut Command) -> Outcome<Output> {
    command.output().map_err(|error| {
        let program = command.get_program().display();
        match error.kind() {
            ErrorKind::NotFound => format!("`{program}` is not installed, and nothing is counted without it"),
            _ => format!("cannot run `{program}`: {error}"),
        }
        .into()
    })
}
