//! Marks in what a worker prints: they say which task the bytes behind them belong to.
//!
//! A mark has a fixed length, below `PIPE_BUF`, so that it is never torn apart by what others write to the same pipe. It begins
//! and ends with control characters that no program prints in this order by accident; one that does misleads the pool about
//! who printed what, and about nothing else.
//!
//! ```
//! use pool_ipc::mark;
//!
//! let bytes = mark::encode(42);
//! assert_eq!(mark::decode(&bytes), Some(42));
//! assert_eq!(mark::find(b"text").start, None);
//! ```

/// Bytes of a mark.
pub const LEN: usize = 24;
const START: [u8; 4] = *b"\x1ePT\x1f";
const END: [u8; 4] = *b"\x1fTP\x1e";

/// The mark of a task, by its number; 0 for no task.
#[must_use]
pub fn encode(task: u64) -> [u8; LEN] {
    let mut mark = [0; LEN];
    mark[..4].copy_from_slice(&START);
    for (place, digit) in mark[4..20].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(task >> (60 - 4 * place)) as usize & 15];
    }
    mark[20..].copy_from_slice(&END);
    mark
}

/// The task that a mark names; `None` for what is no mark.
#[must_use]
pub fn decode(bytes: &[u8; LEN]) -> Option<u64> {
    let digits = bytes.strip_prefix(&START)?.strip_suffix(&END)?;
    digits.iter().try_fold(0, |task, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(task << 4 | u64::from(value))
    })
}

/// The first mark in some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where it starts, and its task.
    pub start: Option<(usize, u64)>,
    /// How many bytes at the end may be the start of a mark that is not all there.
    pub held: usize,
}

/// Looks for the first mark.
#[must_use]
pub fn find(bytes: &[u8]) -> Found {
    let mut from = 0;
    while let Some(place) = bytes[from..].iter().position(|byte| *byte == START[0]) {
        let start = from + place;
        let rest = &bytes[start..];
        match rest.first_chunk() {
            Some(whole) => {
                if let Some(task) = decode(whole) {
                    return Found { start: Some((start, task)), held: 0 };
                }
            }
            None if may_begin(rest) => return Found { start: None, held: rest.len() },
            None => {}
        }
        from = start + 1;
    }
    Found { start: None, held: 0 }
}

/// Whether these are the first bytes of some mark.
fn may_begin(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(place, byte)| match place {
        0..4 => *byte == START[place],
        4..20 => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        place => END.get(place - 20) == Some(byte),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_is_fixed() {
        assert_eq!(&encode(0x1f), b"\x1ePT\x1f000000000000001f\x1fTP\x1e");
    }

    #[test]
    fn what_only_looks_like_a_mark_is_none() {
        let mut forged = encode(7);
        forged[10] = b'g';
        assert_eq!(decode(&forged), None);
        assert_eq!(find(&forged), Found { start: None, held: 1 }, "the last byte may begin another one");
        assert_eq!(find(b"\x1ex"), Found { start: None, held: 0 });
    }

    proptest! {
        #[test]
        fn a_mark_is_found_wherever_it_is_cut(task: u64, before in "[a-z\x1e\x1fPT]{0,30}", cut in 0..LEN) {
            let mut bytes = before.clone().into_bytes();
            bytes.extend(encode(task));
            let whole = find(&bytes);
            prop_assert_eq!(whole, Found { start: Some((before.len(), task)), held: 0 });
            let part = find(&bytes[..before.len() + cut]);
            prop_assert_eq!(part.start, None);
            prop_assert!(part.held >= cut);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let found = find(&bytes);
            prop_assert!(found.held < LEN && found.held <= bytes.len());
        }
    }
}
