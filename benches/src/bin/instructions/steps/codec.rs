//! Values to bytes, and back.

use std::hint::black_box;

use pool_core::__bench::pack;
use pool_core::__private::{Args, Buffer, RunContext, Serde, States, Wire};
use pool_core::TaskContext;
use serde::{Deserialize, Serialize};

use super::{Step, prepared, simple, tiny};

/// A struct as tasks may be given: few fields, of different kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Small {
    id: u64,
    weight: f64,
    kind: u16,
    parent: Option<u32>,
}

fn small() -> Small {
    Small { id: 1_234_567, weight: 0.25, kind: 300, parent: Some(70_000) }
}

fn kibibyte() -> Vec<u8> {
    (0..=u8::MAX).cycle().take(1024).collect()
}

fn text() -> String {
    "a line of text as it might be in a file, ünd 64 bytes of UTF-8!".to_owned()
}

/// The step that encodes a value, and the one that decodes it.
macro_rules! both {
    ($of:literal, $type:ty, $value:expr) => {
        [
            Step {
                part: "codec",
                name: concat!("encode ", $of),
                make: || {
                    let (value, mut buffer) = ($value, Buffer::new());
                    simple(move || {
                        buffer.clear();
                        let encoded = Wire::<$type>::encode(black_box(&value), &mut buffer);
                        assert!(encoded.is_ok() && !black_box(buffer.as_slice()).is_empty());
                    })
                },
            },
            Step {
                part: "codec",
                name: concat!("decode ", $of),
                make: || {
                    let (value, mut buffer) = ($value, Buffer::new());
                    let encoded = Wire::<$type>::encode(&value, &mut buffer);
                    encoded.map_err(|error| error.to_string())?;
                    let bytes = buffer.to_vec();
                    let back = Wire::<$type>::decode(&mut &bytes[..]).map_err(|error| error.to_string())?;
                    pool_benches::ensure(back == value, "a value is decoded as another one")?;
                    simple(move || {
                        let mut input = black_box(&bytes[..]);
                        let decoded = Wire::<$type>::decode(&mut input);
                        assert!(black_box(decoded).is_ok() && input.is_empty());
                    })
                },
            },
        ]
    };
}

const U64: [Step; 2] = both!("u64", u64, 1_234_567_u64);
const SMALL: [Step; 2] = both!("struct of 4 fields", Small, small());
const BYTES: [Step; 2] = both!("1 KiB of bytes", Vec<u8>, kibibyte());
const TEXT: [Step; 2] = both!("64-byte String", String, text());

const CALL: Step = Step {
    part: "codec",
    name: "make a call of a task (u64)",
    make: || {
        let mut number = 1_000_000;
        simple(move || {
            number += 1;
            _ = black_box(tiny(black_box(number)));
        })
    },
};

const PACK: Step = Step {
    part: "codec",
    name: "pack an item of a map (u64)",
    make: || {
        let args = Args::from(vec![0x87, 0xAD, 0x4B]);
        prepared(args, |_, _| {}, |args, count| _ = black_box(pack(black_box(args), count)))
    },
};

const RUN: Step = Step {
    part: "codec",
    name: "run a task: decode, call, encode (u64)",
    make: || {
        let entry = tiny(1).into_parts().entry;
        let (context, mut states, mut output) = (TaskContext::local(), States::new(), Buffer::new());
        simple(move || {
            output.clear();
            let mut run = RunContext::new(&context, &mut states);
            let outcome = (entry.run)(&mut run, black_box(&[0x87, 0xAD, 0x4B]), &mut output);
            assert!(outcome.is_ok() && !black_box(output.as_slice()).is_empty());
        })
    },
};

pub(super) const STEPS: &[Step] =
    &[U64[0], U64[1], SMALL[0], SMALL[1], BYTES[0], BYTES[1], TEXT[0], TEXT[1], CALL, PACK, RUN];
