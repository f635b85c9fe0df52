//! Frames: a 20-byte header, then a payload.
//!
//! | offset | field | |
//! |---|---|---|
//! | 0 | `len: u32` | bytes of payload |
//! | 4 | `kind: u8` | a [`Kind`] |
//! | 5 | `magic: u8` | always `0xB7` |
//! | 6 | `check: u16` | a mix of the other 18 bytes |
//! | 8 | `ticket: u64` | the task it is about, or 0 |
//! | 16 | `sum: u32` | the sum of the payload; 0 if it has more than [`SUMMED_MAX`] bytes |
//!
//! All fields are little endian. `magic`, `check` and `sum` find no bit errors that a pipe would not make; they
//! find task code that writes to a descriptor or to memory which is not its own: at the first header instead of
//! after a wild length, and before a small result that was scribbled over is delivered.

use std::{borrow::Cow, fmt};

use thiserror::Error;

use crate::message::{MAX_EXIT_NOTE_LEN, MAX_FAILURE_LEN, MAX_HELLO_LEN, MAX_STATE_NAME, MAX_UNFIT_LEN};
use crate::sum;

pub use crate::sum::SUMMED_MAX;

/// Bytes of an encoded [`Header`].
pub const HEADER_LEN: usize = 20;

/// The largest arguments or result, in bytes, that a reader accepts unless told otherwise: 1 GiB.
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
    /// Supervisor to worker: several small items of one task; see [`Bundle`](crate::Bundle).
    Bundle = 7,
    /// Supervisor to worker: a task whose arguments are in a segment.
    TaskAt = 8,
    /// Worker to supervisor: a result that is in a segment.
    DoneAt = 9,
    /// Either way: what was in a segment has been read; the segment may be used again.
    Release = 10,
    /// Either way: a segment is gone; unmap it.
    Forget = 11,
    /// Worker to supervisor, instead of all further frames, and through the pipe even where frames travel through rings: it
    /// gives up between two tasks, because its memory has been overwritten. It has started no ticket above this one.
    Refused = 12,
    /// Worker to supervisor: it builds a state from now on; its name. It has claimed nothing, and does not until it is done.
    Preparing = 13,
    /// Worker to supervisor: the state is built.
    Prepared = 14,
    /// Worker to supervisor, instead of all further frames: a state cannot be built; an [`Unfit`](crate::Unfit).
    Unfit = 15,
    /// Worker to supervisor, once it has been asked to [`Retire`](Self::Retire): an [`ExitNote`](crate::ExitNote).
    ExitNote = 16,
}

impl Kind {
    /// Most bytes of payload that a frame of this kind may have for a reader with this limit.
    ///
    /// The limit is about tasks: their arguments and results. What is said besides them has bounds of its own, up to which a low
    /// limit does not refuse it: the hello of a worker with many tasks, or the report of a panic.
    ///
    /// ```
    /// use pool_ipc::Kind;
    ///
    /// assert_eq!(Kind::Done.limit(4096), 4096);
    /// assert_eq!(Kind::Hello.limit(4096), 8 << 20);
    /// ```
    #[must_use]
    pub fn limit(self, limit: u32) -> u32 {
        let own = match self {
            Self::Hello => MAX_HELLO_LEN,
            Self::Failed => MAX_FAILURE_LEN,
            Self::Preparing => MAX_STATE_NAME,
            Self::Unfit => MAX_UNFIT_LEN,
            Self::ExitNote => MAX_EXIT_NOTE_LEN,
            _ => return limit,
        };
        limit.max(own as u32)
    }
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
            7 => Self::Bundle,
            8 => Self::TaskAt,
            9 => Self::DoneAt,
            10 => Self::Release,
            11 => Self::Forget,
            12 => Self::Refused,
            13 => Self::Preparing,
            14 => Self::Prepared,
            15 => Self::Unfit,
            16 => Self::ExitNote,
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
    /// The header is sound but the payload is not the one that it was made for.
    #[error("payload of the frame for ticket {ticket} does not match its sum: it has been overwritten")]
    Checksum {
        /// The task that the frame is about.
        ticket: u64,
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
/// let header = Header::new(Kind::Done, 7, &[b"he", b"llo"])?;
/// let mut bytes = header.encode();
/// assert_eq!(Header::decode(&bytes, 5), Ok(header));
/// assert_eq!(Header::decode(&bytes, 4), Err(FrameError::TooLong { len: 5, limit: 4 }));
/// assert!(header.matches(b"hello") && !header.matches(b"hullo"));
/// bytes[8] ^= 1;
/// assert_eq!(Header::decode(&bytes, 5), Err(FrameError::BadCheck));
/// # Ok::<(), FrameError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload.
    pub len: u32,
    /// What the frame says.
    pub kind: Kind,
    /// The task it is about, or 0.
    pub ticket: u64,
    /// The sum of the payload; 0 if it has more than [`SUMMED_MAX`] bytes.
    pub sum: u32,
}

impl Header {
    /// The header of a frame whose payload is `parts` one after the other.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] if that exceeds [`u32::MAX`] bytes.
    #[inline]
    pub fn new(kind: Kind, ticket: u64, parts: &[&[u8]]) -> Result<Self, FrameError> {
        let len: u64 = parts.iter().map(|part| part.len() as u64).sum();
        match u32::try_from(len) {
            Ok(short) => Ok(Self { len: short, kind, ticket, sum: sum::sum(parts, short as usize) }),
            Err(_) => Err(FrameError::TooLong { len, limit: u32::MAX }),
        }
    }

