//! Deterministic simulation of the pool: a seed decides everything that workers, callers and the operating system do to
//! the [state machine](super::machine), and after every event the promises of the pool are checked.
//!
//! A seed is one pool with its own configuration and its own temper of workers. Time is virtual. [`shell`] carries
//! actions out as the engine does, [`process`] plays the workers, [`caller`] those who submit and cancel.
//!
//! What the machine does is compared with a model of its own:
//! * [`oracle`] knows what really happened, and objects to whatever does not follow from it.
//! * [`promptness`] knows how long each thing may take, and objects to whatever waits longer.
//! * [`liveness`] knows what waits behind an item that may run for ever, and objects if others could do it.
//! * [`tally`] counts what it sees, and compares the figures of the pool with that.
//! * [`seats`] knows who is given the pieces of a batch that go to the workers in turns.
//! * [`shares`] measures what each lane has had of the workers' time.
//!
//! [`coverage`] says which transitions of the machine a run has seen, and which there are. [`aims`] arranges those that nobody would
//! wait for.

mod aims;
mod board;
mod caller;
mod coverage;
mod fact;
mod ghosts;
mod liveness;
mod oracle;
mod process;
mod promptness;
mod random;
mod runs;
mod scenario;
mod seats;
mod shares;
mod shell;
mod tally;
mod world;
