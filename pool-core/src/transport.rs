//! How frames travel between the supervisor and its workers.

/// How tasks and results travel between this process and its workers; set with
/// [`Builder::transport`](crate::Builder::transport).
///
/// Guarantees and failures are the same for all of them.
///
/// ```
/// use pool_core::Transport;
///
/// assert_eq!(Transport::default(), Transport::Rings);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Rings in memory that the two processes share. A task costs no system call while both are awake.
    #[default]
    Rings,
    /// Pipes: slower, and independent of shared memory except for the claim board.
    Pipes,
}

/// What a doorbell pipe is written with. Any other byte would mean the same.
pub(crate) const BELL: u8 = 0x07;

/// Nanoseconds of a [`pace_note`] are in its lower bits.
const PACE_BITS: u32 = 56;

/// What a worker notes beside its result ring: how many nanoseconds each of the latest tasks took, and a count that tells two
/// notes of the same pace apart.
pub(crate) fn pace_note(pace: u64, round: u8) -> u64 {
    u64::from(round) << PACE_BITS | pace.clamp(1, (1 << PACE_BITS) - 1)
}

/// The nanoseconds of a note, one at least, whoever has written it.
pub(crate) fn pace_of(note: u64) -> u64 {
    (note & ((1 << PACE_BITS) - 1)).max(1)
}
