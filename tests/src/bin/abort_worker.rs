//! A worker whose panics abort, as in a program that is built with `panic = "abort"`: the message is printed, nothing unwinds.
//!
//! One package cannot have binaries with different panic strategies, so a panic hook takes the part of the panic runtime.

use pool_tests as _;
use pool_worker as _;

fn main() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::abort();
    }));
    pool_core::init();
    eprintln!("abort-worker is started by the integration tests of the pool");
    std::process::exit(2);
}
