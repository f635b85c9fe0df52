//! Running programs: [`run`] starts one, feeds it, and collects what it writes.
//!
//! ```no_run
//! use pool_core::Pool;
//! use pool_worker::command::{self, Command};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     pool_core::init();
//!     let pool = Pool::builder().build()?;
//!     let commands = ["a.txt", "b.txt"].map(|file| Command::new("wc").arg("-l").arg(file));
//!     for output in pool.map(command::run, commands)? {
//!         println!("{}", String::from_utf8_lossy(&output?.stdout));
//!     }
//!     Ok(())
//! }
//! ```

mod child;
mod error;
mod output;
mod spec;

pub use child::run;
pub use error::{CommandError, Stream};
pub use output::{CommandOutput, CommandStatus};
pub use spec::{Command, DEFAULT_OUTPUT_LIMIT};
