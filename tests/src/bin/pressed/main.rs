//! A program with a pool and too little of something: `pressed PLAY WORKER [MORE]`.
//!
//! | play | what it does |
//! |---|---|
//! | `oom` | moves into the memory cgroup `MORE`, and has tasks killed by the kernel's OOM killer |
//! | `clock` | has its wall clock jump by an hour, to and fro, while tasks run |
//! | `few-processes` | runs out of processes while workers are to be replaced, and has them again later |
//! | `few-descriptors` | runs out of descriptors at every step of the making of a pool |
//! | `short-files` | has a low limit on the size of files |
//! | `no-memory` | is refused memory to share with workers, and has it again later |
//! | `no-processes-for-memory` | as `few-processes`, by the error for a lack of memory |
//! | `no-proc` | has pools where `/proc` is not mounted |
//! | `crowd` | has 1,000 workers |
//! | `thin-crowd` | wants 1,000 workers, and has descriptors for a few dozen |
//! | `debugs` | debugs the processes `WORKER`, a list of pids with commas, until its standard input ends |
//! | `debugged` | ends pools of which a debugger holds a dead worker |
//! | `adopts` | is given the children of tasks whose worker is dead |
//! | `no-pidfd-signals` | may not send signals through pidfds |
//! | `no-pidfds` | may have no pidfds |
//! | `stopped` | stops itself while limits run that end when the test makes a file in the directory `MORE` |
//!
//! It has no name for what it is refused by the kernel, or by functions of the C library that it replaces: see `shortage.rs`.
//! It prints one line for each finding, and exits with status 0 when it could play to the end.

mod children;
mod clock;
mod crowd;
mod descriptors;
mod files;
mod foreign_proc;
mod oom;
mod processes;
mod scarce;
mod shortage;
mod stopped;
mod without_proc;

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use pool_core::{Builder, Output, Pool, RestartPolicy, WorkerExe};
use pool_tests::{start_method, transport};

fn main() {
    stopped::hold_start();
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(play), Some(worker)) = (args.first(), args.get(1)) else {
        eprintln!("usage: pressed PLAY WORKER [MORE]");
        std::process::exit(2);
    };
    if play == "debugs" {
        return children::debugs(worker);
    }
    let worker = Path::new(worker);
    match play.as_str() {
        "oom" => oom::play(worker, Path::new(args.get(2).expect("the cgroup"))),
        "clock" => clock::play(),
        "few-processes" => processes::play(worker),
        "few-descriptors" => descriptors::play(worker),
        "short-files" => files::play(worker),
        "no-memory" => scarce::no_shared_memory(worker),
        "no-processes-for-memory" => scarce::no_processes(worker),
        "no-proc" => without_proc::play(worker),
        "foreign-proc" => foreign_proc::play(worker),
        "foreign-proc-inside" => foreign_proc::inside(worker),
        "crowd" => crowd::play(worker),
        "thin-crowd" => crowd::thin(worker),
        "debugged" => children::debugged(worker),
        "adopts" => children::adopts(worker),
        "no-pidfd-signals" => children::no_pidfd_signals(worker),
        "no-pidfds" => children::no_pidfds(worker),
        "stopped" => stopped::play(worker, Path::new(args.get(2).expect("the directory"))),
        other => {
            eprintln!("pressed: `{other}` is no play");
            std::process::exit(2);
        }
    }
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the test reads it");
}

/// A pool of two workers that does not wait long before it tries again.
fn builder(worker: &Path) -> Builder {
    let restart = RestartPolicy {
        first_delay: Duration::from_millis(2),
        max_delay: Duration::from_millis(50),
        ..RestartPolicy::default()
    };
    let builder = Pool::builder().name("pressed").transport(transport()).start(start_method()).workers(2);
    builder.worker(WorkerExe::path(worker)).output(Output::Null).restart(restart)
}
