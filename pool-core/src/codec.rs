//! How arguments and results travel: postcard, with blocks of bytes moved as blocks.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize, Serializer};

use crate::task::RunError;

/// The codec of `T`. Types whose bytes can be moved as a block have functions of their own here, which Rust
/// prefers to those of the trait [`Serde`], which all types have; so the choice is made by the type, not by
/// how it is spelt.
#[derive(Debug)]
pub struct Wire<T: ?Sized>(PhantomData<T>);

/// The codec of every type that has no faster one.
pub trait Serde<T: ?Sized> {
    /// Appends `value` to `output`.
    fn encode(value: &T, output: &mut Vec<u8>) -> Result<(), CodecError>
    where
        T: Serialize,
    {
        postcard::serialize_with_flavor(value, Append(output)).map_err(CodecError)
    }

    /// Takes a `T` from the front of `input`.
    fn decode<'de>(input: &mut &'de [u8]) -> Result<T, CodecError>
    where
        T: Deserialize<'de>,
    {
        take(input)
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

/// A type of which a `&T` can be a task's argument.
#[diagnostic::on_unimplemented(
    message = "`&{Self}` cannot be an argument of a task",
    label = "cannot be decoded in the worker",
    note = "`T` in `&T` implements `serde::Deserialize` or is one of `str`, `[T]`, `Path`, `OsStr`, `CStr`"
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
pub struct Held<T>(T);

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
    pub fn encode(value: &Option<Vec<u8>>, output: &mut Vec<u8>) -> Result<(), CodecError> {
        Wire::<Option<Block<'_>>>::encode(&value.as_deref().map(Block), output)
    }

    /// Takes the value from the front of `input`.
    pub fn decode(input: &mut &[u8]) -> Result<Option<Vec<u8>>, CodecError> {
        take::<Option<&[u8]>>(input).map(|block| block.map(<[u8]>::to_vec))
    }
}

impl<E> Wire<Result<Vec<u8>, E>> {
    /// Appends `value` to `output`.
    pub fn encode(value: &Result<Vec<u8>, E>, output: &mut Vec<u8>) -> Result<(), CodecError>
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
}

/// Types that are one block of bytes: what they lend, how to see its bytes, how to make it of bytes.
macro_rules! block {
    ($($owned:ty, $borrowed:ty, |$value:ident| $as_bytes:expr, $from_bytes:expr;)*) => {$(
        impl Wire<$borrowed> {
            /// Appends `value` to `output`.
            pub fn encode($value: &$borrowed, output: &mut Vec<u8>) -> Result<(), CodecError> {
                Wire::<Block<'_>>::encode(&Block($as_bytes), output)
            }

            /// Takes the value from the front of `input` without copying it.
            pub fn decode_ref<'de>(input: &mut &'de [u8]) -> Result<&'de $borrowed, CodecError> {
                take::<&[u8]>(input).map($from_bytes)
            }
        }

        impl Wire<$owned> {
            /// Appends `value` to `output`.
            pub fn encode(value: &$borrowed, output: &mut Vec<u8>) -> Result<(), CodecError> {
                Wire::<$borrowed>::encode(value, output)
            }

            /// Takes the value from the front of `input`.
            pub fn decode(input: &mut &[u8]) -> Result<$owned, CodecError> {
                Wire::<$borrowed>::decode_ref(input).map(ToOwned::to_owned)
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
    Vec<u8>, [u8], |value| value, |bytes| bytes;
    PathBuf, Path, |value| value.as_os_str().as_bytes(), |bytes| Path::new(OsStr::from_bytes(bytes));
    OsString, OsStr, |value| value.as_bytes(), OsStr::from_bytes;
}

/// A block of bytes to serde, which otherwise sees `[u8]` as a sequence of numbers; the encoding is the same.
struct Block<'a>(&'a [u8]);

impl Serialize for Block<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Postcard's output: appends to a vector that already has content.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn take<'de, T: Deserialize<'de>>(input: &mut &'de [u8]) -> Result<T, CodecError> {
    let (value, rest) = postcard::take_from_bytes(input).map_err(CodecError)?;
    *input = rest;
    Ok(value)
}

