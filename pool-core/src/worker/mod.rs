//! The worker's side: how a process becomes a worker, and what it does then.
//!
//! # Order of events in a worker
//! 1. [`init`](init) finds the boot socket on standard input and takes the descriptors out of it.
//! 2. It puts the process in order: inherited descriptors closed, standard input emptied, its terminal given up, signals reset, death
//!    signal set, and the *lifeline* armed: when the supervisor closes its end, or dies, the kernel kills the process group.
//! 3. It gives up what its sandbox denies, and says hello with its table of tasks. The states that are to be there
//!    [from the start](crate::Builder::state) are built
//!    before that.
//! 4. The main thread reads tasks, claims each on the board, runs it, writes the result, and marks it finished, one by one.
//!    The state that a task needs is built before the claim.

mod confine;
pub(crate) mod init;
mod marks;
pub(crate) mod measure;
mod panics;
mod parcels;
mod prepare;
pub(crate) mod serve;
pub(crate) mod test_support;
mod wire;
mod zygote;
