//! Tasks that use more memory than they should.

use std::alloc::{Layout, handle_alloc_error};

use pool_core::task;

const STEP: usize = 16 << 20;

/// Ends as an allocation that fails does (SIGABRT by the runtime).
#[task]
pub fn alloc_failure() {
    handle_alloc_error(Layout::new::<[u8; 4096]>())
}

/// Touches memory, 16 MiB at a time, until it is killed; frees it and returns its size if that has not happened at the limit.
#[task]
pub fn out_of_memory(limit_bytes: u64) -> u64 {
    held(limit_bytes).iter().map(|block| block.len() as u64).sum()
}

/// Touches this many bytes and never frees them; returns how many.
#[task]
pub fn leak(bytes: u64) -> u64 {
    held(bytes).into_iter().map(|block| block.leak().len() as u64).sum()
}

fn held(bytes: u64) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let size = left.min(STEP as u64);
        // Not zero: pages of zeros would not be touched.
        blocks.push(std::hint::black_box(vec![0xA5; size as usize]));
        left -= size;
    }
    blocks
}
