//! Deterministic simulation of the pool: a seed decides everything that workers, callers and the operating system do to
//! the [state machine](super::machine), and after every event the promises of the pool are checked.
//!
//! A seed is one pool with its own configuration and its own temper of workers. Time is virtual. [`shell`] carries
//! actions out as the engine does, [`process`] plays the workers, [`caller`] those who submit and cancel, and [`oracle`]
//! knows what really happened and objects to whatever does not follow from it.

mod board;
mod caller;
mod fact;
mod oracle;
mod process;
mod random;
mod runs;
mod scenario;
mod seats;
mod shell;
mod world;
