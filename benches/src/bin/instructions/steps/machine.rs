//! The supervisor's decisions.

use std::hint::black_box;

use pool_core::__bench::Shop;

use super::{Step, simple};

pub(super) const STEPS: &[Step] = &[
    Step { part: "machine", name: "submit, hand out, finish a single", make: || serve(1) },
    Step { part: "machine", name: "submit, hand out, finish a unit of 1000", make: || serve(1000) },
];

fn serve(items: u32) -> pool_benches::Outcome<Box<dyn super::Repeat>> {
    let mut shop = Shop::new();
    // By then the worker's pace is known.
    let before = (0..100).map(|_| shop.serve(1000)).last();
    pool_benches::ensure(before == Some(100_000), "items have not ended")?;
    simple(move || _ = black_box(shop.serve(black_box(items))))
}
