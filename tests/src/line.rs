//! Lines with numbers that several workers add to a file, and may be killed while they do.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Adds a line with a number. It is whole or not there: pages hold whole ones, and only where a write goes from one page to the next
/// does a signal that kills the writer cut it in two.
///
/// # Panics
/// When the file cannot be written.
pub(crate) fn add_line(file: &Path, n: u64) {
    let mut file =
        OpenOptions::new().create(true).append(true).open(file).expect("the test has made the directory");
    // One write, so that nothing comes between.
    file.write_all(format!("{n:31}\n").as_bytes()).expect("there is room for a line");
}

/// The number in a line.
///
/// # Panics
/// When there is something else in it.
pub(crate) fn in_line(line: &str) -> u64 {
    line.trim_start().parse().expect("only numbers are noted")
}
