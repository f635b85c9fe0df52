//! A worker whose program has started a thread before `init()`.

use pool_tests as _;

fn main() {
    std::thread::spawn(|| {
        loop {
            std::thread::park();
        }
    });
    pool_core::init();
    eprintln!("threaded-worker is started by the integration tests of the pool");
    std::process::exit(2);
}
