use super::*;
use proptest::prelude::*;

/// Encodes a value, checks that decoding gives the value back and uses up the bytes, and returns them.
macro_rules! round_trip {
    ($ty:ty, $value:expr) => {{
        let value: $ty = $value;
        let mut buffer = Buffer::new();
        buffer.push(0xee);
        Wire::<$ty>::encode(&value, &mut buffer).unwrap();
        let mut bytes = buffer.to_vec();
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
    let refused = || Err(CodecError::Postcard(postcard::Error::SerdeSerCustom));
    let mut arguments = Arguments::new();
    arguments.push("a: u8", |output| Wire::<u8>::encode(&1, output));
    arguments.push("b: Lock", |_| refused());
    arguments.push("c: Lock", |_| panic!("encoded after a failure"));
    assert_eq!(
        &*arguments.finish().unwrap_err(),
        "argument `b: Lock` was refused by its own `Serialize` implementation"
    );
}

#[test]
fn a_result_that_fails_leaves_the_output_as_it_was() {
    let mut output = Buffer::new();
    output.extend_from_slice(&[1, 2]);
    let error = encode_result("Lock", &mut output, |output| {
        output.push(3);
        Err(CodecError::Postcard(postcard::Error::SerdeSerCustom))
    });
    let message = "the result, of type `Lock`, was refused by its own `Serialize` implementation";
    assert_eq!(error, Err(RunError::Encode(message.into())));
    assert_eq!(*output, [1, 2]);
}
