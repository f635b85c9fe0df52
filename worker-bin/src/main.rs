//! A worker executable with the stock tasks; a process pool starts it.

use pool_worker as _;

fn main() {
    pool_core::init();
    eprintln!(
        "pool-worker does nothing by itself: it is started by a process pool\n\
         usage: Pool::builder().worker(WorkerExe::path(\"pool-worker\")).build()"
    );
    std::process::exit(2);
}
