//! The arguments of many items, one behind the other as they travel.

use crate::buffer::{Args, INLINE};

/// Encoded arguments of items that are submitted together: for each its length and its bytes, as in a
/// [`Bundle`](pool_ipc::Bundle).
#[derive(Debug, Default)]
pub(crate) struct Packed {
    bytes: Vec<u8>,
    /// Where each item ends.
    ends: Vec<u32>,
}

impl Packed {
    /// With room for this many items and bytes.
    pub(crate) fn with_capacity(items: usize, bytes: usize) -> Self {
        // `push` reserves more than it may use.
        Self { bytes: Vec::with_capacity(bytes + LENGTH + INLINE), ends: Vec::with_capacity(items) }
    }

    #[inline]
    pub(crate) fn push(&mut self, args: &Args) {
        // Room for most items at once; those that are larger make it themselves.
        self.bytes.reserve(LENGTH + INLINE);
        pool_ipc::Bundle::push(&mut self.bytes, &[]);
        let start = self.bytes.len();
        args.append_to(&mut self.bytes);
        let end = self.bytes.len();
        let length = u32::try_from(end - start).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[start - LENGTH..start].copy_from_slice(&length);
        self.ends.push(u32::try_from(end).unwrap_or(u32::MAX));
    }

    /// How many items.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of all items.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Some items, as they travel; those that are not there are left out.
    pub(crate) fn items(&self, first: u32, count: u32) -> &[u8] {
        let end = self.start(first.saturating_add(count)).min(self.bytes.len());
        self.bytes.get(self.start(first)..end).unwrap_or_default()
    }

    /// The arguments of one item.
    pub(crate) fn item(&self, index: u32) -> &[u8] {
        self.items(index, 1).get(LENGTH..).unwrap_or_default()
    }

    fn start(&self, index: u32) -> usize {
        match index.checked_sub(1) {
            None => 0,
            Some(before) => self.ends.get(before as usize).map_or(self.bytes.len(), |end| *end as usize),
        }
    }
}

/// Bytes of an item's length.
const LENGTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_alone_and_together() {
        let mut packed = Packed::default();
        for args in [&b"a"[..], b"", b"ccc"] {
            packed.push(&Args::from(args.to_vec()));
        }
        assert_eq!((packed.len(), packed.size()), (3, 3 * LENGTH + 4));
        assert_eq!([packed.item(0), packed.item(1), packed.item(2)], [&b"a"[..], b"", b"ccc"]);
        assert_eq!(packed.items(0, 3).len(), packed.size());
        assert_eq!(packed.items(1, 2), b"\0\0\0\0\x03\0\0\0ccc");
        assert_eq!(packed.items(1, 0), b"");
        assert_eq!((packed.item(3), packed.items(2, 9)), (&b""[..], &b"\x03\0\0\0ccc"[..]), "none left");
    }
}
