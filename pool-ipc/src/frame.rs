//! Frames: a 16-byte header, then a payload.
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | `len: u32` | bytes of payload |
//! | 4 | `kind: u8` | a [`Kind`] |
//! | 5 | `magic: u8` | always `0xB7` |
//! | 6 | `check: u16` | a mix of the other 14 bytes |
//! | 8 | `ticket: u64` | the task it is about, or 0 |
//!
//! All fields are little endian. `magic` and `check` find no bit errors that a pipe would not make; they find
//! task code that writes to a descriptor which is not its own, at the first header instead of after a wild
//! length.

use std::{borrow::Cow, fmt};

use thiserror::Error;

/// Bytes of an encoded [`Header`].
pub const HEADER_LEN: usize = 16;

/// The largest payload, in bytes, that a reader accepts unless told otherwise: 1 GiB.
pub const DEFAULT_FRAME_LIMIT: u32 = 1 << 30;

const MAGIC: u8 = 0xB7;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Worker to supervisor, first frame: a [`Hello`](crate::Hello).
    Hello = 1,
    /// Supervisor to worker: a [`TaskHead`](crate::TaskHead), then the encoded arguments.
    Task = 2,
    /// Worker to supervisor: the encoded result of a task.
    Done = 3,
    /// Worker to supervisor: a [`Failure`](crate::Failure).
    Failed = 4,
    /// Supervisor to worker: finish what was claimed, then exit.
    Retire = 5,
    /// Worker to supervisor, last frame.
    Bye = 6,
}

impl TryFrom<u8> for Kind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        Ok(match byte {
            1 => Self::Hello,
            2 => Self::Task,
            3 => Self::Done,
            4 => Self::Failed,
            5 => Self::Retire,
            6 => Self::Bye,
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The magic byte is wrong: the bytes are not a header at all.
    #[error(
        "frame header has {found:#04x} in place of its magic {MAGIC:#04x}: something else wrote to this descriptor"
    )]
    BadMagic {
        /// The byte that was there.
        found: u8,
    },
    /// The header's check does not match its other fields.
    #[error("frame header does not match its check: something else wrote to this descriptor")]
    BadCheck,
    /// The header is sound but its kind is not one of [`Kind`].
    #[error("frame kind {0} is unknown: the other side speaks another version of the protocol")]
    UnknownKind(u8),
    /// The payload is longer than may be sent or accepted.
    #[error("frame payload of {len} bytes exceeds the limit of {limit} bytes: raise the limit or send less")]
    TooLong {
        /// Bytes of payload.
        len: u64,
        /// The most that is allowed, in bytes.
        limit: u32,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame, at least {missing} bytes short: the writer died while writing")]
    Truncated {
        /// Bytes that were still to come; a lower bound if the header itself is incomplete.
        missing: usize,
    },
}

/// The fixed start of every frame.
///
/// ```
/// use pool_ipc::{FrameError, Header, Kind};
///
/// let header = Header { len: 5, kind: Kind::Done, ticket: 7 };
/// let mut bytes = header.encode();
/// assert_eq!(Header::decode(&bytes, 5), Ok(header));
/// assert_eq!(Header::decode(&bytes, 4), Err(FrameError::TooLong { len: 5, limit: 4 }));
/// bytes[8] ^= 1;
/// assert_eq!(Header::decode(&bytes, 5), Err(FrameError::BadCheck));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload.
    pub len: u32,
    /// What the frame says.
    pub kind: Kind,
    /// The task it is about, or 0.
    pub ticket: u64,
}

impl Header {
    /// The header as it is sent.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = MAGIC;
        bytes[8..].copy_from_slice(&self.ticket.to_le_bytes());
        let check = mix(&bytes);
        bytes[6..8].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a header and refuses payloads of more than `limit` bytes.
    ///
    /// # Errors
    /// [`FrameError::BadMagic`], [`FrameError::BadCheck`], [`FrameError::UnknownKind`] and
    /// [`FrameError::TooLong`], looked for in that order.
    pub fn decode(bytes: &[u8; HEADER_LEN], limit: u32) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, magic, c0, c1, ticket @ ..] = *bytes;
        if magic != MAGIC {
            return Err(FrameError::BadMagic { found: magic });
        }
        if u16::from_le_bytes([c0, c1]) != mix(bytes) {
            return Err(FrameError::BadCheck);
        }
        let kind = Kind::try_from(kind)?;
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        if len > limit {
            return Err(FrameError::TooLong { len: len.into(), limit });
        }
        Ok(Self { len, kind, ticket: u64::from_le_bytes(ticket) })
    }
}

