//! What a pool gives all its workers to read: one copy in memory, however many workers there are.
//!
//! All of it is in one file in memory, which is sealed before the first worker is started, so that nobody can ever change it.
//! Every worker, and every one that takes the place of another, gets a descriptor of it at its start, right behind that for
//! large payloads, and maps it.
//!
//! # Layout
//! The items, each at a multiple of [`ALIGN`]; the directory, postcard of [`Row`]s in the order of their keys; and at the end
//! place and length of the directory, as two `u64` in little endian.

use std::any::{Any, type_name};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use pool_ipc::{Sealed, SealedWriter};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::builder::Builder;
use crate::codec::CodecError;
use crate::context::TaskContext;
use crate::error::BuildError;
use crate::plain::Plain;
use crate::state::StateContext;
use crate::sys::plain::{bytes_of, slice_of};

/// The number of the descriptor of what is shared, which follows that of the socket for large payloads.
pub(crate) const SHARED: u64 = 1;
/// A cache line; more than any number needs.
const ALIGN: u64 = 64;
const TRAILER: usize = 16;

/// What is to be shared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offer {
    items: Vec<Item>,
    /// Why something cannot be shared: the first.
    refused: Option<(&'static str, String)>,
}

#[derive(Clone)]
struct Item {
    key: String,
    of: &'static str,
    count: u64,
    bytes: Arc<[u8]>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not its bytes, which may be many and secret.
        write!(f, "{:?}: {} ({} bytes)", self.key, self.of, self.bytes.len())
    }
}

impl Offer {
    fn add(&mut self, setting: &'static str, key: String, of: &'static str, count: usize, bytes: &[u8]) {
        if self.items.iter().any(|item| item.key == key) {
            return self.refuse(setting, format!("something else is shared under the key {key:?}"));
        }
        self.items.push(Item { key, of, count: count as u64, bytes: bytes.into() });
    }

    fn refuse(&mut self, setting: &'static str, why: String) {
        self.refused.get_or_insert((setting, why));
    }

    /// Puts all of it into memory that workers can map, if there is anything.
    pub(crate) fn seal(mut self) -> Result<Option<Sealed>, BuildError> {
        if let Some((setting, why)) = self.refused {
            return Err(BuildError::Setting { setting, why });
        }
        if self.items.is_empty() {
            return Ok(None);
        }
        self.items.sort_by(|a, b| a.key.cmp(&b.key));
        let sealed = write(&self.items).map_err(|source| BuildError::Os { what: "share memory", source })?;
        Ok(Some(sealed))
    }
}

fn write(items: &[Item]) -> io::Result<Sealed> {
    let mut file = SealedWriter::create()?;
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let padding = file.len().next_multiple_of(ALIGN) - file.len();
        file.append(&[0; ALIGN as usize][..padding as usize])?;
        rows.push(Row {
            key: item.key.clone(),
            of: item.of.to_owned(),
            count: item.count,
            at: file.len(),
            len: item.bytes.len() as u64,
        });
        file.append(&item.bytes)?;
    }
    let at = file.len();
    file.append(&postcard::to_stdvec(&rows).map_err(io::Error::other)?)?;
    let len = file.len() - at;
    file.append(&at.to_le_bytes())?;
    file.append(&len.to_le_bytes())?;
    file.seal().map_err(|(_, error)| error)
}

/// Where an item is, and what.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    key: String,
    /// The type, by name: two executables have nothing else in common.
    of: String,
    /// Of a slice, its length.
    count: u64,
    at: u64,
    len: u64,
}

/// What the pool of this worker shares.
static STORE: OnceLock<Store> = OnceLock::new();

