//! A process pool that loses no work when its workers die.
//!
//! Put [`#[task]`](macro@task) on a function, call [`init()`](fn@init) first in `main`, and run the function in worker
//! processes: one call at a time with [`Pool::apply`] and [`Pool::apply_async`], or over many items with [`Pool::map`] and
//! [`Pool::map_settled`]. Workers may segfault, abort, exit, hang or be killed; every task ends exactly once, with its result
//! or with a [`TaskError`] that says what happened.
//!
//! ```no_run
//! use std::path::PathBuf;
//! use pool_core::{Pool, task};
//!
//! #[task]
//! fn word_count(path: PathBuf) -> Result<usize, String> {
//!     let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
//!     Ok(text.split_whitespace().count())
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     pool_core::init();
//!     let pool = Pool::builder().workers(4).build()?;
//!     let one = pool.apply_async(word_count("a.txt".into()));
//!     let all = pool.map(word_count, ["b.txt", "c.txt"].map(PathBuf::from))?;
//!     println!("{:?} {:?}", one.get()?, all);
//!     Ok(())
//! }
//! ```
//!
//! # What is where
//! | you want | look at |
//! |---|---|
//! | arguments, results and errors of a task; what can travel | [`#[task]`](macro@task), [`Json`], [`SharedBytes`] |
//! | a limit, retries, a priority or a name for one call | [`Call`] |
//! | the same for many calls; chunks, a deadline, progress, going on past failures | [`Batch`], [`OnFailure`], [`Progress`] |
//! | to go on after the program was killed | `Batch::journal` |
//! | to remember results, also for other programs | `Store`, `Batch::store`, `Call::stored` |
//! | results one by one, from an endless input | [`Pool::imap`], [`Pool::imap_unordered`] |
//! | one task: wait, cancel, await, call back | [`TaskHandle`] |
//! | several tasks: the first, all, as they end | [`wait_any`], [`wait_all`], [`as_completed`] |
//! | something that each worker builds once, and what it leaves at the end | [`WorkerState`], [`Pool::exit_values`] |
//! | large data that all workers read | [`Builder::share`], [`Builder::share_slice`], [`Builder::share_value`] |
//! | in a task: its worker, its attempt, whether it is cancelled | [`TaskContext`] |
//! | number, memory, life, place and output of workers | [`Builder`], [`Output`], [`Pool::resize`] |
//! | limits of what workers use; code that nobody trusts | [`WorkerLimits`], [`Sandbox`] |
//! | why there is no result | [`TaskError`], [`Death`], [`DeathCause`], [`BrokenReason`] |
//! | what the pool is doing, and what it has done | [`Pool::stats`], [`Pool::workers`], [`Pool::insights`], [`WorkerEvent`] |
//! | the end | [`Pool::join`], [`Pool::shutdown`], [`Pool::terminate`]; dropping the last [`Pool`] terminates it |
//! | pools in `#[test]` functions | [`test_worker!`] |
//!
//! # Features
//! * `durable` (default): `Batch::journal`, with which a job goes on where it was when its program is started again, and `Store`,
//!   which remembers results.
//! * `json` (default): [`Json`], for types that postcard cannot carry.
//! * `progress` (default): `Progress::bar`, a bar on the terminal.

#![cfg_attr(pool_loom, allow(dead_code, unused_imports, reason = "models use a part of what there is"))]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("pool-core runs on Linux, on x86-64 and AArch64: it stands on pidfds, memfds and epoll");

#[cfg(feature = "bench-internals")]
#[doc(hidden)]
#[path = "bench.rs"]
pub mod __bench;
#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
mod arena;
mod batch;
mod buffer;
mod builder;
mod call;
mod callbacks;
mod codec;
mod context;
mod death;
mod describe;
mod error;
mod events;
mod executable;
mod exit_values;
#[cfg(feature = "test-faults")]
#[doc(hidden)]
pub mod faults;
mod flight;
mod flow;
mod fork;
mod forward;
mod gate;
mod handle;
mod ids;
mod imap;
mod inbox;
mod insights;
mod job;
#[cfg(feature = "json")]
mod json;
mod limits;
mod memory;
#[cfg(all(test, pool_loom))]
mod models;
mod nesting;
mod outcome;
mod output;
mod packed;
mod passing;
mod plain;
mod policy;
mod pool;
mod progress;
mod remembered;
mod reply;
mod resize;
mod sandbox;
mod shared_bytes;
mod sharing;
mod signals;
mod start_method;
mod state;
mod stats;
#[cfg(feature = "durable")]
mod stored;
mod supervisor;
mod sync;
mod sys;
mod task;
mod told;
mod transport;
mod wait;
mod worker;

pub use batch::{Batch, OnFailure};
pub use builder::{Builder, MAX_DEPTH};
pub use call::{Call, IntoCall, RetryOn, RunHereError};
pub use context::TaskContext;
pub use error::{BrokenReason, BuildError, Death, DeathCause, Elapsed, MapError, TaskError, TaskOutput};
pub use events::WorkerEvent;
pub use executable::WorkerExe;
pub use exit_values::ExitValue;
pub use flow::QueueFull;
pub use handle::{TaskFuture, TaskHandle};
#[doc(hidden)]
pub use ids::Generation;
pub use ids::{TaskId, WorkerId};
pub use imap::{Imap, ImapUnordered, Indexed};
pub use insights::{Distribution, Insights, LongTask, Spread, WorkerInsights};
#[cfg(feature = "json")]
pub use json::Json;
pub use limits::WorkerLimits;
pub use output::{Output, OutputLine, OutputStream};
pub use plain::Plain;
pub use policy::RestartPolicy;
pub use pool::Pool;
#[cfg(feature = "durable")]
pub use pool_store::journal::{Journal, JournalError, OnJournalError};
#[cfg(feature = "durable")]
pub use pool_store::{OnWriteError, Store, StoreBuilder, StoreError, StoreKey, StoreStats, Swept};
pub use progress::{Progress, ProgressReport};
pub use sandbox::Sandbox;
pub use shared_bytes::{SharedBytes, SharedBytesBuilder};
pub use sharing::SharedError;
pub use start_method::StartMethod;
pub use state::{ExitContext, StateContext, WorkerState};
pub use stats::{DeathCounts, RetireCounts, RetireReason, Stats, WorkerInfo, WorkerStatus};
#[doc(inline)]
pub use task::task;
pub use transport::Transport;
pub use wait::{Completed, as_completed, wait_all, wait_all_timeout, wait_any, wait_any_timeout};
pub use worker::init::init;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
#[derive(Debug)]
pub struct Readme;

/// Compiles the examples for those who come from other pools.
#[cfg(doctest)]
#[doc = include_str!("../../docs/coming-from.md")]
#[derive(Debug)]
pub struct ComingFrom;
