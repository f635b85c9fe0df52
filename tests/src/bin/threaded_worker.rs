//! A worker whose program has started a thread before `init()`, which has a descriptor open, as an async runtime has.

use std::fs::File;

use pool_tests as _;

fn main() {
    let file = File::open("/dev/full").expect("it is on every Linux");
    std::thread::spawn(move || {
        loop {
            std::thread::park();
            drop(file.metadata());
        }
    });
    pool_core::init();
    eprintln!("threaded-worker is started by the integration tests of the pool");
    std::process::exit(2);
}
