//! How arguments and results travel: postcard, with blocks of bytes moved as blocks.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize, Serializer};

use crate::buffer::{Args, Buffer};
use crate::nesting::{self, Refusal};
use crate::reply::{Encoded, ReplyError};
use crate::shared_bytes::SharedBytes;
use crate::task::RunError;

/// The codec of `T`. Types whose bytes can be moved as a block have functions of their own here, which Rust
/// prefers to those of the trait [`Serde`], which all types have; so the choice is made by the type, not by
/// how it is spelt.
#[derive(Debug)]
pub struct Wire<T: ?Sized>(PhantomData<T>);

/// The codec of every type that has no faster one.
pub trait Serde<T: ?Sized> {
    /// Whether it is a `Result`.
    const FALLIBLE: bool = false;

    /// Appends `value` to `output`.
    #[inline]
    fn encode(value: &T, output: &mut Buffer) -> Result<(), CodecError>
    where
        T: Serialize,
    {
        postcard::serialize_with_flavor(value, Append(output)).map_err(CodecError::Postcard)
    }

    /// Takes a `T` from the front of `input`.
    #[inline]
    fn decode<'de>(input: &mut &'de [u8]) -> Result<T, CodecError>
    where
        T: Deserialize<'de>,
    {
        take(input)
    }

    /// Appends a result to `output`.
    #[inline]
    fn encode_reply(value: &T, output: &mut Buffer) -> Result<(), CodecError>
    where
        T: Serialize,
    {
        Self::encode(value, output)
    }

    /// Decodes a result.
    #[inline]
    fn decode_reply(encoded: Encoded<'_>) -> Result<T, ReplyError>
    where
        T: for<'a> Deserialize<'a>,
    {
        encoded.read(|input| take(input))
    }

    /// Takes from the front of `input` what a `&T` can be borrowed from.
    fn decode_ref<'de>(input: &mut &'de [u8]) -> Result<T::Held, CodecError>
    where
        T: Lend<'de>,
    {
        take(input).map(T::hold)
    }
}

impl<T: ?Sized> Serde<T> for Wire<T> {}

impl<T, E> Wire<Result<T, E>> {
    /// Whether it is a `Result`.
    pub const FALLIBLE: bool = true;
}

/// How postcard begins a `Some`.
const SOME: u8 = 1;
/// How postcard begins an `Ok`.
const OK: u8 = 0;

/// A type of which a `&T` can be a task's argument.
#[diagnostic::on_unimplemented(
    message = "`&{Self}` cannot be an argument of a task",
    label = "cannot be decoded in the worker",
    note = "`T` in `&T` implements `serde::Deserialize` or is one of `str`, `[T]`, `Path`, `OsStr`, `CStr`",
    note = "what the worker adds by itself is marked: `#[context] cx: &TaskContext`, `#[state] s: &mut S`"
)]
pub trait Lend<'de> {
    /// What is decoded.
    type Decoded: Deserialize<'de>;
    /// What holds the value while the task runs.
    type Held: Deref<Target = Self>;
    /// From the one to the other.
    fn hold(decoded: Self::Decoded) -> Self::Held;
}

/// Holds a value that is lent to a task.
#[derive(Debug)]
pub struct Held<T>(pub(crate) T);

impl<T> Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Lend<'de> for T {
    type Decoded = T;
    type Held = Held<T>;

    fn hold(decoded: T) -> Held<T> {
        Held(decoded)
    }
}

impl<'de, T: Deserialize<'de>> Lend<'de> for [T] {
    type Decoded = Vec<T>;
    type Held = Vec<T>;

    fn hold(decoded: Vec<T>) -> Vec<T> {
        decoded
    }
}

impl<'de> Lend<'de> for CStr {
    type Decoded = CString;
    type Held = CString;

    fn hold(decoded: CString) -> CString {
        decoded
    }
}

impl<'de> Lend<'de> for str {
    type Decoded = &'de str;
    type Held = &'de str;

    fn hold(decoded: &'de str) -> &'de str {
        decoded
    }
}

impl Wire<Option<Vec<u8>>> {
    /// Appends `value` to `output`.
    pub fn encode(value: &Option<Vec<u8>>, output: &mut Buffer) -> Result<(), CodecError> {
        Wire::<Option<Block<'_>>>::encode(&value.as_deref().map(Block), output)
    }

