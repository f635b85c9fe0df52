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
