//! A worker that speaks the protocol by itself, over rings or pipes, and breaks it in one chosen way.
//!
//! `hostile-worker TRICK [--once FILE]`: with `--once` the trick is played by whoever creates the file, and by nobody after.
//! The trick `random` is many, drawn by chance, one after the other; the task `assault` has the seed.

mod assault;
mod random;
mod trick;
mod wire;
mod worker;

use trick::Script;

/// What goes wrong for a hostile worker is told to whoever reads its stderr.
pub(crate) type Result<T> = std::result::Result<T, String>;

pub(crate) fn told<T, E: std::fmt::Display>(what: &str, result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

fn main() {
    let outcome = Script::from_args(std::env::args().skip(1)).and_then(worker::run);
    if let Err(error) = outcome {
        eprintln!("hostile-worker: {error}");
        std::process::exit(2);
    }
}