    /// Takes the value from the front of `input`.
    pub fn decode(input: &mut &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
        take::<Option<&[u8]>>(input).map(|block| block.map(<[u8]>::to_vec))
    }

    /// Appends a result to `output`.
    pub fn encode_reply(value: &Option<Vec<u8>>, output: &mut Buffer) -> Result<(), CodecError> {
        Self::encode(value, output)
    }

    /// Decodes a result.
    pub fn decode_reply(encoded: Encoded<'_>) -> Result<Option<Vec<u8>>, ReplyError> {
        match encoded.block(Some(SOME)) {
            Some(block) => Ok(Some(block)),
            None => encoded.read(Self::decode),
        }
    }
}

impl<E> Wire<Result<Vec<u8>, E>> {
    /// Appends `value` to `output`.
    pub fn encode(value: &Result<Vec<u8>, E>, output: &mut Buffer) -> Result<(), CodecError>
    where
        E: Serialize,
    {
        Wire::<Result<Block<'_>, &E>>::encode(&value.as_deref().map(Block), output)
    }

    /// Takes the value from the front of `input`.
    pub fn decode<'de>(input: &mut &'de [u8]) -> Result<Result<Vec<u8>, E>, CodecError>
    where
        E: Deserialize<'de>,
    {
        take::<Result<&[u8], E>>(input).map(|result| result.map(<[u8]>::to_vec))
    }

    /// Appends a result to `output`.
    pub fn encode_reply(value: &Result<Vec<u8>, E>, output: &mut Buffer) -> Result<(), CodecError>
    where
        E: Serialize,
    {
        Self::encode(value, output)
    }

    /// Decodes a result.
    pub fn decode_reply(encoded: Encoded<'_>) -> Result<Result<Vec<u8>, E>, ReplyError>
    where
        E: for<'a> Deserialize<'a>,
    {
        match encoded.block(Some(OK)) {
            Some(block) => Ok(Ok(block)),
            None => encoded.read(|input| Self::decode(input)),
        }
    }
}

/// Types that are one block of bytes: what they lend, how to see its bytes, how to make it and them of bytes.
macro_rules! block {
    ($(
        $owned:ty, $borrowed:ty, |$value:ident| $as_bytes:expr, $from_bytes:expr, |$block:ident| $from_block:expr;
    )*) => {$(
        impl Wire<$borrowed> {
            /// Appends `value` to `output`.
            pub fn encode($value: &$borrowed, output: &mut Buffer) -> Result<(), CodecError> {
                Wire::<Block<'_>>::encode(&Block($as_bytes), output)
            }

            /// Takes the value from the front of `input` without copying it.
            pub fn decode_ref<'de>(input: &mut &'de [u8]) -> Result<&'de $borrowed, CodecError> {
                take::<&[u8]>(input).map($from_bytes)
            }
        }

        impl Wire<$owned> {
            /// Appends `value` to `output`.
            pub fn encode(value: &$borrowed, output: &mut Buffer) -> Result<(), CodecError> {
                Wire::<$borrowed>::encode(value, output)
            }

            /// Takes the value from the front of `input`.
            pub fn decode(input: &mut &[u8]) -> Result<$owned, CodecError> {
                Wire::<$borrowed>::decode_ref(input).map(ToOwned::to_owned)
            }

            /// Appends a result to `output`.
            pub fn encode_reply(value: &$borrowed, output: &mut Buffer) -> Result<(), CodecError> {
                Wire::<$borrowed>::encode(value, output)
            }

            /// Decodes a result.
            pub fn decode_reply(encoded: Encoded<'_>) -> Result<$owned, ReplyError> {
                match encoded.block(None) {
                    Some($block) => Ok($from_block),
                    None => encoded.read(Self::decode),
                }
            }

            /// Takes what a reference can be borrowed from.
            pub fn decode_ref(input: &mut &[u8]) -> Result<Held<$owned>, CodecError> {
                Self::decode(input).map(Held)
            }
        }
    )*};
}

