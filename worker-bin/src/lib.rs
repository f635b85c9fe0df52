//! Stock tasks for a process pool, and the library behind the `pool-worker` executable.
//!
//! * [`command`] runs a program and collects what it writes.
//! * [`drill`] has tasks that misbehave on purpose: they exit, crash, hang, leak and write garbage. Use them to see how a
//!   program of yours behaves when its workers fail.
//!
//! The tasks run in any worker that links this crate: in the program itself (`use pool_worker as _;` is enough), or in
//! the `pool-worker` executable, given to the pool with `WorkerExe::path`.
//!
//! ```no_run
//! use pool_core::{DeathCause, Pool, TaskError};
//! use pool_worker::drill;
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     pool_core::init();
//!     let pool = Pool::builder().workers(2).build()?;
//!     let crash = pool.apply_async(drill::segv());
//!     let innocent = pool.apply_async(drill::add(2, 3));
//!     assert_eq!(innocent.get()?, 5);
//!     let Err(TaskError::WorkerDied(death)) = crash.get() else { return Err("it should have crashed".into()) };
//!     assert!(matches!(death.cause, DeathCause::Signalled { signal: 11, .. }));
//!     Ok(())
//! }
//! ```

pub mod command;
pub mod drill;
mod sys;