#[derive(Debug)]
struct Store {
    sealed: Sealed,
    /// In the order of their keys.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    row: Row,
    /// The value that it has been decoded to.
    value: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// Receives what the pool shares, if it shares anything. Called once, when this process becomes a worker.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<()> {
    let fd = match pool_ipc::boot::receive_descriptor(socket, false) {
        Ok(None) => return Ok(()),
        // It was sent before this process was started, or not at all; the other side may be closed by now.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Ok(Some((SHARED, fd))) => fd,
        Ok(Some((other, _))) => {
            return Err(io::Error::other(format!("descriptor {other} has come with the boot message")));
        }
        Err(error) => return Err(error),
    };
    let store = Store::open(Sealed::open(std::os::fd::AsFd::as_fd(&fd))?);
    let store = store.ok_or_else(|| io::Error::other("what the pool shares has no directory"))?;
    // A process becomes a worker once.
    let _ = STORE.set(store);
    Ok(())
}

impl Store {
    fn open(sealed: Sealed) -> Option<Self> {
        let (rest, trailer) = sealed.split_last_chunk::<TRAILER>()?;
        let (at, len) = trailer.split_first_chunk::<8>()?;
        let at = usize::try_from(u64::from_le_bytes(*at)).ok()?;
        let len = usize::try_from(u64::from_le_bytes(*len.first_chunk()?)).ok()?;
        let rows: Vec<Row> = postcard::from_bytes(rest.get(at..at.checked_add(len)?)?).ok()?;
        let entries = rows.into_iter().map(|row| Entry { row, value: OnceLock::new() }).collect();
        Some(Self { sealed, entries })
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        let place = self.entries.binary_search_by(|entry| entry.row.key.as_str().cmp(key)).ok()?;
        self.entries.get(place)
    }

    fn bytes(&self, row: &Row) -> Option<&[u8]> {
        let at = usize::try_from(row.at).ok()?;
        self.sealed.get(at..at.checked_add(usize::try_from(row.len).ok()?)?)
    }

    fn get(&self, key: &str) -> Option<&[u8]> {
        self.bytes(&self.find(key)?.row)
    }

    /// The entry under a key, and its bytes, if it has been made from this type.
    fn typed(&self, key: &str, asked: &'static str) -> Result<(&Entry, &[u8]), SharedError> {
        let missing = || SharedError::Missing { key: key.to_owned() };
        let entry = self.find(key).ok_or_else(missing)?;
        if entry.row.of != asked {
            let shared = entry.row.of.clone();
            return Err(SharedError::OtherType { key: key.to_owned(), shared, asked });
        }
        let bytes = self.bytes(&entry.row).ok_or_else(missing)?;
        Ok((entry, bytes))
    }

    fn slice<T: Plain>(&self, key: &str) -> Result<&[T], SharedError> {
        let (entry, bytes) = self.typed(key, type_name::<[T]>())?;
        let slice = usize::try_from(entry.row.count).ok().and_then(|count| slice_of(bytes, count));
        slice.ok_or_else(|| undecodable::<[T]>(key, "its size is another one"))
    }

    fn value<T: DeserializeOwned + Send + Sync + 'static>(&self, key: &str) -> Result<&T, SharedError> {
        let (entry, bytes) = self.typed(key, type_name::<T>())?;
        let value = match entry.value.get() {
            Some(value) => value,
            None => {
                let decoded: T = postcard::from_bytes(bytes)
                    .map_err(|error| undecodable::<T>(key, &format!("it {}", CodecError::Postcard(error))))?;
                entry.value.get_or_init(|| Box::new(decoded))
            }
        };
        // Two types of one name.
        value
            .downcast_ref()
            .ok_or_else(|| undecodable::<T>(key, "it has been read as another type of this name"))
    }
}

fn undecodable<T: ?Sized>(key: &str, why: &str) -> SharedError {
    SharedError::Decode { key: key.to_owned(), asked: type_name::<T>(), why: why.to_owned() }
}

fn store(key: &str) -> Result<&'static Store, SharedError> {
    STORE.get().ok_or_else(|| SharedError::Missing { key: key.to_owned() })
}