// serde refuses a path that is not UTF-8, but the names of files are any bytes
block! {
    Vec<u8>, [u8], |value| value, |bytes| bytes, |block| block;
    PathBuf, Path, |value| value.as_os_str().as_bytes(), |bytes| Path::new(OsStr::from_bytes(bytes)),
        |block| OsString::from_vec(block).into();
    OsString, OsStr, |value| value.as_bytes(), OsStr::from_bytes, |block| OsString::from_vec(block);
}

impl Wire<String> {
    /// Appends a result to `output`.
    pub fn encode_reply(value: &str, output: &mut Buffer) -> Result<(), CodecError> {
        Wire::<str>::encode(value, output)
    }

    /// Decodes a result.
    pub fn decode_reply(encoded: Encoded<'_>) -> Result<String, ReplyError> {
        match encoded.block(None) {
            Some(block) => String::from_utf8(block)
                .map_err(|_| ReplyError::Codec(CodecError::Postcard(postcard::Error::DeserializeBadUtf8))),
            None => encoded.read(|input| Wire::<String>::decode(input)),
        }
    }
}

impl Wire<SharedBytes> {
    /// Ends a result with `value`.
    pub fn encode_reply(value: &SharedBytes, output: &mut Buffer) -> Result<(), CodecError> {
        if output.attach(value) { Ok(()) } else { Wire::<[u8]>::encode(value, output) }
    }

    /// Decodes a result.
    pub fn decode_reply(encoded: Encoded<'_>) -> Result<SharedBytes, ReplyError> {
        match encoded.shared(&[]) {
            Some(shared) => Ok(shared),
            None => Wire::<Vec<u8>>::decode_reply(encoded).map(SharedBytes::from),
        }
    }
}

impl Wire<Option<SharedBytes>> {
    /// Ends a result with `value`.
    pub fn encode_reply(value: &Option<SharedBytes>, output: &mut Buffer) -> Result<(), CodecError> {
        if let Some(shared) = value
            && output.attach(shared)
        {
            output.push(SOME);
            return Ok(());
        }
        Wire::<Option<Block<'_>>>::encode(&value.as_deref().map(Block), output)
    }

    /// Decodes a result.
    pub fn decode_reply(encoded: Encoded<'_>) -> Result<Option<SharedBytes>, ReplyError> {
        match encoded.shared(&[SOME]) {
            Some(shared) => Ok(Some(shared)),
            None => Wire::<Option<Vec<u8>>>::decode_reply(encoded).map(|block| block.map(SharedBytes::from)),
        }
    }
}

impl<E> Wire<Result<SharedBytes, E>> {
    /// Ends a result with `value`.
    pub fn encode_reply(value: &Result<SharedBytes, E>, output: &mut Buffer) -> Result<(), CodecError>
    where
        E: Serialize,
    {
        if let Ok(shared) = value
            && output.attach(shared)
        {
            output.push(OK);
            return Ok(());
        }
        Wire::<Result<Block<'_>, &E>>::encode(&value.as_deref().map(Block), output)
    }

    /// Decodes a result.
    pub fn decode_reply(encoded: Encoded<'_>) -> Result<Result<SharedBytes, E>, ReplyError>
    where
        E: for<'a> Deserialize<'a>,
    {
        match encoded.shared(&[OK]) {
            Some(shared) => Ok(Ok(shared)),
            None => {
                Wire::<Result<Vec<u8>, E>>::decode_reply(encoded).map(|block| block.map(SharedBytes::from))
            }
        }
    }
}

/// A block of bytes to serde, which otherwise sees `[u8]` as a sequence of numbers; the encoding is the same.
struct Block<'a>(&'a [u8]);

impl Serialize for Block<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Postcard's output: appends to a buffer that already has content.
struct Append<'a>(&'a mut Buffer);

impl Flavor for Append<'_> {
    type Output = ();

    #[inline]
    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    #[inline]
    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn take<'de, T: Deserialize<'de>>(input: &mut &'de [u8]) -> Result<T, CodecError> {
    let (value, rest) = nesting::take(input).map_err(|refusal| match refusal {
        Refusal::Postcard(error) => CodecError::Postcard(error),
        Refusal::TooDeep => CodecError::TooDeep,
    })?;
    *input = rest;
    Ok(value)
}

