//! What outlives the program: a journal of a batch, and a store of results.
//!
//! * [`journal`]: one file in which a batch notes the outcome of every item, so that the same program, started again, goes on
//!   where it was.
//! * [`Store`]: a directory in which programs on many hosts keep the results of tasks, and find those of each other.
//!
//! This crate knows files and bytes; what a task is, and when it runs, is known to `pool-core`.

pub mod journal;
mod record;
mod store;

pub use store::{
    Claim, Lease, OnWriteError, Store, StoreBuilder, StoreError, StoreKey, StoreStats, Swept, Waiting,
    body_of_entry, entry_of_body, lease_of,
};
