//! The shortest program that uses a pool: `cargo run -p pool-examples --bin quick_start -- FILE...`

use std::path::PathBuf;

use pool_core::{Pool, task};

/// Runs in a worker process: it may crash, exit or hang, and this program goes on.
#[task]
fn word_count(path: PathBuf) -> Result<usize, String> {
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.split_whitespace().count())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pool_core::init(); // a launched worker never returns from here
    let pool = Pool::builder().build()?;
    let files: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if files.is_empty() {
        eprintln!("usage: quick_start FILE...");
    }
    for count in pool.map(word_count, files)? {
        println!("{count:?}");
    }
    Ok(())
}