/// Mixes all bytes but the check itself: two rounds of xor-shift-multiply (constants of `splitmix64`), top
/// bits kept.
fn mix(bytes: &[u8; HEADER_LEN]) -> u16 {
    let [l0, l1, l2, l3, kind, magic, _, _, ticket @ ..] = *bytes;
    let fields = u64::from_le_bytes([l0, l1, l2, l3, kind, magic, 0, 0]);
    let mut hash = fields.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash ^= hash >> 31;
    hash = (hash ^ u64::from_le_bytes(ticket)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^= hash >> 29;
    (hash.wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 48) as u16
}

/// A whole frame, its payload borrowed from the reader's buffer where it is small.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub kind: Kind,
    /// The task it is about, or 0.
    pub ticket: u64,
    /// What follows the header.
    pub payload: Cow<'a, [u8]>,
}

impl Frame<'_> {
    /// The same frame, independent of the reader.
    #[must_use]
    pub fn into_owned(self) -> Frame<'static> {
        Frame { kind: self.kind, ticket: self.ticket, payload: Cow::Owned(self.payload.into_owned()) }
    }
}

impl fmt::Debug for Frame<'_> {
    /// Shows the length of the payload only; a payload may be a gigabyte.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("kind", &self.kind)
            .field("ticket", &self.ticket)
            .field("len", &self.payload.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KINDS: [Kind; 6] = [Kind::Hello, Kind::Task, Kind::Done, Kind::Failed, Kind::Retire, Kind::Bye];

    #[test]
    fn layout_is_fixed() {
        let bytes = Header { len: 0x0403_0201, kind: Kind::Done, ticket: 0x0807_0605_0403_0201 }.encode();
        assert_eq!(bytes[..6], [1, 2, 3, 4, 3, 0xB7]);
        assert_eq!(bytes[6..8], [0x1b, 0xbe]);
        assert_eq!(bytes[8..], [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn kinds_are_their_own_inverse_and_nothing_else_is_one() {
        for byte in 0..=u8::MAX {
            match Kind::try_from(byte) {
                Ok(kind) => assert_eq!(kind as u8, byte),
                Err(error) => assert_eq!(error, FrameError::UnknownKind(byte)),
            }
        }
        assert_eq!((0..=u8::MAX).filter_map(|byte| Kind::try_from(byte).ok()).collect::<Vec<_>>(), KINDS);
    }

    #[test]
    fn unknown_kind_in_a_sound_header_is_told_apart_from_garbage() {
        let mut bytes = Header { len: 0, kind: Kind::Bye, ticket: 1 }.encode();
        bytes[4] = 9;
        let check = mix(&bytes);
        bytes[6..8].copy_from_slice(&check.to_le_bytes());
        assert_eq!(Header::decode(&bytes, 0), Err(FrameError::UnknownKind(9)));
    }

    #[test]
    fn typical_garbage_is_refused() {
        for garbage in [[0; 16], [0xff; 16], *b"hello, world!!!\n", *b"thread 'main' pa"] {
            assert!(matches!(Header::decode(&garbage, u32::MAX), Err(FrameError::BadMagic { .. })));
        }
        assert_eq!(Header::decode(&[MAGIC; 16], u32::MAX), Err(FrameError::BadCheck));
    }

    proptest! {
        #[test]
        fn round_trip(len: u32, kind in proptest::sample::select(&KINDS), ticket: u64) {
            let header = Header { len, kind, ticket };
            prop_assert_eq!(Header::decode(&header.encode(), u32::MAX), Ok(header));
        }

        #[test]
        fn limit_is_inclusive(len: u32, limit: u32) {
            let decoded = Header::decode(&Header { len, kind: Kind::Task, ticket: 1 }.encode(), limit);
            if len <= limit {
                prop_assert_eq!(decoded.map(|header| header.len), Ok(len));
            } else {
                prop_assert_eq!(decoded, Err(FrameError::TooLong { len: len.into(), limit }));
            }
        }

        #[test]
        fn arbitrary_bytes_decode_only_to_what_encodes_to_them(bytes: [u8; 16], fixed: bool) {
            let mut bytes = bytes;
            if fixed {
                bytes[5] = MAGIC;
                let check = mix(&bytes);
                bytes[6..8].copy_from_slice(&check.to_le_bytes());
            }
            if let Ok(header) = Header::decode(&bytes, u32::MAX) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn every_single_bit_flip_in_small_headers_is_noticed() {
        for ticket in 1..200 {
            let bytes = Header { len: 8 * ticket as u32, kind: Kind::Done, ticket }.encode();
            for bit in 0..128 {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::decode(&flipped, u32::MAX).is_err(), "ticket {ticket}, bit {bit}");
            }
        }
    }
}
