//! Where a payload is, as frames tell it.

use crate::message::MessageError;

/// A piece of a segment: the fixed part of the payload of a `TaskAt`, `DoneAt` or `Release` frame.
///
/// ```
/// use pool_ipc::segment::Locator;
///
/// let locator = Locator { segment: 7, offset: 65536, len: 70_000 };
/// let payload = [&locator.encode()[..], b"more"].concat();
/// assert_eq!(Locator::split(&payload), Ok((locator, &b"more"[..])));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Locator {
    /// The number of the segment, or sealed file, given by its creator.
    pub segment: u64,
    /// Its first byte.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
}

impl Locator {
    /// Bytes of an encoded locator.
    pub const LEN: usize = 24;

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (into, number) in bytes.chunks_exact_mut(8).zip([self.segment, self.offset, self.len]) {
            into.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Takes a locator from the front of `payload`: any numbers, of which nothing is known yet.
    ///
    /// # Errors
    /// [`MessageError::TooShort`].
    pub fn split(payload: &[u8]) -> Result<(Self, &[u8]), MessageError> {
        let short = MessageError::TooShort { what: "locator", len: payload.len(), need: Self::LEN };
        let (fixed, rest) = payload.split_first_chunk::<{ Self::LEN }>().ok_or(short)?;
        let number = |index: usize| {
            fixed[index * 8..].first_chunk().map_or(0, |bytes: &[u8; 8]| u64::from_le_bytes(*bytes))
        };
        Ok((Self { segment: number(0), offset: number(1), len: number(2) }, rest))
    }
}
