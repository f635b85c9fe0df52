//! Types whose encoding or decoding goes wrong, and tasks that use them.

use pool_core::task;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sys;

/// A value whose process dies by SIGKILL while the value is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct DieOnEncode;

impl Serialize for DieOnEncode {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        sys::die_by(libc::SIGKILL)
    }
}

/// A value whose process dies by SIGKILL while the value is decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DieOnDecode;

impl<'de> Deserialize<'de> for DieOnDecode {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        sys::die_by(libc::SIGKILL)
    }
}

/// A value whose encoding panics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct PanicOnEncode;

impl Serialize for PanicOnEncode {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("this value cannot be encoded")
    }
}

/// Returns a value whose encoding kills the worker.
#[task]
pub fn die_while_encoding() -> DieOnEncode {
    DieOnEncode
}

/// Takes a value whose decoding kills the worker.
#[task]
pub fn die_while_decoding(x: DieOnDecode) {
    let DieOnDecode = x;
}

/// Returns a value whose encoding panics.
#[task]
pub fn panic_while_encoding() -> PanicOnEncode {
    PanicOnEncode
}
