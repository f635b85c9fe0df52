//! Bundles: many small items of one task in one frame.

use crate::message::{MessageError, TaskHead};

/// Several items of one task in one frame, for arguments so small that their frames would cost more than they do.
///
/// The payload of a [`Kind::Bundle`](crate::Kind::Bundle): a [`TaskHead`] (its `task` is the number of the first item;
/// `attempt` and `timeout_ns` hold for each), the number of items (`u32`), then for each item the length of its encoded
/// arguments (`u32`) and these. The frame's ticket is that of the first item; the others follow it. Each item is claimed
/// and answered by itself.
///
/// ```
/// use pool_ipc::{Bundle, TaskHead};
///
/// let head = TaskHead { index: 3, attempt: 1, queued_us: 0, task: 42, timeout_ns: 0 };
/// let mut payload = Bundle::start(head, 2).to_vec();
/// Bundle::push(&mut payload, b"one");
/// Bundle::push(&mut payload, b"");
/// let (found, items) = Bundle::split(&payload)?;
/// assert_eq!((found, items.len()), (head, 2));
/// assert_eq!(items.collect::<Result<Vec<_>, _>>()?, [&b"one"[..], b""]);
/// # Ok::<(), pool_ipc::MessageError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Bundle {}

impl Bundle {
    /// Bytes before the first item.
    pub const LEN: usize = TaskHead::LEN + 4;
    /// Bytes before each item's arguments.
    pub const ITEM_LEN: usize = 4;

    /// What stands before `count` items.
    #[must_use]
    pub fn start(head: TaskHead, count: u32) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..TaskHead::LEN].copy_from_slice(&head.encode());
        bytes[TaskHead::LEN..].copy_from_slice(&count.to_le_bytes());
        bytes
    }

    /// Appends an item.
    ///
    /// # Panics
    /// If it has more than [`u32::MAX`] bytes, which no frame can hold.
    #[inline]
    pub fn push(bytes: &mut Vec<u8>, arguments: &[u8]) {
        let len = u32::try_from(arguments.len()).expect("an item fits a frame");
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(arguments);
    }

    /// Splits a payload into its head and its items, which are found one by one.
    ///
    /// # Errors
    /// [`MessageError::TooShort`]; [`MessageError::ItemCount`] for none, and for more than there are bytes for.
    pub fn split(payload: &[u8]) -> Result<(TaskHead, Items<'_>), MessageError> {
        let (head, rest) = TaskHead::split(payload)?;
        let (&count, rest) = rest.split_first_chunk::<4>().ok_or(MessageError::TooShort {
            what: "bundle",
            len: payload.len(),
            need: Self::LEN,
        })?;
        let count = u32::from_le_bytes(count);
        if count == 0 || count as usize > rest.len() / Self::ITEM_LEN {
            return Err(MessageError::ItemCount { count, len: rest.len() });
        }
        Ok((head, Items { rest, left: count }))
    }
}

/// The encoded arguments of the items of a [`Bundle`]. The first that makes no sense is the last.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<&'a [u8], MessageError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let item = self
            .rest
            .split_first_chunk::<4>()
            .and_then(|(len, behind)| behind.split_at_checked(u32::from_le_bytes(*len) as usize));
        Some(match item {
            Some((_, behind)) if self.left == 0 && !behind.is_empty() => {
                Err(MessageError::TrailingBytes { what: "bundle", count: behind.len() })
            }
            Some((arguments, behind)) => {
                self.rest = behind;
                Ok(arguments)
            }
            None => {
                self.left = 0;
                Err(MessageError::TooShort {
                    what: "item of a bundle",
                    len: self.rest.len(),
                    need: Bundle::ITEM_LEN,
                })
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // Fewer if one makes no sense.
        (usize::from(self.left > 0), Some(self.left as usize))
    }
}

impl Items<'_> {
    /// Items that have not been taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.left as usize
    }

    /// Whether all have been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bundle(items: &[&[u8]]) -> Vec<u8> {
        let head = TaskHead { index: 1, attempt: 2, queued_us: 0, task: 3, timeout_ns: 4 };
        let mut payload = Bundle::start(head, items.len() as u32).to_vec();
        items.iter().for_each(|item| Bundle::push(&mut payload, item));
        payload
    }

    #[test]
    fn bundle_layout_is_fixed() {
        let payload = bundle(&[b"ab", b"", b"c"]);
        assert_eq!(payload[24..], *b"\x03\0\0\0\x02\0\0\0ab\0\0\0\0\x01\0\0\0c");
        let (head, items) = Bundle::split(&payload).unwrap();
        assert_eq!(head.encode(), payload[..24]);
        assert_eq!(items.collect::<Vec<_>>(), [Ok(&b"ab"[..]), Ok(b""), Ok(b"c")]);
    }

    #[test]
    fn a_bundle_that_lies_about_its_items_is_refused() {
        assert_eq!(Bundle::split(&bundle(&[])).err(), Some(MessageError::ItemCount { count: 0, len: 0 }));
        let payload = bundle(&[b"ab", b"cd"]);
        for cut in 0..payload.len() {
            let wrong = match Bundle::split(&payload[..cut]) {
                Ok((_, items)) => items.filter(Result::is_err).count(),
                Err(_) => 1,
            };
            assert_eq!(wrong, 1, "cut at {cut}");
        }
        let stray = [&payload[..], b"x"].concat();
        let found: Vec<_> = Bundle::split(&stray).unwrap().1.collect();
        let error = MessageError::TrailingBytes { what: "bundle", count: 1 };
        assert_eq!(found, [Ok(&b"ab"[..]), Err(error)]);
        let mut many = payload.clone();
        many[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = MessageError::ItemCount { count: u32::MAX, len: 12 };
        assert_eq!(Bundle::split(&many).err(), Some(error));
        let mut long = payload;
        long[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut items = Bundle::split(&long).unwrap().1;
        assert!(items.next().is_some_and(|item| item.is_err()) && items.next().is_none());
    }

    proptest! {
        #[test]
        fn bundle_round_trip(items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 1..20)) {
            let items: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
            let payload = bundle(&items);
            let (_, found) = Bundle::split(&payload).unwrap();
            prop_assert_eq!(found.len(), items.len());
            prop_assert_eq!(found.collect::<Result<Vec<_>, _>>(), Ok(items));
        }

        #[test]
        fn arbitrary_bundles_never_panic(count in 0..40_u32, bytes in prop::collection::vec(0..12_u8, 0..100)) {
            let head = TaskHead { index: 1, attempt: 2, queued_us: 0, task: 3, timeout_ns: 4 };
            let payload = [&Bundle::start(head, count)[..], &bytes].concat();
            if let Ok((_, items)) = Bundle::split(&payload) {
                let found: Vec<_> = items.collect();
                prop_assert!(found.len() <= count as usize);
                prop_assert!(found.iter().rev().skip(1).all(Result::is_ok), "the first wrong one is the last");
                let taken: usize = found.iter().flatten().map(|item| Bundle::ITEM_LEN + item.len()).sum();
                prop_assert!(found.last().is_some_and(Result::is_err) || taken == bytes.len());
            }
        }
    }
}
