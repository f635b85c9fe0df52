//! A ring: a stream of bytes through shared memory, from one writer to one reader, which both may sleep.
//!
//! It carries the same frames as a pipe. No system call is made while both sides are awake; the pipes remain as
//! doorbells, which are rung only for a side that has said that it sleeps.
//!
//! # What is shared
//!
//! A ring is a part of a [`Region`](crate::Region), in little-endian words of 8 bytes, each with cache lines of its own:
//!
//! | offset | word | changed by |
//! |---|---|---|
//! | 0 | `tail`: bytes published since the start | writer |
//! | 128 | `head`: bytes read since the start | reader |
//! | 256 | `reader_waits`: 0 awake, 1 [`Wake::Each`], 2 [`Wake::Low`] | raised by the reader, lowered by both |
//! | 384 | `writer_waits`: 0 awake, 1 waits for room | raised by the writer, lowered by both |
//! | 512 | `note`: whatever the writer wants to say, without any order | writer |
//! | 640 | [`CAPACITY`] bytes; that of position `n` is at `n % CAPACITY` | writer |
//!
//! Positions count bytes, are never reset, and never overflow (2⁶⁴ bytes take 58 years at 10 GB/s).
//! `head <= tail <= head + CAPACITY`: the bytes from `head` to `tail` belong to the reader, all others to the writer. Both
//! sides keep their own position in private memory, and only ever publish it.
//!
//! # States and events
//!
//! ```text
//!                arm: nothing there                     publish, ring_if_waiting: lowers the flag, rings
//!  reader  Awake ──────────────────▶ Waits (Each, Low) ──────────────────────────────────────────────▶ Awake
//!                                        │ arm: something there; disarm: lowers the flag
//!                                        └───────────────────────────────────────────────────────────▶ Awake
//!
//!                wait_for_room: none            read_into, half of the ring is free: lowers the flag, rings
//!  writer  Awake ──────────────────▶ Waits ────────────────────────────────────────────────────────────▶ Awake
//!                                        │ wait_for_room: there is room by now: lowers the flag
//!                                        └─────────────────────────────────────────────────────────────▶ Awake
//! ```
//!
//! | event | reader awake | reader waits, `Each` | reader waits, `Low` |
//! |---|---|---|---|
//! | [`publish`](RingWriter::publish) | – | ring | ring if the ring is more than half full |
//! | [`ring_if_waiting`](RingWriter::ring_if_waiting) | – | ring | ring |
//! | [`wait_for_room`](RingWriter::wait_for_room), in vain | – | ring | ring |
//!
//! "Ring" is the answer of a method: the caller writes a byte to the pipe on which the other side sleeps. Who lowers the
//! flag is who rings, so that each sleep is answered with one bell at most.
//!
//! # Races
//!
//! * **The lost wake-up.** The reader finds nothing and is about to sleep while the writer publishes. The reader raises
//!   its flag and then looks at the position; the writer changes the position and then looks at the flag. In whatever
//!   order this happens, at least one of them sees what the other has done. Waiting for room is the same with the roles
//!   exchanged.
//! * **A bell too many.** The writer sees the flag, and the reader finds the bytes by itself before the bell is rung. A
//!   bell carries no meaning: who is woken looks, finds nothing, and sleeps again.
//! * **A late exchange.** The writer sees the flag of one sleep, and lowers that of the next. It rings then, too: a flag
//!   is lowered by an exchange, and what the exchange found decides.
//! * **Both asleep.** A reader that waits for half a ring (`Low`) and a writer with a frame too long for the other half
//!   would wait for each other. So a writer that finds no room rings such a reader first.
//! * **Room in drops.** A writer is woken when half of the ring is free, not for each frame that is read. The reader reads
//!   everything before it sleeps, so that this moment comes.
//! * **Death.** What was published before a process died stays, and can be read to its end; what was only staged was never
//!   there. A frame that passes through in pieces may end in the middle: [`FrameReader::end`](crate::FrameReader::end).
//!
//! # Memory orderings
//!
//! Each position is published with `Release` at least, and looked at with `Acquire` at least: who sees a position sees the
//! bytes before it, or knows that the other side has done with them. The four accesses of the lost wake-up need more, one
//! total order: raising a flag, publishing a position and the looks that follow are `SeqCst`. Flags are changed by
//! exchanges only, so that no change is taken for one that came after it. `tests/loom.rs` tries out all of this.
//!
//! # Trust
//!
//! The other side may be corrupt, and task code may scribble over the memory at any moment. So nothing is parsed in it:
//! bytes are copied out, and looked at then. The other side's position is believed only from the last known one to the
//! furthest possible one ([`RingError`] otherwise), and an offset is made from it in one's own arithmetic, so that no
//! value leads outside of the ring. One's own position is never read back. A forged position or flag can make this
//! worker's stream wrong, which the frames' checks find, or leave it without a bell, which is a worker that hangs.

mod reader;
mod shared;
#[cfg(all(test, not(loom)))]
mod tests;
mod writer;

use std::io;

use thiserror::Error;

#[cfg(not(loom))]
pub(crate) use shared::Ring;

pub use reader::{RingReader, Wake};
pub use shared::CAPACITY;
pub use writer::{RingWriter, Room};

#[cfg(loom)]
pub use shared::model;

/// The other side's position is one that it cannot have: the shared memory has been overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{side} position {found} in the ring is not within {least} to {most}: the shared memory has been overwritten"
)]
pub struct RingError {
    /// Whose position it is.
    side: &'static str,
    /// What was found.
    found: u64,
    /// The last position that was known.
    least: u64,
    /// The furthest that is possible.
    most: u64,
}

impl From<RingError> for io::Error {
    fn from(error: RingError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Checks a position that the other side has published: it only goes forward, and not beyond `most`.
#[inline]
fn check(side: &'static str, found: u64, least: u64, most: u64) -> Result<u64, RingError> {
    if (least..=most).contains(&found) { Ok(found) } else { Err(RingError { side, found, least, most }) }
}
