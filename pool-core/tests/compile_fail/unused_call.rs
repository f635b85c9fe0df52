#![deny(unused_must_use)]

use pool_core::task;

#[task]
fn double(n: u32) -> u32 {
    2 * n
}

fn main() {
    double(3);
}
