//! Values that travel as JSON.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use serde::de::{DeserializeOwned, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::buffer::Buffer;
use crate::codec::{CodecError, Held, Wire};
use crate::reply::{Encoded, ReplyError};

/// A value that travels to a worker or back as JSON: for types that postcard cannot carry.
///
/// These are types with `#[serde(flatten)]`, `#[serde(untagged)]` or `#[serde(tag = …)]`, and `serde_json::Value`. The type
/// of an argument is then `Json<T>` or `&Json<T>`, that of a result `Json<T>`; it may also be part of another type. It
/// dereferences to the value, and `.0` takes the value out. JSON is several times slower than postcard, and what it cannot
/// write (a map whose keys are no strings, a number that is not finite, which becomes `null`) it cannot carry either.
///
/// To a serializer of a readable format, `Json<T>` is written as the value itself.
///
/// # Type inference
/// The feature `json` brings `serde_json` into a program, which compares its `Value` with numbers, strings and `bool`, so the
/// compiler no longer guesses the type of an empty array: `assert_eq!(numbers, [])` on a `Vec<u64>` fails with "type annotations needed".
/// Write `assert!(numbers.is_empty())` or `[0_u64; 0]`, or leave the feature out (`default-features = false`).
///
/// ```
/// use pool_core::{Json, task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// #[serde(untagged)]
/// enum Id {
///     Number(u64),
///     Name(String),
/// }
///
/// #[task]
/// fn describe(id: Json<Id>) -> String {
///     match id.0 {
///         Id::Number(n) => format!("number {n}"),
///         Id::Name(name) => format!("name {name}"),
///     }
/// }
///
/// assert_eq!(describe(Json(Id::Number(7))).run_here().unwrap(), "number 7");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Json<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

fn write<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    serde_json::to_vec(value).map_err(|error| CodecError::Json(format!("cannot be written as JSON: {error}")))
}

fn read<T: DeserializeOwned>(text: &[u8]) -> Result<Json<T>, CodecError> {
    serde_json::from_slice(text)
        .map(Json)
        .map_err(|error| CodecError::Json(format!("cannot be read from its JSON: {error}")))
}

impl<T> Wire<Json<T>> {
    /// Appends `value` to `output`.
    pub fn encode(value: &Json<T>, output: &mut Buffer) -> Result<(), CodecError>
    where
        T: Serialize,
    {
        Wire::<[u8]>::encode(&write(&value.0)?, output)
    }

    /// Takes the value from the front of `input`.
    pub fn decode(input: &mut &[u8]) -> Result<Json<T>, CodecError>
    where
        T: DeserializeOwned,
    {
        let mut rest = *input;
        let value = read(Wire::<[u8]>::decode_ref(&mut rest)?)?;
        *input = rest;
        Ok(value)
    }

    /// Appends a result to `output`.
    pub fn encode_reply(value: &Json<T>, output: &mut Buffer) -> Result<(), CodecError>
    where
        T: Serialize,
    {
        Self::encode(value, output)
    }

    /// Decodes a result.
    pub fn decode_reply(encoded: Encoded<'_>) -> Result<Json<T>, ReplyError>
    where
        T: DeserializeOwned,
    {
        match encoded.block(None) {
            Some(text) => read(&text).map_err(ReplyError::Codec),
            None => encoded.read(Self::decode),
        }
    }

    /// Takes what a reference can be borrowed from.
    pub fn decode_ref(input: &mut &[u8]) -> Result<Held<Json<T>>, CodecError>
    where
        T: DeserializeOwned,
    {
        Self::decode(input).map(Held)
    }
}

impl<T: Serialize> Serialize for Json<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        serializer.serialize_bytes(&serde_json::to_vec(&self.0).map_err(S::Error::custom)?)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Json<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return T::deserialize(deserializer).map(Self);
        }
        deserializer.deserialize_bytes(Text(PhantomData))
    }
}

/// Reads a value from the bytes of its JSON text.
struct Text<T>(PhantomData<T>);

impl<T: DeserializeOwned> Visitor<'_> for Text<T> {
    type Value = Json<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of a JSON text")
    }

    fn visit_bytes<E: serde::de::Error>(self, text: &[u8]) -> Result<Json<T>, E> {
        serde_json::from_slice(text).map(Json).map_err(E::custom)
    }
}
