//! The first bytes of a journal.

use crate::record::{Salt, array_at, sum_of};

/// Bytes of a header. Records begin behind it.
pub(crate) const HEADER: usize = 64;
/// What a journal begins with. The first byte is not ASCII, so that nobody takes it for text.
const MAGIC: [u8; 8] = *b"\x8APoolJnl";
/// The format that is written. Later ones are refused.
pub(crate) const FORMAT: u32 = 1;
/// Offset of the checksum.
const SUM: usize = HEADER - 4;

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Sound(Salt),
    /// Its making was interrupted, or has not begun: nothing can be behind it.
    Unfinished,
    Foreign,
    Newer(u32),
    Damaged,
}

/// The header of a new file.
pub(crate) fn encode(salt: &Salt) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[16..32].copy_from_slice(salt);
    let sum = sum_of(&[&bytes[..SUM]]);
    bytes[SUM..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What the beginning of a file is; `bytes` are its first [`HEADER`] bytes, or all that it has.
pub(crate) fn decode(bytes: &[u8]) -> Header {
    let Some(whole) = bytes.first_chunk::<HEADER>() else {
        let is_ours = MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]);
        return if is_ours { Header::Unfinished } else { Header::Foreign };
    };
    if whole[..8] != MAGIC {
        return Header::Foreign;
    }
    let format = u32::from_le_bytes(array_at(whole, 8));
    if format > FORMAT {
        return Header::Newer(format);
    }
    if format != FORMAT || whole[SUM..] != sum_of(&[&whole[..SUM]]).to_le_bytes() {
        return Header::Damaged;
    }
    Header::Sound(array_at(whole, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_a_changed_one_is_not() {
        let bytes = encode(&[7; 16]);
        assert_eq!(decode(&bytes), Header::Sound([7; 16]));
        for len in 0..HEADER {
            assert_eq!(decode(&bytes[..len]), Header::Unfinished, "{len}");
        }
        for byte in 0..HEADER {
            let mut flipped = bytes;
            flipped[byte] ^= 1;
            assert!(!matches!(decode(&flipped), Header::Sound(_) | Header::Unfinished), "{byte}");
        }
    }

    #[test]
    fn what_is_no_journal_is_told_from_one_that_is_newer() {
        assert_eq!(decode(b"some text"), Header::Foreign);
        assert_eq!(decode(&[0; HEADER]), Header::Foreign);
        let mut newer = encode(&[7; 16]);
        newer[8] = 2;
        assert_eq!(decode(&newer), Header::Newer(2));
    }
}