/// Why a value could not be encoded or decoded; reads on after the name of the value.
#[derive(Debug)]
pub enum CodecError {
    /// Postcard refused it.
    Postcard(postcard::Error),
    /// There is not enough stack to decode it.
    TooDeep,
    /// It was to be JSON, and this is what is wrong with it.
    #[cfg(feature = "json")]
    Json(String),
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use postcard::Error::*;
        let error = match self {
            Self::Postcard(error) => error,
            Self::TooDeep => {
                return f.write_str(
                    "cannot be decoded: it is nested too deeply for the stack of the thread that decodes it",
                );
            }
            #[cfg(feature = "json")]
            Self::Json(message) => return f.write_str(message),
        };
        f.write_str(match error {
            WontImplement | NotYetImplemented | SerializeSeqLengthUnknown => {
                "cannot be carried by postcard (untagged, internally tagged, flatten, `serde_json::Value`, \
                 or a sequence of unknown length); wrap it in `pool_core::Json`"
            }
            SerdeSerCustom | CollectStrError => "was refused by its own `Serialize` implementation",
            SerdeDeCustom => "was refused by its own `Deserialize` implementation",
            DeserializeUnexpectedEnd => "cannot be decoded: the bytes end too early",
            DeserializeBadBool => "cannot be decoded: a bool is neither 0 nor 1",
            DeserializeBadChar | DeserializeBadUtf8 => "cannot be decoded: a text is not UTF-8",
            DeserializeBadOption => "cannot be decoded: an Option is neither 0 nor 1",
            _ => "cannot be decoded: the bytes are not an encoding of this type",
        })
    }
}

/// The arguments of a call while they are encoded, one after another.
#[derive(Debug, Default)]
pub struct Arguments {
    buffer: Buffer,
    error: Option<Box<str>>,
}

impl Arguments {
    /// No arguments yet.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what `encode` writes; `label` is the argument's name and type.
    #[inline]
    pub fn push(&mut self, label: &str, encode: impl FnOnce(&mut Buffer) -> Result<(), CodecError>) {
        if self.error.is_none()
            && let Err(error) = encode(&mut self.buffer)
        {
            self.error = Some(refused(label, &error));
        }
    }

    #[inline]
    pub(crate) fn finish(self) -> Result<Args, Box<str>> {
        match self.error {
            None => Ok(self.buffer.finish()),
            Some(error) => Err(error),
        }
    }
}

#[cold]
fn refused(label: &str, error: &CodecError) -> Box<str> {
    format!("argument `{label}` {error}").into_boxed_str()
}

/// Names the argument, by name and type, in the error of its decoding.
pub fn argument<T>(label: &str, decoded: Result<T, CodecError>) -> Result<T, RunError> {
    decoded.map_err(|error| RunError::Decode(format!("argument `{label}` {error}")))
}

/// Checks that nothing follows the last argument.
pub fn finish(rest: &[u8]) -> Result<(), RunError> {
    nothing_left(rest, "the last argument").map_err(RunError::Decode)
}

/// Appends the result to `output`, or leaves `output` as it was.
pub fn encode_result(
    ty: &str,
    output: &mut Buffer,
    encode: impl FnOnce(&mut Buffer) -> Result<(), CodecError>,
) -> Result<(), RunError> {
    let start = output.len();
    encode(output).map_err(|error| {
        output.truncate(start);
        RunError::Encode(format!("the result, of type `{ty}`, {error}"))
    })
}

/// Names the result, by type, in the error of its decoding.
#[inline]
pub fn decode_result<T>(ty: &str, decoded: Result<T, ReplyError>) -> Result<T, String> {
    decoded.map_err(|error| match error {
        ReplyError::Codec(error) => format!("the result, of type `{ty}`, {error}"),
        ReplyError::Left(count) => stray(count, "the result"),
    })
}

fn nothing_left(rest: &[u8], after: &str) -> Result<(), String> {
    match rest.len() {
        0 => Ok(()),
        count => Err(stray(count, after)),
    }
}

fn stray(count: usize, after: &str) -> String {
    format!("{count} bytes follow {after}; caller and worker disagree about the types")
}

#[cfg(test)]
mod tests;
