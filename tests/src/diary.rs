//! A task that writes down that it has run, and what it can be asked to do then.

use std::fs;
use std::path::Path;

use pool_core::{SharedBytes, TaskContext, task};
use serde::{Deserialize, Serialize};

use crate::line::{add_line, in_line};

/// The environment variable with the file that [`written`] appends to.
pub const DIARY: &str = "POOL_TESTS_DIARY";

/// How a run of [`written`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With the answer.
    Answer,
    /// With a crash on the first attempt, and then with the answer.
    CrashFirst,
    /// With a crash.
    Crash,
    /// With a panic.
    Panic,
}

/// Writes its number into the diary, ends as it is asked to, and answers with the square.
#[task]
pub fn written(n: u64, ending: Ending, #[context] cx: &TaskContext) -> u64 {
    write_down(n);
    match ending {
        Ending::Answer => {}
        Ending::CrashFirst if cx.attempt() > 1 => {}
        Ending::CrashFirst | Ending::Crash => std::process::abort(),
        Ending::Panic => panic!("item {n} panics"),
    }
    n.wrapping_mul(n)
}

/// As [`written`], with so many bytes.
#[task]
pub fn written_bytes(n: u64, len: usize) -> Vec<u8> {
    write_down(n);
    vec![n as u8; len]
}

/// As [`written_bytes`], without a copy.
#[task]
pub fn written_shared(n: u64, len: usize) -> SharedBytes {
    write_down(n);
    let mut bytes = SharedBytes::builder();
    bytes.extend_from_slice(&vec![n as u8; len]);
    bytes.finish()
}

fn write_down(n: u64) {
    let diary = std::env::var_os(DIARY).expect("the test says where it is");
    add_line(Path::new(&diary), n);
}

/// The numbers in a diary, in their order; none if nothing has been written. A last line that its writer did not finish is left out.
///
/// # Panics
/// When it holds something else.
#[must_use]
pub fn read_diary(file: &Path) -> Vec<u64> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(in_line).collect()
}
