//! An honest worker with the tasks of the tests and the drills.

use pool_tests as _;
use pool_worker as _;

fn main() {
    pool_core::init();
    eprintln!("pool-tests-worker is started by the integration tests of the pool");
    std::process::exit(2);
}