    /// The header as it is sent.
    #[inline]
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let fields = u64::from(self.len) | u64::from(self.kind as u8) << 32 | u64::from(MAGIC) << 40;
        let check = mix(fields, self.ticket, self.sum);
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&(fields | u64::from(check) << 48).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.ticket.to_le_bytes());
        bytes[16..].copy_from_slice(&self.sum.to_le_bytes());
        bytes
    }

    /// Reads a header and refuses payloads of more than [`Kind::limit`] bytes.
    ///
    /// # Errors
    /// [`FrameError::BadMagic`], [`FrameError::BadCheck`], [`FrameError::UnknownKind`] and
    /// [`FrameError::TooLong`], looked for in that order.
    #[inline]
    pub fn decode(bytes: &[u8; HEADER_LEN], limit: u32) -> Result<Self, FrameError> {
        let [f0, f1, f2, f3, kind, magic, c0, c1, t0, t1, t2, t3, t4, t5, t6, t7, sum @ ..] = *bytes;
        if magic != MAGIC {
            return Err(FrameError::BadMagic { found: magic });
        }
        let fields = u64::from_le_bytes([f0, f1, f2, f3, kind, magic, 0, 0]);
        let ticket = u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
        let (len, sum) = (fields as u32, u32::from_le_bytes(sum));
        if u16::from_le_bytes([c0, c1]) != mix(fields, ticket, sum) {
            return Err(FrameError::BadCheck);
        }
        let kind = Kind::try_from(kind)?;
        if len > limit && len > kind.limit(limit) {
            return Err(FrameError::TooLong { len: len.into(), limit: kind.limit(limit) });
        }
        Ok(Self { len, kind, ticket, sum })
    }

    /// Whether `payload` is the one that this header was made for, as far as its sum tells.
    #[inline]
    #[must_use]
    pub fn matches(&self, payload: &[u8]) -> bool {
        payload.len() == self.len as usize && sum::sum(&[payload], payload.len()) == self.sum
    }
}

