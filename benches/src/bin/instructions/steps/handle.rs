//! Where outcomes wait for handles.

use std::hint::black_box;

use pool_core::__bench::Cells;

use super::{Step, prepared, tiny};

/// One million, encoded.
const RESULT: &[u8] = &[0xC0, 0x84, 0x3D];

pub(super) const STEPS: &[Step] = &[
    Step {
        part: "handle",
        name: "make a cell, and drop it",
        make: || {
            let pass = |cells: &mut Cells, count| {
                cells.open(black_box(count));
                cells.close();
            };
            prepared(Cells::new(tiny(1)), |cells, _| cells.close(), pass)
        },
    },
    Step {
        part: "handle",
        name: "settle a cell",
        make: || prepared(Cells::new(tiny(1)), Cells::open, |cells, _| cells.settle(black_box(RESULT))),
    },
    Step {
        part: "handle",
        name: "get: look, decode (u64)",
        make: || {
            let settle = |cells: &mut Cells, count| {
                cells.open(count);
                cells.settle(RESULT);
            };
            let get = |cells: &mut Cells, count| {
                assert_eq!(cells.get(), u64::from(count) * 1_000_000, "all are decoded");
            };
            prepared(Cells::new(tiny(1)), settle, get)
        },
    },
];
