//! Allocations per tiny task, on either side, once the pool is warm.
//!
//! ```sh
//! cargo run --release -p pool-benches --bin allocations
//! ```
//!
//! An allocation costs as much as a tiny task, and one in a loop is easily overlooked, so they are counted: by the allocator
//! of this program, which its workers share because they are copies of it. A worker tells its count by a task. Status 1 when
//! a task costs a worker or a `map` more than [`MOST`].
//!
//! What is allocated for many tasks together (a pack of arguments, a run of results) counts for more a task when a busy machine
//! breaks them up into smaller groups. So each way is measured several times, and the least counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pool_benches::samples::extremes;
use pool_benches::{Outcome, ensure};
use pool_core::{Pool, TaskHandle, task};

/// Most allocations per tiny task in a worker, and in this process for a `map`.
const MOST: f64 = 0.01;
/// How often each way is measured.
const ROUNDS: u32 = 5;
/// Workers of the pool.
const WORKERS: usize = 2;
/// Handles that are open at a time where tasks are submitted ahead.
const WINDOW: u64 = 256;
/// Longest time until something that must happen has happened.
const PATIENCE: Duration = Duration::from_secs(30);

#[global_allocator]
static HEAP: Counting = Counting;

/// Allocations of this process, moves of what has grown included.
static COUNT: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// As little as a task can do and be checked.
#[task]
fn tiny(n: u64) -> u64 {
    n + 1
}

/// The process that runs it, and the allocations there so far.
#[task]
fn allocations() -> (u32, u64) {
    (std::process::id(), COUNT.load(Ordering::Relaxed))
}

/// A way to have tiny tasks run.
struct Way {
    name: &'static str,
    tasks: u64,
    /// Whether what it allocates in this process is bounded by [`MOST`], too.
    bounded: bool,
    run: fn(&Pool, u64) -> Outcome<()>,
}

const WAYS: [Way; 5] = [
    Way { name: "map", tasks: 1_000_000, bounded: true, run: map },
    Way { name: "map_settled", tasks: 1_000_000, bounded: true, run: map_settled },
    Way { name: "apply in a loop", tasks: 20_000, bounded: false, run: apply },
    Way { name: "apply_async, a window of 256", tasks: 200_000, bounded: false, run: window },
    Way { name: "apply_async of all, then get", tasks: 200_000, bounded: false, run: all },
];

fn main() -> ExitCode {
    pool_core::init();
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("allocations: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints the table; false if there are more than there should be.
fn measure() -> Outcome<bool> {
    let pool = Pool::builder().workers(WORKERS).build()?;
    let start = Instant::now();
    while pool.stats().workers_ready < WORKERS {
        ensure(start.elapsed() < PATIENCE, "the workers do not become ready")?;
        std::thread::yield_now();
    }
    println!("Allocations per tiny task, pool of {WORKERS}, least (and most) of {ROUNDS} runs");
    println!("{:<30} {:>8} {:>18} {:>18}", "", "tasks", "supervisor", "workers");
    let mut misses = Vec::new();
    for Way { name, tasks, bounded, run } in WAYS {
        // Uncounted: tables grow.
        run(&pool, tasks)?;
        let (mut here, mut workers) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let workers_before = in_workers(&pool)?;
            let before = COUNT.load(Ordering::Relaxed);
            run(&pool, tasks)?;
            here.push((COUNT.load(Ordering::Relaxed) - before) as f64 / tasks as f64);
            // A worker that has died has taken its count with it, and the sum would be less.
            let in_workers = in_workers(&pool)?.checked_sub(workers_before).ok_or("a worker has died")?;
            workers.push(in_workers as f64 / tasks as f64);
        }
        let ((here, here_most), (workers, workers_most)) =
            extremes(&here).zip(extremes(&workers)).ok_or("nothing was measured")?;
        println!(
            "{name:<30} {tasks:>8} {:>18} {:>18}",
            format!("{here:.4} ({here_most:.4})"),
            format!("{workers:.4} ({workers_most:.4})")
        );
        if bounded && here > MOST {
            misses.push(format!("{name}: {here:.4} in the supervisor, at most {MOST} expected"));
        }
        if workers > MOST {
            misses.push(format!("{name}: {workers:.4} in the workers, at most {MOST} expected"));
        }
    }
    misses.iter().for_each(|miss| println!("miss: {miss}"));
    Ok(misses.is_empty())
}

/// Allocations in all workers so far.
fn in_workers(pool: &Pool) -> Outcome<u64> {
    let mut counts = BTreeMap::new();
    let start = Instant::now();
    // As many tasks as there are workers, until each has run one.
    while counts.len() < WORKERS {
        ensure(start.elapsed() < PATIENCE, "a worker does not get a task")?;
        let handles: Vec<_> = (0..WORKERS).map(|_| pool.apply_async(allocations())).collect();
        for handle in handles {
            let (process, count) = handle.get()?;
            counts.insert(process, count);
        }
    }
    Ok(counts.into_values().sum())
}

fn map(pool: &Pool, tasks: u64) -> Outcome<()> {
    right(pool.map(tiny, 0..tasks)?.into_iter().eq(1..=tasks))
}

fn map_settled(pool: &Pool, tasks: u64) -> Outcome<()> {
    let results = pool.map_settled(tiny, 0..tasks);
    right(results.into_iter().map(Result::ok).eq((1..=tasks).map(Some)))
}

fn apply(pool: &Pool, tasks: u64) -> Outcome<()> {
    (0..tasks).try_for_each(|n| right(pool.apply(tiny(n))? == n + 1))
}

fn window(pool: &Pool, tasks: u64) -> Outcome<()> {
    let mut open: VecDeque<TaskHandle<u64>> = VecDeque::with_capacity(WINDOW as usize);
    for n in 0..tasks + WINDOW {
        if n >= WINDOW
            && let Some(handle) = open.pop_front()
        {
            right(handle.get()? == n - WINDOW + 1)?;
        }
        if n < tasks {
            open.push_back(pool.apply_async(tiny(n)));
        }
    }
    Ok(())
}

fn all(pool: &Pool, tasks: u64) -> Outcome<()> {
    let handles: Vec<_> = (0..tasks).map(|n| pool.apply_async(tiny(n))).collect();
    (1..=tasks).zip(handles).try_for_each(|(expected, handle)| right(handle.get()? == expected))
}

fn right(holds: bool) -> Outcome<()> {
    ensure(holds, "a result is wrong, missing, or in the wrong place")
}
