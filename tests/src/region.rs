//! Where things are in the memory that a worker shares with its supervisor, for those who scribble over it.
//!
//! `pool-ipc` keeps this to itself, and rightly so; a test compares it with the real thing.

use serde::{Deserialize, Serialize};

use pool_ipc::SLOTS;
use pool_ipc::ring::CAPACITY;

/// The name of the memory, as `/proc/<pid>/maps` shows it.
pub const NAME: &str = "/memfd:pool-region";

/// Every word has two cache lines of its own.
const WORD: u64 = 128;
/// Behind the magic.
const BOARD: u64 = WORD;
/// Behind the board's two words and its slots.
const TASKS: u64 = BOARD + 2 * WORD + 8 * SLOTS as u64;
/// Control words of a ring: positions of its writer and its reader, and whether its reader and its writer sleep.
const BYTES: u64 = 5 * WORD;
const RESULTS: u64 = TASKS + BYTES + CAPACITY as u64;
/// On pages of their own.
const GAUGES: u64 = (RESULTS + BYTES + CAPACITY as u64).next_multiple_of(4096);
const END: u64 = GAUGES + 4 * 4096;

/// One of the two rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ring {
    /// From the supervisor to the worker.
    Tasks,
    /// From the worker to the supervisor.
    Results,
}

/// A part of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// The claim board.
    Board,
    /// How far a ring has been written.
    Tail(Ring),
    /// How far a ring has been read.
    Head(Ring),
    /// Whether the reader of a ring sleeps.
    ReaderWaits(Ring),
    /// Whether the writer of a ring sleeps.
    WriterWaits(Ring),
    /// What a ring holds, and what it has held.
    Bytes(Ring),
    /// What the worker measures.
    Gauges,
    /// Of which task it says there that it has decoded the arguments.
    Decoded,
    /// All of it.
    Everything,
}

impl Place {
    /// The words by which the two sides of a ring agree.
    pub const WORDS: [Self; 8] = [
        Self::Tail(Ring::Tasks),
        Self::Head(Ring::Tasks),
        Self::ReaderWaits(Ring::Tasks),
        Self::WriterWaits(Ring::Tasks),
        Self::Tail(Ring::Results),
        Self::Head(Ring::Results),
        Self::ReaderWaits(Ring::Results),
        Self::WriterWaits(Ring::Results),
    ];

    /// Where it begins, in bytes from the start of the region.
    #[must_use]
    pub fn offset(self) -> u64 {
        let ring = |ring| if ring == Ring::Tasks { TASKS } else { RESULTS };
        match self {
            Self::Everything => 0,
            Self::Board => BOARD,
            Self::Tail(of) => ring(of),
            Self::Head(of) => ring(of) + WORD,
            Self::ReaderWaits(of) => ring(of) + 2 * WORD,
            Self::WriterWaits(of) => ring(of) + 3 * WORD,
            Self::Bytes(of) => ring(of) + BYTES,
            Self::Gauges => GAUGES,
            // Behind the sums of both times, the longest wait, and the time to build states.
            Self::Decoded => GAUGES + 4 * 8,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Everything => END as usize,
            Self::Board => (TASKS - BOARD) as usize,
            Self::Bytes(_) => CAPACITY,
            Self::Gauges => (END - GAUGES) as usize,
            _ => size_of::<u64>(),
        }
    }
}
