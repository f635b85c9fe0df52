//! Well-behaved tasks: they return what they are asked for.

use pool_core::{TaskContext, task};

/// Returns its argument.
#[task]
pub fn echo_u64(n: u64) -> u64 {
    n
}

/// Returns its argument.
#[task]
pub fn echo_bytes(data: Vec<u8>) -> Vec<u8> {
    data
}

/// Returns the sum of its arguments, modulo 2⁶⁴.
#[task]
pub fn add(a: u64, b: u64) -> u64 {
    a.wrapping_add(b)
}

/// Returns the length of its argument: large arguments, small result.
#[task]
pub fn length(data: &[u8]) -> u64 {
    data.len() as u64
}

/// Returns this many bytes, byte `i` being `i` modulo 251: small arguments, large result.
#[task]
pub fn make_bytes(len: u64) -> Vec<u8> {
    let pattern: Vec<u8> = (0..251).collect();
    let len = usize::try_from(len).expect("usize has 64 bits on the supported platforms");
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        bytes.extend_from_slice(&pattern[..(len - bytes.len()).min(pattern.len())]);
    }
    bytes
}

/// Returns the process id of the worker.
#[task]
pub fn pid() -> u32 {
    std::process::id()
}

/// Returns which attempt this is, from 1.
#[task]
pub fn attempt(#[context] cx: &TaskContext) -> u32 {
    cx.attempt()
}

/// Returns the place of the worker in its pool, from 0.
#[task]
pub fn worker_index(#[context] cx: &TaskContext) -> u32 {
    u32::try_from(cx.worker_index()).expect("the index comes from a u32")
}
