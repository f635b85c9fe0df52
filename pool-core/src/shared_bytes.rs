//! A result that is not copied on its way back.

use std::alloc::Layout;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use pool_ipc::{Sealed, SealedWriter};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::arena::LARGE;

/// Bytes that a task returns and its caller reads where the worker has written them.
///
/// ```
/// use pool_core::{SharedBytes, task};
///
/// #[task]
/// fn render(width: usize, height: usize) -> SharedBytes {
///     let mut image = SharedBytes::builder();
///     for line in 0..height {
///         image.extend_from_slice(&vec![line as u8; width]);
///     }
///     image.finish()
/// }
///
/// let image: SharedBytes = render(640, 480).run_here().unwrap();
/// assert_eq!(image.len(), 640 * 480);
/// assert!(image.ends_with(&[479_u32 as u8; 640]));
/// ```
///
/// As the result of a task, by itself or in an `Option` or `Result`, it crosses the process boundary without a copy; anywhere
/// else, as an argument or inside another type, it is copied like a `Vec<u8>`. Cloning it is cheap.
///
/// # When it pays
/// The bytes are in a file in memory that the kernel has made immutable (`F_SEAL_WRITE`), so nothing that goes wrong in the
/// worker afterwards can change them. The price is that its pages can be used once only, and a page that is new costs several
/// times as much as copying one. So it pays for results that are **kept**, such as many large ones that are collected, where
/// a `Vec<u8>` would need new pages too, and in the calling process; and where that process has no time to spare for copies.
/// A result that is looked at and dropped, again and again, is faster as a `Vec<u8>`, which reuses memory on both sides.
///
/// Fewer than 64 KiB are copied in any case.
#[derive(Clone)]
pub struct SharedBytes(Repr);

#[derive(Clone)]
enum Repr {
    Heap(Arc<Vec<u8>>),
    Sealed(Arc<Sealed>),
}

impl SharedBytes {
    /// Starts one that is filled piece by piece.
    #[must_use]
    pub fn builder() -> SharedBytesBuilder {
        SharedBytesBuilder { file: File::None, heap: Vec::new() }
    }

    /// What can be sent by its descriptor.
    pub(crate) fn sealed(&self) -> Option<&Arc<Sealed>> {
        match &self.0 {
            Repr::Sealed(sealed) => Some(sealed),
            Repr::Heap(_) => None,
        }
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Heap(heap) => heap,
            Repr::Sealed(sealed) => sealed,
        }
    }
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Default for SharedBytes {
    fn default() -> Self {
        Self(Repr::Heap(Arc::default()))
    }
}

/// Copies, into a file if they are 64 KiB or more.
impl From<&[u8]> for SharedBytes {
    fn from(bytes: &[u8]) -> Self {
        let mut builder = Self::builder();
        builder.extend_from_slice(bytes);
        builder.finish()
    }
}

/// Stays on the heap: sent as a result, it is copied like a `Vec<u8>`.
impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Repr::Heap(Arc::new(bytes)))
    }
}

impl From<Sealed> for SharedBytes {
    fn from(sealed: Sealed) -> Self {
        Self(Repr::Sealed(Arc::new(sealed)))
    }
}

impl PartialEq for SharedBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for SharedBytes {}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // They are many.
        f.debug_struct("SharedBytes").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A block of bytes, which is copied.
impl Serialize for SharedBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self)
    }
}

impl<'de> Deserialize<'de> for SharedBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Vec<u8>, A::Error> {
                let mut collected = Vec::new();
                while let Some(byte) = bytes.next_element()? {
                    collected.push(byte);
                }
                Ok(collected)
            }
        }
        deserializer.deserialize_byte_buf(Bytes).map(Self::from)
    }
}

/// Fills a [`SharedBytes`]: by [`extend_from_slice`](Self::extend_from_slice), or as an [`io::Write`].
///
/// If the system refuses the file, the bytes are on the heap, and copied on their way.
#[derive(Debug)]
pub struct SharedBytesBuilder {
    file: File,
    /// What comes after the content of the file.
    heap: Vec<u8>,
}

#[derive(Debug)]
enum File {
    /// Not needed yet.
    None,
    Open(SealedWriter),
    /// Not to be had.
    Refused,
}