/// Why a task does not get what it asks its pool for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SharedError {
    /// The pool shares nothing under this key, or this is no worker.
    #[error(
        "nothing is shared under the key `{key}`: add it to the builder of the pool, with `share`, `share_slice` or `share_value`"
    )]
    #[non_exhaustive]
    Missing {
        /// What was asked for.
        key: String,
    },
    /// It has been made from another type.
    #[error("what is shared under the key `{key}` is of type `{shared}`, and was asked for as `{asked}`")]
    #[non_exhaustive]
    OtherType {
        /// What was asked for.
        key: String,
        /// The type that it has been made from.
        shared: String,
        /// The type that was asked for.
        asked: &'static str,
    },
    /// It cannot be decoded; pool and worker mean different things by the name of the type.
    #[error("what is shared under the key `{key}` cannot be read as `{asked}`: {why}")]
    #[non_exhaustive]
    Decode {
        /// What was asked for.
        key: String,
        /// The type that was asked for.
        asked: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Builder {
    /// Shares bytes with all workers, to be read under this key with [`TaskContext::shared`].
    ///
    /// There is one copy in memory for all workers and those that take their places; tasks borrow it, and nobody can change it.
    /// The bytes are copied when this is called and when the pool is made. It pays for what most tasks need: a model, a
    /// table, an index. What only one task needs is better an argument.
    ///
    /// ```no_run
    /// use pool_core::{Pool, TaskContext, task};
    ///
    /// #[task]
    /// fn count(byte: u8, #[context] cx: &TaskContext) -> usize {
    ///     let text = cx.shared("text").unwrap_or_default();
    ///     text.iter().filter(|found| **found == byte).count()
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// pool_core::init();
    /// let pool = Pool::builder().share("text", std::fs::read("book.txt")?).build()?;
    /// let counts = pool.map(count, b'a'..=b'z')?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn share(mut self, key: impl Into<String>, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.sharing.add("share", key.into(), type_name::<[u8]>(), bytes.len(), bytes);
        self
    }

    /// As [`share`](Self::share), for numbers, which tasks borrow as such with [`TaskContext::shared_slice`].
    ///
    /// ```no_run
    /// use pool_core::{Pool, SharedError, TaskContext, task};
    ///
    /// #[task]
    /// fn dot(row: usize, #[context] cx: &TaskContext) -> f64 {
    ///     let matrix: &[[f64; 3]] = cx.shared_slice("matrix").expect("the pool shares it");
    ///     matrix[row].iter().sum()
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// pool_core::init();
    /// let matrix = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
    /// let pool = Pool::builder().share_slice("matrix", &matrix).build()?;
    /// assert_eq!(pool.map(dot, 0..2)?, [6.0, 15.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn share_slice<T: Plain>(mut self, key: impl Into<String>, values: &[T]) -> Self {
        self.sharing.add("share_slice", key.into(), type_name::<[T]>(), values.len(), bytes_of(values));
        self
    }

    /// As [`share`](Self::share), for a value of any type, which each worker that asks for it with
    /// [`TaskContext::shared_value`] decodes once.
    ///
    /// The encoding is shared, the decoded value is each worker's own. [`build`](Self::build) fails if the value cannot be encoded.
    pub fn share_value<T: Serialize>(mut self, key: impl Into<String>, value: &T) -> Self {
        match postcard::to_stdvec(value) {
            Ok(bytes) => self.sharing.add("share_value", key.into(), type_name::<T>(), 1, &bytes),
            Err(error) => {
                let (key, of) = (key.into(), type_name::<T>());
                let why = format!("{key:?}, of type `{of}`, {}", CodecError::Postcard(error));
                self.sharing.refuse("share_value", why);
            }
        }
        self
    }
}

