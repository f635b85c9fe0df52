//! The format of an entry: one file, which says of itself whether it is whole.
//!
//! ```text
//!  0        8                40         48                80
//!  ┌────────┬────────────────┬──────────┬─────────────────┬──────────────┐
//!  │ magic  │ key            │ length   │ BLAKE3 of key,  │ body         │
//!  │        │                │ of body  │ length and body │  …           │
//!  └────────┴────────────────┴──────────┴─────────────────┴──────────────┘
//! ```
//!
//! The length is little-endian, and that of the file fits it exactly. The checksum covers the key, so an entry that was copied to
//! another name is no entry there.

use std::fs::File;
use std::io::{self, Read};

use super::key::StoreKey;

/// Bytes before the body.
pub(crate) const HEADER: usize = 80;
/// The first bytes of an entry; other formats have other ones.
const MAGIC: [u8; 8] = *b"POOLENT1";
/// Tells this hash from every other use of the same function.
const CONTEXT: &str = "pool-store: entry, version 1";

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Flaw {
    #[error("it is no regular file")]
    NoFile,
    #[error("it ends too early")]
    Short,
    #[error("it does not begin like an entry")]
    Magic,
    #[error("it is the entry of another key")]
    Key,
    #[error("it has another length than it says")]
    Length,
    #[error("its checksum is wrong")]
    Checksum,
}

/// Why there is no body.
#[derive(Debug)]
pub(crate) enum Unread {
    Flaw(Flaw),
    Io(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Flaw(Flaw::Short),
            _ => Self::Io(error),
        }
    }
}

impl From<Flaw> for Unread {
    fn from(flaw: Flaw) -> Self {
        Self::Flaw(flaw)
    }
}

/// What comes before a body that consists of these parts.
pub(crate) fn header(key: &StoreKey, body: &[&[u8]]) -> [u8; HEADER] {
    let len: u64 = body.iter().map(|part| part.len() as u64).sum();
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..40].copy_from_slice(&key.0);
    header[40..48].copy_from_slice(&len.to_le_bytes());
    header[48..].copy_from_slice(&sum(key, len, body));
    header
}

fn sum(key: &StoreKey, len: u64, body: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hasher.update(&key.0).update(&len.to_le_bytes());
    for part in body {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The length of the body, if the header is that of an entry of this key in a file of `file_len` bytes.
fn look(header: &[u8; HEADER], key: &StoreKey, file_len: u64) -> Result<u64, Flaw> {
    if header[..8] != MAGIC {
        return Err(Flaw::Magic);
    }
    if header[8..40] != key.0 {
        return Err(Flaw::Key);
    }
    let mut len = [0; 8];
    len.copy_from_slice(&header[40..48]);
    let len = u64::from_le_bytes(len);
    if len.checked_add(HEADER as u64) != Some(file_len) {
        return Err(Flaw::Length);
    }
    Ok(len)
}

/// Reads an entry whose file is so long, and returns its body if all of it is as it was written.
///
/// No more memory is taken than the file is long, and none before its header is right.
pub(crate) fn read(source: &mut impl Read, key: &StoreKey, file_len: u64) -> Result<Vec<u8>, Unread> {
    let mut header = [0; HEADER];
    source.read_exact(&mut header)?;
    let len = look(&header, key, file_len)?;
    let mut body = Vec::new();
    let room = usize::try_from(len).map_err(|_| Flaw::Length)?;
    body.try_reserve_exact(room).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    source.take(len).read_to_end(&mut body)?;
    if body.len() != room {
        return Err(Flaw::Short.into());
    }
    if header[48..] != sum(key, len, &[&body]) {
        return Err(Flaw::Checksum.into());
    }
    Ok(body)
}

/// As [`read`], of an open file.
pub(crate) fn read_file(mut file: &File, key: &StoreKey) -> Result<Vec<u8>, Unread> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(Flaw::NoFile.into());
    }
    read(&mut file, key, meta.len())
}

/// The body of the entry that these bytes are, as a file of them would be read; for fuzzing.
#[doc(hidden)]
pub fn body_of_entry(bytes: &[u8], key: &StoreKey) -> Option<Vec<u8>> {
    read(&mut &*bytes, key, bytes.len() as u64).ok()
}

/// The file of an entry; for fuzzing.
#[doc(hidden)]
pub fn entry_of_body(body: &[u8], key: &StoreKey) -> Vec<u8> {
    [&header(key, &[body])[..], body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> StoreKey {
        StoreKey([n; 32])
    }

    #[test]
    fn every_prefix_and_every_changed_bit_of_an_entry_is_no_entry() {
        for body in [
            &b""[..],
            b"x",
            b"a result of some length, longer than one block of the hash, so that there are two of them",
        ] {
            let whole = entry_of_body(body, &key(7));
            assert_eq!(body_of_entry(&whole, &key(7)).as_deref(), Some(body));
            for len in 0..whole.len() {
                assert_eq!(body_of_entry(&whole[..len], &key(7)), None, "{len} bytes");
            }
            for bit in 0..whole.len() * 8 {
                let mut bent = whole.clone();
                bent[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(body_of_entry(&bent, &key(7)), None, "bit {bit}");
            }
            assert_eq!(body_of_entry(&[&whole[..], &[0]].concat(), &key(7)), None, "one byte more");
            assert_eq!(body_of_entry(&whole, &key(8)), None, "under another name");
        }
    }

    #[test]
    fn pages_that_were_lost_make_an_entry_none() {
        let body: Vec<u8> = (0..20_000_u32).map(|i| (i % 251) as u8 + 1).collect();
        let whole = entry_of_body(&body, &key(1));
        for page in whole.chunks(4096).enumerate().map(|(number, _)| number * 4096) {
            let mut lost = whole.clone();
            lost.iter_mut().skip(page).take(4096).for_each(|byte| *byte = 0);
            assert_eq!(body_of_entry(&lost, &key(1)), None, "page at {page}");
        }
    }

    #[test]
    fn a_length_beyond_all_memory_is_refused_before_any_is_taken() {
        let mut forged = entry_of_body(b"", &key(1));
        forged[40..48].copy_from_slice(&(u64::MAX - HEADER as u64).to_le_bytes());
        let read = read(&mut &forged[..], &key(1), u64::MAX);
        assert!(matches!(read, Err(Unread::Io(error)) if error.kind() == io::ErrorKind::OutOfMemory));
    }

    proptest! {
        #[test]
        fn parts_are_one_body(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..5)) {
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let joined = parts.concat();
            prop_assert_eq!(header(&key(3), &slices), header(&key(3), &[&joined]));
            prop_assert_eq!(body_of_entry(&entry_of_body(&joined, &key(3)), &key(3)), Some(joined));
        }
    }
}
