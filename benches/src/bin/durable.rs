//! What a journal or a store costs an item, beside what it would cost to write each result by hand.
//!
//! ```sh
//! cargo run --release -p pool-benches --bin durable -- --dir /a/directory/on/the/disk
//! ```
//!
//! All rows are of one run, take turns, and check their results. With `--python`, a Python that has joblib, `joblib.Memory` gets the
//! same work; GNU parallel does with `--resume`, if it is installed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use pool_benches::samples::{extremes, median, micros};
use pool_benches::{Outcome, ensure};
use pool_core::{Journal, Pool, Store, StoreBuilder, task};

/// Workers of the pool, and jobs of GNU parallel.
const WORKERS: usize = 2;
/// Bytes of a large result.
const LARGE: usize = 1 << 20;

/// What a journal costs.
#[derive(Debug, Parser)]
struct Options {
    /// Where files are written; what counts is the disk that is below it
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Tiny tasks in a map
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    items: u64,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    /// A Python with joblib
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
}

/// As little as a task can do and be checked.
#[task]
fn tiny(n: u64) -> u64 {
    n + 1
}

#[task]
fn large(n: u64) -> Vec<u8> {
    vec![n as u8; LARGE]
}

/// Does something for so many items, with files in this directory.
type Run = Box<dyn Fn(&Path, u64) -> Outcome<()>>;

/// Something that is done for many items.
struct Row {
    name: &'static str,
    items: u64,
    run: Run,
    /// What each round has taken for an item.
    times: Vec<f64>,
}

impl Row {
    fn new(name: &'static str, items: u64, run: impl Fn(&Path, u64) -> Outcome<()> + 'static) -> Self {
        Self { name, items, run: Box::new(run), times: Vec::new() }
    }
}

fn main() -> ExitCode {
    pool_core::init();
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("durable: {error}");
            ExitCode::from(2)
        }
    }
}

fn measure(options: &Options) -> Outcome<()> {
    let pool = Pool::builder().workers(WORKERS).build()?;
    let mut rows = rows(&pool, options);
    // Uncounted: workers start, tables grow.
    pool.map(tiny, 0..options.items)?;
    for _ in 0..options.rounds {
        for row in &mut rows {
            let directory = tempfile::tempdir_in(&options.dir)?;
            if row.name == AGAIN {
                journalled(&pool, &Journal::at(directory.path().join("journal")), row.items)?;
            }
            if row.name == STORED {
                stored(&pool, directory.path(), Store::builder().sync(false), row.items)?;
            }
            let start = Instant::now();
            (row.run)(directory.path(), row.items)?;
            row.times.push(micros(start.elapsed()) / row.items as f64);
        }
    }
    println!(
        "µs per item in {}, pool of {WORKERS}, median (and range) of {} rounds",
        options.dir.display(),
        options.rounds
    );
    for row in rows {
        let (middle, (least, most)) =
            median(&row.times).zip(extremes(&row.times)).ok_or("nothing was measured")?;
        println!("{:<48} {:>8} items {middle:>10.2} ({least:.2} to {most:.2})", row.name, row.items);
    }
    Ok(())
}

/// This row finds the journal of an earlier run.
const AGAIN: &str = "map, journal, everything is noted already";

/// This row finds the results of an earlier run.
const STORED: &str = "map, store, everything is there already";