/// Tasks and states read what is shared in the same way.
macro_rules! readers {
    ($($context:ident)*) => {$(
        impl $context {
            /// What the pool shares under this key: the bytes, of a slice of numbers its bytes, of a value its encoding. `None`
            /// if nothing, and outside of workers ([`Call::run_here`](crate::Call::run_here)).
            #[must_use]
            pub fn shared(&self, key: &str) -> Option<&[u8]> {
                STORE.get()?.get(key)
            }

            /// The numbers that the pool shares under this key with [`Builder::share_slice`](crate::Builder::share_slice).
            ///
            /// # Errors
            /// [`SharedError::Missing`], outside of workers too; [`SharedError::OtherType`].
            pub fn shared_slice<T: Plain>(&self, key: &str) -> Result<&[T], SharedError> {
                store(key)?.slice(key)
            }

            /// The value that the pool shares under this key with [`Builder::share_value`](crate::Builder::share_value). It is
            /// decoded when it is first asked for, and kept for as long as the worker lives.
            ///
            /// # Errors
            /// [`SharedError::Missing`], outside of workers too; [`SharedError::OtherType`] unless `T` is the type that it
            /// was made from; [`SharedError::Decode`].
            pub fn shared_value<T: DeserializeOwned + Send + Sync + 'static>(
                &self,
                key: &str,
            ) -> Result<&T, SharedError> {
                store(key)?.value(key)
            }
        }
    )*};
}

readers!(TaskContext StateContext);

#[cfg(test)]
mod tests {
    use super::*;

    fn store(builder: Builder) -> Store {
        Store::open(builder.sharing.seal().unwrap().unwrap()).unwrap()
    }

    #[test]
    fn bytes_numbers_and_values_are_found_under_their_keys() {
        let words = vec!["one".to_owned(), "two".to_owned()];
        let store = store(
            Builder::new()
                .share("z", [1, 2, 3])
                .share("empty", [])
                .share_slice("floats", &[0.5_f64, 1.5])
                .share_slice("pairs", &[[1_u128, 2], [3, 4]])
                .share_slice("nothings", &[[0_u8; 0]; 5])
                .share_value("words", &words),
        );
        assert_eq!((store.get("z"), store.get("empty")), (Some(&[1, 2, 3][..]), Some(&[][..])));
        assert!(store.get("y").is_none());
        assert_eq!(store.slice::<f64>("floats").unwrap(), [0.5, 1.5]);
        assert_eq!(store.slice::<[u128; 2]>("pairs").unwrap(), [[1, 2], [3, 4]]);
        assert_eq!(store.slice::<[u8; 0]>("nothings").unwrap().len(), 5);
        assert_eq!(store.slice::<u8>("z").unwrap(), [1, 2, 3]);
        assert_eq!(store.get("floats").unwrap().len(), 16);
        let first: *const Vec<String> = store.value("words").unwrap();
        assert_eq!(store.value::<Vec<String>>("words").unwrap(), &words);
        assert!(std::ptr::eq(first, store.value("words").unwrap()), "decoded once");
    }

    #[test]
    fn wrong_types_are_refused_by_name() {
        let store = store(Builder::new().share_slice("floats", &[0.5_f64]).share_value("n", &7_u32));
        assert_eq!(
            store.slice::<f32>("floats").unwrap_err().to_string(),
            "what is shared under the key `floats` is of type `[f64]`, and was asked for as `[f32]`"
        );
        assert!(matches!(store.value::<u64>("n"), Err(SharedError::OtherType { .. })));
        assert!(matches!(store.slice::<u32>("n"), Err(SharedError::OtherType { .. })));
        assert!(matches!(store.value::<u32>("m"), Err(SharedError::Missing { .. })));
        assert_eq!(store.value::<u32>("n"), Ok(&7));
    }

    #[test]
    fn what_cannot_be_shared_is_said_when_the_pool_is_built() {
        let twice = Builder::new().share("a", [1]).share_slice("a", &[1_u8]).sharing.seal().unwrap_err();
        assert_eq!(twice.to_string(), "`.share_slice(…)`: something else is shared under the key \"a\"");
        struct Refuses;
        impl Serialize for Refuses {
            fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(serde::ser::Error::custom("no"))
            }
        }
        let refused = Builder::new().share_value("a", &Refuses).sharing.seal().unwrap_err().to_string();
        assert!(refused.starts_with("`.share_value(…)`: \"a\", of type ") && refused.contains("was refused"));
        assert!(Builder::new().sharing.seal().unwrap().is_none());
    }
}
