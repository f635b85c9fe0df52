//! Which transport is tested.

use std::sync::LazyLock;

use pool_core::Transport;

static CHOSEN: LazyLock<Transport> =
    LazyLock::new(|| match std::env::var("POOL_TEST_TRANSPORT").as_deref() {
        Ok("rings") | Err(std::env::VarError::NotPresent) => Transport::Rings,
        Ok("pipes") => Transport::Pipes,
        other => panic!("POOL_TEST_TRANSPORT is {other:?}; it must be `rings` or `pipes`"),
    });

/// The transport that all pools of the tests use.
///
/// # Panics
/// When the environment names one that there is not.
#[must_use]
pub fn transport() -> Transport {
    *CHOSEN
}

/// Whether frames travel through rings, the pipes being doorbells.
#[must_use]
pub fn with_rings() -> bool {
    transport() == Transport::Rings
}
