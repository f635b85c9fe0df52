//! Tasks that print. What cannot be written is not written: a worker's output may be closed or full.

use std::io::{Write, stderr, stdout};

use pool_core::task;

/// Prints this text as a line on stdout, this many times.
#[task]
pub fn print_stdout(lines: u64, text: String) {
    print(stdout().lock(), lines, &text);
}

/// Prints this text as a line on stderr, this many times.
#[task]
pub fn print_stderr(lines: u64, text: String) {
    print(stderr().lock(), lines, &text);
}

fn print(mut stream: impl Write, lines: u64, text: &str) {
    for _ in 0..lines {
        if writeln!(stream, "{text}").is_err() {
            return;
        }
    }
}

/// Prints this many bytes on stdout, in lines of 80 bytes; the last one may be shorter.
#[task]
pub fn spam_stdout(bytes: u64) {
    let mut line = [b'x'; 80];
    line[79] = b'\n';
    let mut stdout = stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let size = left.min(80) as usize;
        if stdout.write_all(&line[80 - size..]).is_err() {
            return;
        }
        left -= size as u64;
    }
}

/// Prints this text on stdout without a line end, and flushes it.
#[task]
pub fn partial_line(text: String) {
    let mut stdout = stdout().lock();
    // Nothing to be done about a stream that takes no text.
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
