//! Tests that need more than the system has.

use std::io::Write;

/// Says that the running test cannot try what it is for, and why. Not captured, so that it is seen among the tests that pass.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("\nskipped: {}: {why}\n", thread.name().unwrap_or("a test"));
    // There is nobody to tell when stderr is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
