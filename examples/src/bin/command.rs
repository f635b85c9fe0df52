//! Runs a program for each of many files: `cargo run -p pool-examples --bin command -- FILE...`

use pool_core::Pool;
use pool_worker::command::{self, Command};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pool_core::init();
    let pool = Pool::builder().build()?;
    let files = std::env::args_os().skip(1);
    let outputs = pool.map(|file| command::run(Command::new("wc").arg("-c").arg("--").arg(file)), files)?;
    for output in outputs {
        match output {
            Ok(output) if output.status.success() => print!("{}", String::from_utf8_lossy(&output.stdout)),
            Ok(output) => eprint!("wc {}: {}", output.status, String::from_utf8_lossy(&output.stderr)),
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}
