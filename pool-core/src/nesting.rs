//! Decoding what is nested, as deeply as the stack allows and no deeper.
//!
//! A value of a recursive type is decoded by recursion, and a stack that overflows ends the program, whatever has nested the value
//! so deeply: a hostile task, or a parser with a hostile input. So the deserializer is wrapped in one that counts how deep it is,
//! and from some depth on looks whether there is room for more. Few bytes cannot be nested deeply: each level takes one at least.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::sys::stack;

/// Encodings up to this length are decoded without a look at the stack.
const SHORT: usize = 256;
/// Levels for which there is room on any stack.
const FREE: u32 = 32;
/// Bytes of the stack that are left alone, if it is not a small one.
const RESERVE: usize = 128 << 10;
/// Levels where nothing is known of the stack.
const BLIND: u32 = 512;

/// Why a value cannot be decoded.
pub(crate) enum Refusal {
    Postcard(postcard::Error),
    TooDeep,
}

/// Takes a `T` from the front of `input`.
#[inline]
pub(crate) fn take<'de, T: Deserialize<'de>>(input: &'de [u8]) -> Result<(T, &'de [u8]), Refusal> {
    if input.len() <= SHORT {
        return postcard::take_from_bytes(input).map_err(Refusal::Postcard);
    }
    let too_deep = Cell::new(false);
    let mut decoder = postcard::Deserializer::from_bytes(input);
    let nested = Nested { inner: &mut decoder, level: Level { depth: 0, too_deep: &too_deep } };
    let taken = T::deserialize(nested).and_then(|value| Ok((value, decoder.finalize()?)));
    taken.map_err(|error| if too_deep.get() { Refusal::TooDeep } else { Refusal::Postcard(error) })
}

#[derive(Clone, Copy)]
struct Level<'a> {
    depth: u32,
    too_deep: &'a Cell<bool>,
}

impl Level<'_> {
    #[inline]
    fn down<E: Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        if depth > FREE && !has_room(depth) {
            self.too_deep.set(true);
            return Err(E::custom("it is nested too deeply"));
        }
        Ok(Self { depth, ..self })
    }
}

#[cold]
fn has_room(depth: u32) -> bool {
    stack::room().map_or(depth <= BLIND, |(left, size)| left > RESERVE.min(size / 4))
}

/// Something of serde's, and how deep it is.
struct Nested<'a, T> {
    inner: T,
    level: Level<'a>,
}

/// What has nothing in it is no level: a list of numbers is decoded as fast as ever.
macro_rules! forward {
    ($($method:ident)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        })*
    };
}

macro_rules! forward_a_level_down {
    ($($method:ident($($name:ident: $type:ty),*))*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* Nested { inner: visitor, level: self.level.down()? })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Nested<'_, D> {
    type Error = D::Error;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit deserialize_identifier
    }

    forward_a_level_down! {
        deserialize_any() deserialize_option() deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str) deserialize_seq() deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize) deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) deserialize_ignored_any()
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

macro_rules! visit {
    ($($method:ident($type:ty))*) => {
        $(#[inline]
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Nested<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool) visit_i8(i8) visit_i16(i16) visit_i32(i32) visit_i64(i64) visit_i128(i128) visit_u8(u8)
        visit_u16(u16) visit_u32(u32) visit_u64(u64) visit_u128(u128) visit_f32(f32) visit_f64(f64) visit_char(char)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String) visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Nested { inner: deserializer, level: self.level })
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(Nested { inner: deserializer, level: self.level })
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Nested { inner: items, level: self.level })
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Nested { inner: entries, level: self.level })
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, variants: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Nested { inner: variants, level: self.level })
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Nested<'_, S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Nested { inner: deserializer, level: self.level })
    }
}

impl<'a, T> Nested<'a, T> {
    #[inline]
    fn seed<S>(&self, seed: S) -> Nested<'a, S> {
        Nested { inner: seed, level: self.level }
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Nested<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let seed = self.seed(seed);
        self.inner.next_element_seed(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Nested<'_, A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let seed = self.seed(seed);
        self.inner.next_key_seed(seed)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let seed = self.seed(seed);
        self.inner.next_value_seed(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'a, 'de, A: EnumAccess<'de>> EnumAccess<'de> for Nested<'a, A> {
    type Error = A::Error;
    type Variant = Nested<'a, A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        let seed = self.seed(seed);
        let (value, variant) = self.inner.variant_seed(seed)?;
        Ok((value, Nested { inner: variant, level: self.level }))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Nested<'_, A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        let seed = self.seed(seed);
        self.inner.newtype_variant_seed(seed)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.inner.tuple_variant(len, Nested { inner: visitor, level: self.level })
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner.struct_variant(fields, Nested { inner: visitor, level: self.level })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Tree {
        Leaf,
        Newtype(Box<Tree>),
        Tuple(u8, Box<Tree>),
        Struct { next: Option<Box<Tree>> },
        Seq(Vec<Tree>),
        Map(BTreeMap<String, Tree>),
    }

    /// Every kind of level in turn.
    fn tree(depth: u32) -> Tree {
        (0..depth).fold(Tree::Leaf, |below, level| match level % 5 {
            0 => Tree::Newtype(Box::new(below)),
            1 => Tree::Tuple(7, Box::new(below)),
            2 => Tree::Struct { next: Some(Box::new(below)) },
            3 => Tree::Seq(vec![below]),
            _ => Tree::Map([("key".to_owned(), below)].into()),
        })
    }

    fn on_a_stack_of<T: Send>(bytes: usize, run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, run);
            thread.unwrap().join().unwrap()
        })
    }

    #[test]
    fn what_fits_is_decoded_as_without_a_limit() {
        for depth in [0, 5, 40, 200, 500] {
            on_a_stack_of(64 << 20, || {
                let mut encoded =
                    postcard::to_stdvec(&(tree(depth), vec![-1_i64; 100], 'é', 1.5_f32)).unwrap();
                encoded.extend([1, 2, 3]);
                let taken = take::<(Tree, Vec<i64>, char, f32)>(&encoded).ok().expect("it is sound");
                assert_eq!(taken, ((tree(depth), vec![-1; 100], 'é', 1.5), &[1, 2, 3][..]));
            });
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let encoded = on_a_stack_of(256 << 20, || {
            let deep = tree(20_000);
            let encoded = postcard::to_stdvec(&deep).unwrap();
            assert!(take::<Tree>(&encoded).ok().is_some_and(|(back, _)| back == deep), "this stack has room");
            encoded
        });
        for stack in [256 << 10, 2 << 20] {
            let refused = on_a_stack_of(stack, || matches!(take::<Tree>(&encoded), Err(Refusal::TooDeep)));
            assert!(refused, "a stack of {stack} bytes");
        }
    }

    #[test]
    fn other_errors_stay_what_they_are() {
        let mut encoded = postcard::to_stdvec(&vec![1_u64; 1000]).unwrap();
        encoded.truncate(900);
        let error = take::<Vec<u64>>(&encoded).expect_err("it is cut short");
        assert!(matches!(error, Refusal::Postcard(postcard::Error::DeserializeUnexpectedEnd)));
    }
}
