//! How large arguments and results are passed without being sent.
//!
//! Their bytes are in segments ([`pool_ipc::segment`]); what is sent is where. Each link between the supervisor and a worker has
//! four ends:
//!
//! | | supervisor | worker |
//! |---|---|---|
//! | arguments | [`ArgumentsOut`] | [`ArgumentsIn`] |
//! | results | [`ResultsIn`] | [`ResultsOut`] |
//!
//! # Messages
//!
//! | message | on | way | when |
//! |---|---|---|---|
//! | descriptor, with the number of the segment | a socket of their own | both | before the first frame that names it |
//! | `TaskAt`, `DoneAt` | ring or pipe | out, back | in the place of `Task`, `Done` |
//! | `Release` | ring or pipe | out | a result has been copied: its block may be used again |
//! | `Forget` | ring or pipe | both | a segment is gone: unmap it |
//!
//! The shell sends and receives them; what is decided here is which, and whether what has come can be.
//!
//! # Races
//!
//! * **A frame before its descriptor.** They take different ways, but the descriptor is sent first, and stays in the socket
//!   when its sender dies: who finds an unknown number in a frame receives descriptors until it is there. None left is a
//!   violation.
//! * **A descriptor whose frame never counts**, because the task was taken back. It waits in the socket until the next unknown
//!   number, or until the segment is forgotten: so whoever is told to forget an unknown segment receives what waits, first.
//! * **No number for a descriptor** (`RLIMIT_NOFILE`), or no mapping. The descriptor stays in the socket, or is kept until it can
//!   be mapped: a segment is introduced once. The result that needs it
//!   fails with the true cause, its memory is released, and its worker goes on; later results need not fail.
//! * **A full socket.** Sending does not wait: whoever cannot send the descriptor sends the bytes.
//! * **A task that was given up and still runs** (cancelled, timed out). Its arguments stay lent until its worker has answered
//!   or is dead, so nobody writes to what it still reads.
//! * **A task that was taken back** has not been claimed, so nobody reads its arguments; they can be used at once.
//! * **A result whose worker goes on, or is dead.** Its bytes are not touched until `Release`, and the mapping outlives the
//!   process. A task that writes where it should not, while earlier results are still lent, dies of it: they are protected. What a worker does that has lost its mind is for the copy to suffer, see [`pool_ipc::segment`].

mod arguments_in;
mod arguments_out;
mod known;
mod results_in;
mod results_out;
#[cfg(test)]
mod tests;

pub(crate) use arguments_in::ArgumentsIn;
pub(crate) use arguments_out::ArgumentsOut;
pub(crate) use results_in::{Refusal, ResultsIn};
pub(crate) use results_out::ResultsOut;
