//! Under which name a result is kept.

use std::fmt;

/// Tells this hash from every other use of the same function.
const CONTEXT: &str = "pool-store: call of a task, version 1";

/// Under which name a result is kept: a hash of everything that the result may depend on.
///
/// ```
/// use pool_store::StoreKey;
///
/// let key = |version, arguments| StoreKey::of_call("images::resize", version, "fn(u32) -> u32", arguments);
/// assert_eq!(key(1, b"7"), key(1, b"7"));
/// assert_ne!(key(1, b"7"), key(2, b"7"));
/// assert_ne!(key(1, b"7"), key(1, b"8"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreKey(pub(crate) [u8; 32]);

impl StoreKey {
    /// The key of a call: BLAKE3 of the name of the task, its declared version, the types of its arguments and of its result, and
    /// its encoded arguments, each with its length.
    #[must_use]
    pub fn of_call(task: &str, version: u32, types: &str, arguments: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for part in [task.as_bytes(), &version.to_le_bytes(), types.as_bytes(), arguments] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_result_depends_on_changes_the_key() {
        let key = StoreKey::of_call("ab", 1, "fn()", b"x");
        for other in [
            StoreKey::of_call("a", 1, "bfn()", b"x"),
            StoreKey::of_call("ab", 2, "fn()", b"x"),
            StoreKey::of_call("ab", 1, "fn(", b")x"),
            StoreKey::of_call("ab", 1, "fn()x", b""),
        ] {
            assert_ne!(key, other);
        }
        // Fixed for ever: another value would forget everything that is kept.
        assert_eq!(key.to_string(), "ac8f0096c1d464278ac9252c2b354f762773bc114c06d96709d42bcbce68e6e9");
    }
}
