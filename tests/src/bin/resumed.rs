//! A job with a journal, to be killed and started again: `resumed WORKER JOURNAL OUTPUT ITEMS`.
//!
//! Some of its items crash their worker when they are run for the first time. At the end it writes all results to OUTPUT, and
//! exits with status 0.

use std::time::Duration;

use pool_core::{Output, Pool, RestartPolicy, WorkerExe};
use pool_tests::{Ending, start_method, transport, written};

fn main() {
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [worker, journal, output, items] = &args[..] else {
        eprintln!("usage: resumed WORKER JOURNAL OUTPUT ITEMS");
        std::process::exit(2);
    };
    let items: u64 = items.parse().expect("a number of items");
    let restart = RestartPolicy {
        first_delay: Duration::from_millis(2),
        max_delay: Duration::from_millis(50),
        ..RestartPolicy::default()
    };
    let pool = Pool::builder()
        .name("resumed")
        .workers(2)
        .transport(transport())
        .start(start_method())
        .worker(WorkerExe::path(worker))
        .output(Output::Null)
        .restart(restart)
        .build()
        .expect("a pool");
    let ending = |n: u64| if n % 500 == 77 { Ending::CrashFirst } else { Ending::Answer };
    let squares = pool
        .batch()
        .retries(3)
        .journal(journal)
        .map(|n| written(n, ending(n)), 0..items)
        .unwrap_or_else(|error| panic!("{error}"));
    let text: Vec<String> = squares.iter().map(u64::to_string).collect();
    std::fs::write(output, text.join("\n")).expect("room");
}