/// Mixes all of a header but the check itself, `fields` being its first 8 bytes without it: rounds of
/// xor-shift-multiply (constants of `splitmix64`), top bits kept.
#[inline]
fn mix(fields: u64, ticket: u64, sum: u32) -> u16 {
    let mut hash = fields.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash ^= hash >> 31;
    hash = (hash ^ ticket).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^= hash >> 29;
    hash = (hash ^ u64::from(sum)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (hash >> 48) as u16
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

    const KINDS: [Kind; 16] = [
        Kind::Hello,
        Kind::Task,
        Kind::Done,
        Kind::Failed,
        Kind::Retire,
        Kind::Bye,
        Kind::Bundle,
        Kind::TaskAt,
        Kind::DoneAt,
        Kind::Release,
        Kind::Forget,
        Kind::Refused,
        Kind::Preparing,
        Kind::Prepared,
        Kind::Unfit,
        Kind::ExitNote,
    ];

    /// Gives changed bytes a check that fits.
    fn recheck(bytes: &mut [u8; HEADER_LEN]) {
        bytes[6..8].fill(0);
        let fields = u64::from_le_bytes(*bytes.first_chunk().unwrap());
        let ticket = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        let sum = u32::from_le_bytes(bytes[16..].try_into().unwrap());
        bytes[6..8].copy_from_slice(&mix(fields, ticket, sum).to_le_bytes());
    }

    #[test]
    fn layout_is_fixed() {
        let (len, ticket, sum) = (0x0403_0201, 0x0807_0605_0403_0201, 0x1413_1211);
        let bytes = Header { len, kind: Kind::Done, ticket, sum }.encode();
        assert_eq!(bytes[..6], [1, 2, 3, 4, 3, 0xB7]);
        assert_eq!(bytes[6..8], [0x45, 0x87]);
        assert_eq!(bytes[8..16], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[16..], [0x11, 0x12, 0x13, 0x14]);
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
        let mut bytes = Header::new(Kind::Bye, 1, &[]).unwrap().encode();
        bytes[4] = 77;
        recheck(&mut bytes);
        assert_eq!(Header::decode(&bytes, 0), Err(FrameError::UnknownKind(77)));
    }

    #[test]
    fn typical_garbage_is_refused() {
        for garbage in [[0; 20], [0xff; 20], *b"hello, world!!!!!!!\n", *b"thread 'main' panick"] {
            assert!(matches!(Header::decode(&garbage, u32::MAX), Err(FrameError::BadMagic { .. })));
        }
        assert_eq!(Header::decode(&[MAGIC; 20], u32::MAX), Err(FrameError::BadCheck));
    }

    #[test]
    fn a_payload_of_another_length_or_sum_does_not_match() {
        let header = Header::new(Kind::Done, 1, &[b"some", b" bytes"]).unwrap();
        assert!(header.matches(b"some bytes"));
        for other in [&b"some byte"[..], b"some bytes ", b"some bytez", b""] {
            assert!(!header.matches(other));
        }
        let long = vec![7; SUMMED_MAX + 1];
        let header = Header::new(Kind::Done, 1, &[&long]).unwrap();
        assert!(header.sum == 0 && header.matches(&long), "too long for a sum");
        assert!(!Header { sum: 1, ..header }.matches(&long));
    }

    #[test]
    fn a_low_limit_refuses_no_message_that_is_not_about_arguments_or_results() {
        let limit = 4096;
        let decoded = |kind, len| Header::decode(&Header { len, kind, ticket: 0, sum: 0 }.encode(), limit);
        for kind in KINDS {
            let own = kind.limit(limit);
            assert_eq!(decoded(kind, own).map(|header| header.len), Ok(own), "{kind:?}");
            let error = FrameError::TooLong { len: u64::from(own) + 1, limit: own };
            assert_eq!(decoded(kind, own + 1), Err(error), "{kind:?}");
        }
        let own =
            [Kind::Hello, Kind::Failed, Kind::Unfit, Kind::ExitNote].map(|kind| kind.limit(limit) as usize);
        assert_eq!(own, [MAX_HELLO_LEN, MAX_FAILURE_LEN, MAX_UNFIT_LEN, MAX_EXIT_NOTE_LEN]);
        assert_eq!(Kind::Done.limit(limit), limit);
    }

    proptest! {
        #[test]
        fn round_trip(len: u32, kind in proptest::sample::select(&KINDS), ticket: u64, sum: u32) {
            let header = Header { len, kind, ticket, sum };
            prop_assert_eq!(Header::decode(&header.encode(), u32::MAX), Ok(header));
        }

        #[test]
        fn limit_is_inclusive(len: u32, limit: u32) {
            let decoded = Header::decode(&Header { len, kind: Kind::Task, ticket: 1, sum: 0 }.encode(), limit);
            if len <= limit {
                prop_assert_eq!(decoded.map(|header| header.len), Ok(len));
            } else {
                prop_assert_eq!(decoded, Err(FrameError::TooLong { len: len.into(), limit }));
            }
        }

        #[test]
        fn arbitrary_bytes_decode_only_to_what_encodes_to_them(bytes: [u8; HEADER_LEN], fixed: bool) {
            let mut bytes = bytes;
            if fixed {
                bytes[5] = MAGIC;
                recheck(&mut bytes);
            }
            if let Ok(header) = Header::decode(&bytes, u32::MAX) {
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }

    #[test]
    fn every_single_bit_flip_in_small_headers_is_noticed() {
        for ticket in 1..200 {
            let bytes =
                Header { len: 8 * ticket as u32, kind: Kind::Done, ticket, sum: !ticket as u32 }.encode();
            for bit in 0..8 * HEADER_LEN {
                let mut flipped = bytes;
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::decode(&flipped, u32::MAX).is_err(), "ticket {ticket}, bit {bit}");
            }
        }
    }
}