impl SharedBytesBuilder {
    /// Appends bytes.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        // Small pieces are collected, so that they do not cost a system call each.
        if self.heap.len().saturating_add(bytes.len()) >= LARGE {
            self.open();
            self.flush_heap();
        }
        if bytes.len() < LARGE || !self.append(bytes) {
            self.heap.extend_from_slice(bytes);
        }
    }

    /// The bytes, which nobody can change from now on.
    #[must_use]
    pub fn finish(mut self) -> SharedBytes {
        self.flush_heap();
        match std::mem::replace(&mut self.file, File::Refused) {
            File::Open(writer) if self.heap.is_empty() => match writer.seal() {
                Ok(sealed) => sealed.into(),
                Err((writer, error)) => {
                    self.give_up(writer, &error);
                    self.heap.into()
                }
            },
            _ => self.heap.into(),
        }
    }

    fn open(&mut self) {
        if matches!(self.file, File::None) {
            self.file = SealedWriter::create().map_or(File::Refused, File::Open);
        }
    }

    /// Moves what is on the heap to the file, if there is one.
    fn flush_heap(&mut self) {
        if self.heap.is_empty() || !matches!(self.file, File::Open(_)) {
            return;
        }
        let mut heap = std::mem::take(&mut self.heap);
        if self.append(&heap) {
            heap.clear();
            self.heap = heap;
        } else {
            self.heap.append(&mut heap);
        }
    }

    /// Appends to the file; false if there is none, or none any more, and its content is on the heap.
    fn append(&mut self, bytes: &[u8]) -> bool {
        let File::Open(writer) = &mut self.file else { return false };
        let Err(error) = writer.append(bytes) else { return true };
        if let File::Open(writer) = std::mem::replace(&mut self.file, File::Refused) {
            self.give_up(writer, &error);
        }
        false
    }

    /// Takes the content of the file back to the heap.
    fn give_up(&mut self, writer: SealedWriter, error: &io::Error) {
        tracing::debug!(%error, "bytes cannot be shared; they will be copied");
        let len = usize::try_from(writer.len()).unwrap_or(usize::MAX);
        match writer.into_vec() {
            Ok(bytes) => self.heap.splice(..0, bytes).for_each(drop),
            // As for any other memory that is not to be had.
            Err(_) => std::alloc::handle_alloc_error(Layout::array::<u8>(len).unwrap_or(Layout::new::<u8>())),
        }
    }
}

impl Extend<u8> for SharedBytesBuilder {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        for byte in bytes {
            self.extend_from_slice(&[byte]);
        }
    }
}

impl io::Write for SharedBytesBuilder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn few_stay_on_the_heap_and_many_go_to_a_file() {
        for (len, in_file) in
            [(0, false), (1, false), (LARGE - 1, false), (LARGE, true), (5 * LARGE + 3, true)]
        {
            let shared = SharedBytes::from(&bytes(len)[..]);
            assert!(*shared == *bytes(len));
            assert_eq!(shared.sealed().is_some(), in_file, "{len}");
            assert!(shared.clone() == shared);
        }
        assert!(SharedBytes::from(bytes(LARGE)).sealed().is_none(), "it is on the heap already");
        assert!(SharedBytes::default().is_empty() && SharedBytes::builder().finish().is_empty());
    }

    #[test]
    fn without_a_file_the_heap_does() {
        let mut builder = SharedBytesBuilder { file: File::Refused, heap: Vec::new() };
        for _ in 0..3 {
            builder.extend_from_slice(&bytes(LARGE));
        }
        let shared = builder.finish();
        assert!(shared.sealed().is_none() && *shared == bytes(LARGE).repeat(3));
    }

    #[test]
    fn a_file_that_fails_is_taken_back_to_the_heap() {
        let mut builder = SharedBytes::builder();
        builder.extend_from_slice(&bytes(LARGE));
        builder.extend_from_slice(b"tail");
        let File::Open(writer) = std::mem::replace(&mut builder.file, File::Refused) else {
            panic!("no file")
        };
        builder.give_up(writer, &io::ErrorKind::StorageFull.into());
        assert!(*builder.finish() == [&bytes(LARGE)[..], b"tail"].concat());
    }

    #[test]
    fn serde_sees_a_block() {
        let shared = SharedBytes::from(&bytes(300)[..]);
        let encoded = postcard::to_stdvec(&(1_u8, &shared)).unwrap();
        assert_eq!(encoded, postcard::to_stdvec(&(1_u8, bytes(300))).unwrap());
        let (_, back): (u8, SharedBytes) = postcard::from_bytes(&encoded).unwrap();
        assert_eq!(back, shared);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_come_together(pieces in prop::collection::vec(prop_oneof![0..50_usize, 0..200_000_usize], 0..12)) {
            let (mut builder, mut model) = (SharedBytes::builder(), Vec::new());
            for len in pieces {
                builder.write_all(&bytes(len)).unwrap();
                model.extend_from_slice(&bytes(len));
            }
            builder.extend([1, 2]);
            model.extend([1, 2]);
            prop_assert!(*builder.finish() == *model);
        }
    }
}
