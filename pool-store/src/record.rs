//! The framing of records: a head with lengths and checksums, and a body.
//!
//! ```text
//!  0       4      5        6      8        16       24            40         44          48
//!  ┌───────┬──────┬────────┬──────┬────────┬────────┬─────────────┬──────────┬───────────┬──────┐
//!  │ marker│ kind │ 0      │ task │ length │ index  │ fingerprint │ CRC of   │ CRC of    │ body │
//!  │       │      │        │      │ of body│        │ of the call │ the body │ the head  │  …   │
//!  └───────┴──────┴────────┴──────┴────────┴────────┴─────────────┴──────────┴───────────┴──────┘
//! ```
//!
//! All numbers are little-endian. The checksum of the head also covers the file's [`Salt`] and the position of the record: what
//! was written at another place, or in another file, is no record here, whatever brought it here. Since the checksum of the body
//! is in the head, the same holds for the body.
//!
//! A head that is right tells where its record ends, also if the body is damaged. After a head that is not, the next record is
//! looked for by its marker ([`find`]); each candidate costs a fixed time, because the head is checked without the body.

/// Bytes of a head.
pub(crate) const HEAD: usize = 48;
/// What a head begins with. Not ASCII, and not a number that is likely.
const MARKER: [u8; 4] = [0xF1, b'R', 0x9C, 0x0A];

/// Tells one file from another: chosen by chance when the file is made.
pub(crate) type Salt = [u8; 16];
/// What a call is recognised by.
pub(crate) type Fingerprint = [u8; 16];

/// What is known of a record without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) kind: u8,
    /// The number of the task.
    pub(crate) task: u16,
    /// Bytes of the body.
    pub(crate) len: u64,
    /// The item.
    pub(crate) index: u64,
    pub(crate) fingerprint: Fingerprint,
    /// The checksum of the body.
    pub(crate) sum: u32,
}

impl Head {
    /// The head as it is written at this position.
    pub(crate) fn encode(&self, salt: &Salt, position: u64) -> [u8; HEAD] {
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&MARKER);
        bytes[4] = self.kind;
        bytes[6..8].copy_from_slice(&self.task.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.index.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.fingerprint);
        bytes[40..44].copy_from_slice(&self.sum.to_le_bytes());
        let sum = sum_of(&[salt, &position.to_le_bytes(), &bytes[..44]]);
        bytes[44..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The head at this position, if it is one.
    pub(crate) fn decode(bytes: &[u8; HEAD], salt: &Salt, position: u64) -> Option<Self> {
        if bytes[..4] != MARKER || bytes[5] != 0 {
            return None;
        }
        let sum = sum_of(&[salt, &position.to_le_bytes(), &bytes[..44]]);
        if bytes[44..] != sum.to_le_bytes() {
            return None;
        }
        Some(Self {
            kind: bytes[4],
            task: u16::from_le_bytes([bytes[6], bytes[7]]),
            len: u64_at(bytes, 8),
            index: u64_at(bytes, 16),
            fingerprint: array_at(bytes, 24),
            sum: u32::from_le_bytes(array_at(bytes, 40)),
        })
    }

    /// Where the record ends that begins here.
    pub(crate) fn end(&self, position: u64) -> Option<u64> {
        position.checked_add(HEAD as u64)?.checked_add(self.len)
    }
}

/// Where the next marker begins, or the beginning of one that the end of `bytes` cuts off.
pub(crate) fn find(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = bytes.get(from..)?.iter().position(|byte| *byte == MARKER[0]) {
        let rest = &bytes[from + found..];
        let len = rest.len().min(MARKER.len());
        if rest[..len] == MARKER[..len] {
            return Some(from + found);
        }
        from += found + 1;
    }
    None
}

/// The checksum of pieces that belong together.
pub(crate) fn sum_of(pieces: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    pieces.iter().for_each(|piece| sum.update(piece));
    sum.finalize()
}

/// `N` bytes from an offset on. The offset is a constant of a layout, and inside of it.
pub(crate) fn array_at<const N: usize, const M: usize>(bytes: &[u8; M], offset: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[offset..offset + N]);
    array
}

fn u64_at<const M: usize>(bytes: &[u8; M], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, offset))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: Salt = [7; 16];

    fn head() -> Head {
        Head { kind: 1, task: 2, len: 3, index: 4, fingerprint: [5; 16], sum: 6 }
    }

    #[test]
    fn a_head_is_one_only_in_its_file_and_at_its_place() {
        let bytes = head().encode(&SALT, 100);
        assert_eq!(Head::decode(&bytes, &SALT, 100), Some(head()));
        assert_eq!(Head::decode(&bytes, &SALT, 101), None);
        assert_eq!(Head::decode(&bytes, &[8; 16], 100), None);
        assert_eq!(head().end(100), Some(151));
        assert_eq!(Head { len: u64::MAX, ..head() }.end(100), None);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = head().encode(&SALT, 100);
        for bit in 0..8 * HEAD {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::decode(&flipped, &SALT, 100), None, "bit {bit}");
        }
    }

    #[test]
    fn a_marker_is_found_also_if_it_is_cut_off() {
        let text = [&[MARKER[0], MARKER[0]][..], &MARKER[1..], b"x"].concat();
        assert_eq!((find(&text), find(&text[2..])), (Some(1), None));
        assert_eq!((find(&text[..3]), find(&[]), find(b"xx")), (Some(1), None, None));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(kind: u8, task: u16, len: u64, index: u64, fingerprint: [u8; 16], sum: u32, at: u64) {
            let head = Head { kind, task, len, index, fingerprint, sum };
            prop_assert_eq!(Head::decode(&head.encode(&SALT, at), &SALT, at), Some(head));
        }
    }
}
