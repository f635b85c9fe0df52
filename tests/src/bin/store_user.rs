//! A program whose pool uses a store that others use as well: `store-user PLAY DIR LOG WORKER FROM TO`.
//!
//! | play | what it does |
//! |---|---|
//! | `hammer` | runs the tasks `FROM` to `TO`, 200 at a time, in an order of its own |
//! | `full` | as `hammer`, all at once, where there is no room for all results |
//! | `full-fails` | as above, and wants to be told |
//! | `read-only` | as `hammer`, and has the file system changed to read-only in the middle |
//!
//! Every result is looked at. It prints what is wrong, and at the end the counters of its store.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pool_core::{OnWriteError, Output, Pool, Store, TaskError, WorkerExe};
use pool_tests::{noted_bytes, noted_slowly, wait_until};

fn main() {
    pool_core::init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [play, dir, log, worker, from, to] = &args[..] else {
        eprintln!("usage: store-user PLAY DIR LOG WORKER FROM TO");
        std::process::exit(2);
    };
    let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
    let (dir, log) = (Path::new(dir), Path::new(log));
    let pool = Pool::builder().name("user").workers(2).output(Output::Null).worker(WorkerExe::path(worker));
    let pool = pool.build().expect("a pool");
    let call = |n| noted_slowly(n, 1, log);
    let look = |n: u64, bytes: &[u8]| {
        if bytes != noted_bytes(n) {
            println!("wrong: {n}");
        }
    };
    let store = match play.as_str() {
        "hammer" => {
            // Whoever waited for a lease to expire would never come to an end.
            let store = Store::builder().lease_time(Duration::from_secs(3600)).open(dir).expect("a store");
            let mut order =
                u64::from(std::process::id()) ^ from ^ std::time::Instant::now().elapsed().as_nanos() as u64;
            for first in (from..to).step_by(200) {
                let mut items: Vec<u64> = (first..to.min(first + 200)).collect();
                for at in (1..items.len()).rev() {
                    order =
                        order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    items.swap(at, (order >> 33) as usize % (at + 1));
                }
                let results =
                    pool.batch().store(&store).map(call, items.iter().copied()).expect("no task fails");
                items.iter().zip(&results).for_each(|(n, bytes)| look(*n, bytes));
            }
            store
        }
        "full" => {
            let store = Store::open(dir).expect("a store");
            let results = pool.batch().store(&store).map(call, from..to).expect("a full disk is no failure");
            (from..to).zip(&results).for_each(|(n, bytes)| look(n, bytes));
            store
        }
        "full-fails" => {
            let store = Store::builder().on_write_error(OnWriteError::Fail).open(dir).expect("a store");
            let failed = pool.batch().store(&store).map(call, from..to).expect_err("there is no room");
            assert!(matches!(failed.error, TaskError::Store(_)), "{failed}");
            println!("failed: {}", failed.error);
            let results = pool.batch().store(&store).map_settled(call, from..to);
            let refused = results.iter().filter(|result| matches!(result, Err(TaskError::Store(_)))).count();
            (from..to)
                .zip(&results)
                .filter_map(|(n, result)| Some((n, result.as_ref().ok()?)))
                .for_each(|(n, bytes)| look(n, bytes));
            println!("refused: {}", refused > 0);
            // 300,000 bytes, for which there is no room.
            let single = pool.apply(call(to + 7).stored(&store));
            println!("single: {}", matches!(single, Err(TaskError::Store(_))));
            store
        }
        "read-only" => {
            let store = Store::open(dir).expect("a store");
            let half = from + (to - from) / 2;
            let items = (from..to).inspect(|n| {
                if *n == half {
                    // It is refused while a result is being written.
                    wait_until("the file system is read-only", || {
                        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(dir).status();
                        status.is_ok_and(|status| status.success())
                    });
                }
            });
            let mut results: Vec<_> = pool.batch().max_in_flight(8).store(&store).imap(call, items).collect();
            // What was stored before is found.
            results.extend(pool.batch().store(&store).imap(call, from..to));
            let items = (from..to).chain(from..to);
            items.zip(results).for_each(|(n, bytes)| look(n, &bytes.expect("it is no failure")));
            store
        }
        other => {
            eprintln!("store-user: `{other}` is no play");
            std::process::exit(2);
        }
    };
    pool.join();
    let stats = store.stats();
    println!(
        "hits {} stored {} bad {} errors {}",
        stats.hits, stats.stored, stats.bad_entries, stats.write_errors
    );
    println!("taken-over {} unread {}", stats.taken_over, stats.read_errors);
}
