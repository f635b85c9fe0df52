//! What tells one job from another: its tasks and their calls.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

use crate::record::Salt;

/// What a key of a task is derived for.
const TASK: &str = "pool-store 2026-11 journal: a task's name, version and types";
/// What a salt is derived for.
const SALT: &str = "pool-store 2026-11 journal: the salt of a file";

/// A task of an open journal, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskNumber(pub(crate) usize);

/// What a call is recognised by: 16 bytes of the BLAKE3 hash of the name, the version and the types of its task, and of its
/// encoded arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub(crate) [u8; 16]);

/// What the fingerprints of a task's calls begin with.
#[derive(Clone)]
pub(crate) struct TaskKey([u8; blake3::KEY_LEN]);

impl TaskKey {
    pub(crate) fn of(&self, args: &[u8]) -> Fingerprint {
        let hash = blake3::keyed_hash(&self.0, args);
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&hash.as_bytes()[..16]);
        Fingerprint(fingerprint)
    }
}

/// How a task is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declaration {
    pub(crate) name: String,
    pub(crate) version: u32,
    pub(crate) types: String,
}

impl Declaration {
    pub(crate) fn key(&self) -> TaskKey {
        TaskKey(blake3::derive_key(TASK, &self.encode()))
    }

    /// Its version and its types, for messages.
    pub(crate) fn meaning(&self) -> String {
        format!("version {}, `{}`", self.version, self.types)
    }

    /// With lengths, so that no two are the same.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.version.to_le_bytes().to_vec();
        for text in [&self.name, &self.types] {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk()?;
        let (name, rest) = text(rest)?;
        let (types, rest) = text(rest)?;
        rest.is_empty().then_some(Self { name, version: u32::from_le_bytes(*version), types })
    }
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

/// A salt that no other file has: of what the system gives each program by chance, and of the time.
pub(crate) fn salt() -> Salt {
    let mut chance = Vec::new();
    for _ in 0..4 {
        chance.extend_from_slice(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    // A clock before 1970 only makes this less unlikely to be the same.
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    chance.extend_from_slice(&time.as_nanos().to_le_bytes());
    chance.extend_from_slice(&std::process::id().to_le_bytes());
    let mut salt = [0; 16];
    salt.copy_from_slice(&blake3::derive_key(SALT, &chance)[..16]);
    salt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declaration(name: &str, version: u32, types: &str) -> Declaration {
        Declaration { name: name.to_owned(), version, types: types.to_owned() }
    }

    #[test]
    fn a_declaration_is_read_as_it_was_written() {
        let square = declaration("squares::square", 2, "fn(u64) -> u64");
        let bytes = square.encode();
        assert_eq!(Declaration::decode(&bytes), Some(square));
        for len in 0..bytes.len() {
            assert_eq!(Declaration::decode(&bytes[..len]), None, "{len}");
        }
        assert_eq!(Declaration::decode(&[&bytes[..], b"x"].concat()), None);
    }

    #[test]
    fn everything_that_makes_a_call_another_one_is_in_its_fingerprint() {
        let call = |name, version, types, args: &[u8]| declaration(name, version, types).key().of(args);
        let calls = [
            call("a", 0, "b", b"c"),
            call("ab", 0, "", b"c"),
            call("", 0, "ab", b"c"),
            call("a", 1, "b", b"c"),
            call("a", 0, "b", b""),
            call("a", 0, "b", b"cc"),
        ];
        for (at, one) in calls.iter().enumerate() {
            assert!(!calls[at + 1..].contains(one), "{at}");
        }
        assert_eq!(calls[0], call("a", 0, "b", b"c"));
    }

    #[test]
    fn salts_differ() {
        assert_ne!(salt(), salt());
    }
}
