//! Memory: of an idle pool, and of tasks that wait. Each is measured in a fresh process.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use pool_benches::process::Memory;
use pool_benches::{Outcome, ensure};
use pool_core::{Pool, TaskHandle};

use super::{are_right, ready_pool};
use crate::bare::spawn;
use crate::heap;
use crate::journal::Journal;
use crate::tasks::{hold, tiny};

/// First argument of this program when it is such a process.
pub(crate) const ARGUMENT: &str = "fresh";

const MB: f64 = 1e6;

/// The main program of the fresh process: prints `name value` lines.
pub(crate) fn play(part: &str) -> Outcome<()> {
    match part {
        "idle" => idle_pool(),
        "queued" => queued_tasks(),
        other => Err(format!("no part is called {other:?}").into()),
    }
}

/// Runs a part in a fresh process, and notes what it prints.
fn in_fresh_process(arguments: &[&str], journal: &mut Journal) -> Outcome<()> {
    let output =
        Command::new("/proc/self/exe").arg(ARGUMENT).args(arguments).stderr(Stdio::inherit()).output()?;
    ensure(output.status.success(), "the fresh process has failed")?;
    for line in String::from_utf8(output.stdout)?.lines() {
        let (name, value) = line.split_once(' ').ok_or("the fresh process has printed something else")?;
        journal.note(name, value.parse()?);
    }
    Ok(())
}

/// What a pool adds to its program.
pub(crate) fn memory(journal: &mut Journal) -> Outcome<()> {
    let bare = spawn::memory()?;
    journal.note("bare.memory", bare.own as f64 / MB);
    journal.note("bare.memory_all", bare.all as f64 / MB);
    in_fresh_process(&["idle"], journal)
}

fn idle_pool() -> Outcome<()> {
    let before = Memory::of_family()?;
    let pool = ready_pool(2)?;
    are_right(pool.map(tiny, 0..1000)?, 1000)?;
    let growth = Memory::of_family()?.since(before);
    println!("memory {}", growth.own as f64 / MB);
    println!("memory_all {}", growth.all as f64 / MB);
    println!("memory.supervisor {}", Memory::of(std::process::id())?.since(before).own as f64 / MB);
    drop(pool);
    Ok(())
}

/// Tasks that wait: just below a power of two, where tables that double are nearly full.
const QUEUED: u64 = 1_000_000;

/// What a task holds that waits for its turn.
pub(crate) fn queued(journal: &mut Journal) -> Outcome<()> {
    in_fresh_process(&["queued"], journal)
}

fn queued_tasks() -> Outcome<()> {
    let count = QUEUED;
    let directory = tempfile::tempdir()?;
    let fifo = directory.path().join("hold");
    nix::unistd::mkfifo(&fifo, Mode::S_IRWXU)?;
    let grown = || Memory::of(std::process::id());
    let per_task = |bytes: f64| bytes / count as f64;

    let mut results = Vec::new();
    heap::start_counting();
    {
        let (pool, worker) = held_pool(&fifo)?;
        let (live, resident) = (heap::live_bytes(), grown()?);
        for n in 0..count {
            drop(pool.apply_async(tiny(n)));
        }
        println!("queued {}", per_task((heap::live_bytes() - live) as f64));
        println!("queued_growth {}", per_task(grown()?.since(resident).own as f64));
        worker.release()?;
        // Submitted last, so it ends last.
        ensure(pool.apply(tiny(1))? == 2, "a wrong result")?;
    }
    {
        let (pool, worker) = held_pool(&fifo)?;
        let mut handles = Vec::with_capacity(usize::try_from(count)?);
        let live = heap::live_bytes();
        for n in 0..count {
            handles.push(pool.apply_async(tiny(n)));
        }
        let inline = size_of::<TaskHandle<u64>>() as f64;
        println!("queued_handle {}", per_task((heap::live_bytes() - live) as f64) + inline);
        worker.release()?;
        for handle in handles {
            results.push(handle.get()?);
        }
    }
    are_right(results, count)
}

/// A worker that is occupied until it is released.
struct Held {
    writer: std::fs::File,
    task: TaskHandle<bool>,
}

impl Held {
    fn release(self) -> Outcome<()> {
        drop(self.writer);
        ensure(self.task.get()?, "the worker could not be held")
    }
}

fn held_pool(fifo: &Path) -> Outcome<(Pool, Held)> {
    let pool = ready_pool(1)?;
    let task = pool.apply_async(hold(fifo));
    // Opening it waits for the reader, so the task has started.
    let writer = OpenOptions::new().write(true).open(fifo)?;
    Ok((pool, Held { writer, task }))
}
