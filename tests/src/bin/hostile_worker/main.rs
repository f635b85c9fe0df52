//! A worker that speaks the protocol by itself, and breaks it in one chosen way.
//!
//! `hostile-worker TRICK [--once FILE]`: with `--once` the trick is played by whoever creates the file, and by nobody after.

mod trick;
mod worker;

use trick::Script;

fn main() {
    let outcome = Script::from_args(std::env::args().skip(1)).and_then(worker::run);
    if let Err(error) = outcome {
        eprintln!("hostile-worker: {error}");
        std::process::exit(2);
    }
}