/// Why a value could not be encoded or decoded; reads on after the name of the value.
#[derive(Debug)]
pub struct CodecError(postcard::Error);

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use postcard::Error::*;
        f.write_str(match self.0 {
            WontImplement | NotYetImplemented | SerializeSeqLengthUnknown => {
                "cannot be carried by postcard (untagged, internally tagged, flatten, `serde_json::Value`, \
                 or a sequence of unknown length); send it as bytes or a String"
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
    bytes: Vec<u8>,
    error: Option<String>,
}

impl Arguments {
    /// No arguments yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends what `encode` writes; `label` is the argument's name and type.
    #[must_use]
    pub fn push(mut self, label: &str, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>) -> Self {
        if self.error.is_none()
            && let Err(error) = encode(&mut self.bytes)
        {
            self.error = Some(format!("argument `{label}` {error}"));
        }
        self
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, String> {
        self.error.map_or(Ok(self.bytes), Err)
    }
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
    output: &mut Vec<u8>,
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<(), RunError> {
    let start = output.len();
    encode(output).map_err(|error| {
        output.truncate(start);
        RunError::Encode(format!("the result, of type `{ty}`, {error}"))
    })
}

/// Decodes a result that fills `bytes`.
pub fn decode_result<'de, T>(
    ty: &str,
    mut bytes: &'de [u8],
    decode: impl FnOnce(&mut &'de [u8]) -> Result<T, CodecError>,
) -> Result<T, String> {
    let value = decode(&mut bytes).map_err(|error| format!("the result, of type `{ty}`, {error}"))?;
    nothing_left(bytes, "the result").map(|()| value)
}

fn nothing_left(rest: &[u8], after: &str) -> Result<(), String> {
    match rest.len() {
        0 => Ok(()),
        n => Err(format!("{n} bytes follow {after}; caller and worker disagree about the types")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    /// Encodes a value, checks that decoding gives the value back and uses up the bytes, and returns them.
    macro_rules! round_trip {
        ($ty:ty, $value:expr) => {{
            let value: $ty = $value;
            let mut bytes = vec![0xee];
            Wire::<$ty>::encode(&value, &mut bytes).unwrap();
            assert_eq!(bytes.remove(0), 0xee, "encoding appends");
            let mut input = bytes.as_slice();
            assert_eq!(Wire::<$ty>::decode(&mut input).unwrap(), value);
            assert!(input.is_empty());
            let mut input = bytes.as_slice();
            assert_eq!(*Wire::<$ty>::decode_ref(&mut input).unwrap(), value);
            assert!(input.is_empty());
            bytes
        }};
    }

    proptest! {
        #[test]
        fn values_come_back(
            pair in any::<(i64, String)>(),
            words in any::<Vec<Option<String>>>(),
            number in any::<Result<u128, char>>(),
        ) {
            round_trip!((i64, String), pair);
            round_trip!(Vec<Option<String>>, words);
            round_trip!(Result<u128, char>, number);
        }

        #[test]
        fn blocks_come_back_and_are_what_postcard_writes(bytes in any::<Vec<u8>>(), error: String) {
            prop_assert_eq!(round_trip!(Vec<u8>, bytes.clone()), postcard::to_stdvec(&bytes).unwrap());
            let some = Some(bytes.clone());
            prop_assert_eq!(round_trip!(Option<Vec<u8>>, some.clone()), postcard::to_stdvec(&some).unwrap());
            type Outcome = Result<Vec<u8>, String>;
            let ok: Outcome = Ok(bytes.clone());
            prop_assert_eq!(round_trip!(Outcome, ok.clone()), postcard::to_stdvec(&ok).unwrap());
            let err: Outcome = Err(error);
            prop_assert_eq!(round_trip!(Outcome, err.clone()), postcard::to_stdvec(&err).unwrap());
            round_trip!(PathBuf, OsString::from_vec(bytes.clone()).into());
            round_trip!(OsString, OsString::from_vec(bytes));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in any::<Vec<u8>>()) {
            fn check<'de, T>(bytes: &'de [u8], decode: impl FnOnce(&mut &'de [u8]) -> Result<T, CodecError>) {
                let mut input = bytes;
                if decode(&mut input).is_err() {
                    assert_eq!(input, bytes, "a refused value is left in the input");
                } else {
                    assert!(bytes.ends_with(input), "the rest is a suffix");
                }
            }
            check(&bytes, Wire::<Vec<u8>>::decode);
            check(&bytes, Wire::<Result<Vec<u8>, String>>::decode);
            check(&bytes, Wire::<[u8]>::decode_ref);
            check(&bytes, Wire::<str>::decode_ref);
            check(&bytes, Wire::<CStr>::decode_ref);
            check(&bytes, Wire::<[u16]>::decode_ref);
            check(&bytes, Wire::<(bool, char, Option<PathBuf>)>::decode);
        }
    }

    #[test]
    fn a_block_is_its_length_and_its_bytes() {
        let block: Vec<u8> = (0..=255).cycle().take(300).collect();
        let bytes = round_trip!(Vec<u8>, block.clone());
        assert_eq!((&bytes[..2], &bytes[2..]), (&[0xac, 0x02][..], &block[..]));
    }

    #[test]
    fn a_block_is_written_in_one_piece() {
        /// Counts how often postcard writes, and how much at once.
        struct Count<'a>(&'a mut Vec<usize>);
        impl Flavor for Count<'_> {
            type Output = ();
            fn try_push(&mut self, _: u8) -> postcard::Result<()> {
                self.0.push(1);
                Ok(())
            }
            fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
                self.0.push(data.len());
                Ok(())
            }
            fn finalize(self) -> postcard::Result<()> {
                Ok(())
            }
        }
        let block = [7; 1000];
        let mut writes = Vec::new();
        postcard::serialize_with_flavor(&Ok::<_, ()>(Block(&block)), Count(&mut writes)).unwrap();
        assert_eq!(writes, [1, 2, 1000], "the variant, the length, the block");
        writes.clear();
        postcard::serialize_with_flavor(&block[..], Count(&mut writes)).unwrap();
        assert_eq!(writes.len(), 1 + 1000, "what a sequence of numbers costs");
    }

    #[test]
    fn lent_text_blocks_and_paths_are_not_copied() {
        fn inside(outer: &[u8], inner: &[u8]) -> bool {
            outer.as_ptr_range().contains(&inner.as_ptr())
        }
        let bytes = [3, b'a', b'b', b'c'];
        assert!(inside(&bytes, Wire::<[u8]>::decode_ref(&mut &bytes[..]).unwrap()));
        assert!(inside(&bytes, Wire::<str>::decode_ref(&mut &bytes[..]).unwrap().as_bytes()));
        assert!(inside(&bytes, Wire::<Path>::decode_ref(&mut &bytes[..]).unwrap().as_os_str().as_bytes()));
        assert!(inside(&bytes, Wire::<OsStr>::decode_ref(&mut &bytes[..]).unwrap().as_bytes()));
    }

    #[test]
    fn the_first_argument_that_fails_is_the_error() {
        let refused = || Err(CodecError(postcard::Error::SerdeSerCustom));
        let arguments = Arguments::new()
            .push("a: u8", |output| Wire::<u8>::encode(&1, output))
            .push("b: Lock", |_| refused())
            .push("c: Lock", |_| panic!("encoded after a failure"));
        assert_eq!(
            arguments.finish().unwrap_err(),
            "argument `b: Lock` was refused by its own `Serialize` implementation"
        );
    }

    #[test]
    fn a_result_that_fails_leaves_the_output_as_it_was() {
        let mut output = vec![1, 2];
        let error = encode_result("Lock", &mut output, |output| {
            output.push(3);
            Err(CodecError(postcard::Error::SerdeSerCustom))
        });
        let message = "the result, of type `Lock`, was refused by its own `Serialize` implementation";
        assert_eq!(error, Err(RunError::Encode(message.into())));
        assert_eq!(output, [1, 2]);
    }
}