fn rows(pool: &Pool, options: &Options) -> Vec<Row> {
    let items = options.items;
    let kept = |change: fn(StoreBuilder) -> StoreBuilder| {
        let pool = pool.clone();
        move |directory: &Path, items| stored(&pool, directory, change(Store::builder()), items)
    };
    let with = |change: fn(Journal) -> Journal| {
        let pool = pool.clone();
        move |directory: &Path, items| {
            journalled(&pool, &change(Journal::at(directory.join("journal"))), items)
        }
    };
    let plain = pool.clone();
    let (large_plain, large_noted) = (pool.clone(), pool.clone());
    let mut rows = vec![
        Row::new("map", items, move |_, items| right(plain.map(tiny, 0..items)?)),
        Row::new("map, journal", items, with(|journal| journal)),
        Row::new(
            "map, journal, synced once at the end",
            items,
            with(|journal| journal.sync_every(Duration::MAX).sync_items(u32::MAX)),
        ),
        Row::new(AGAIN, items, with(|journal| journal)),
        Row::new("by hand: one write", items, |directory, items| by_hand(directory, items, false)),
        Row::new("by hand: one write and fdatasync", 1000, |directory, items| {
            by_hand(directory, items, true)
        }),
        Row::new("map, results of 1 MiB", 200, move |_, items| {
            right_large(large_plain.map(large, 0..items)?)
        }),
        Row::new("map, results of 1 MiB, journal", 200, move |directory, items| {
            right_large(large_noted.batch().journal(directory.join("journal")).map(large, 0..items)?)
        }),
    ];
    rows.extend([
        Row::new("map, store", 2000, kept(|store| store)),
        Row::new("map, store, not synced", 2000, kept(|store| store.sync(false))),
        Row::new(
            "map, store, not synced, no leases",
            2000,
            kept(|store| store.sync(false).single_flight(false)),
        ),
        Row::new(STORED, 2000, kept(|store| store)),
        Row::new("by hand: a file and fsync", 500, |directory, items| {
            for n in 0..items {
                let mut file = File::create(directory.join(n.to_string()))?;
                file.write_all(&[n as u8; 81])?;
                file.sync_all()?;
            }
            Ok(())
        }),
    ]);
    if let Some(python) = options.python.clone() {
        rows.push(Row::new("joblib.Memory, in a loop", 2000, move |directory, items| {
            joblib(&python, directory, items)
        }));
    }
    if Command::new("parallel").arg("--version").output().is_ok() {
        rows.push(Row::new("GNU parallel --resume, `true`", 300, parallel));
    }
    rows
}

fn journalled(pool: &Pool, journal: &Journal, items: u64) -> Outcome<()> {
    right(pool.batch().journal(journal.clone()).map(tiny, 0..items)?)
}

fn stored(pool: &Pool, directory: &Path, options: StoreBuilder, items: u64) -> Outcome<()> {
    let store = options.open(directory.join("store"))?;
    right(pool.batch().store(&store).map(tiny, 0..items)?)
}

fn right(results: Vec<u64>) -> Outcome<()> {
    ensure((1..=results.len() as u64).eq(results), "a result is wrong, missing, or in the wrong place")
}

fn right_large(results: Vec<Vec<u8>>) -> Outcome<()> {
    let all_right = (0..).zip(&results).all(|(n, bytes)| bytes.len() == LARGE && bytes[LARGE - 1] == n as u8);
    ensure(all_right, "a large result is wrong")
}

/// What a careful program would write for each result: as many bytes as the journal does.
fn by_hand(directory: &Path, items: u64, sync: bool) -> Outcome<()> {
    let mut file = File::create(directory.join("results"))?;
    let mut record = [0; 49];
    for n in 0..items {
        record[..8].copy_from_slice(&n.to_le_bytes());
        file.write_all(&record)?;
        if sync {
            file.sync_data()?;
        }
    }
    file.sync_data()?;
    Ok(())
}

fn joblib(python: &Path, directory: &Path, items: u64) -> Outcome<()> {
    const SCRIPT: &str = "import sys, joblib\n\
        memory = joblib.Memory(sys.argv[1], verbose=0)\n\
        def tiny(n):\n    return n + 1\n\
        cached = memory.cache(tiny)\n\
        assert [cached(n) for n in range(int(sys.argv[2]))] == list(range(1, int(sys.argv[2]) + 1))\n";
    // From a file, by which joblib knows the function.
    let script = directory.join("script.py");
    std::fs::write(&script, SCRIPT)?;
    let status =
        Command::new(python).arg(&script).arg(directory.join("store")).arg(items.to_string()).status()?;
    ensure(status.success(), "joblib has failed")
}

fn parallel(directory: &Path, items: u64) -> Outcome<()> {
    let arguments: Vec<String> = (0..items).map(|n| n.to_string()).collect();
    let mut command = Command::new("parallel");
    command
        .args(["--will-cite", "--resume", "--joblog"])
        .arg(directory.join("log"))
        .args(["-j", &WORKERS.to_string()]);
    let status = command.args(["true", ":::"]).args(arguments).stdin(Stdio::null()).status()?;
    ensure(status.success(), "GNU parallel has failed")
}
