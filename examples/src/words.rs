//! Counting the words of a file, in a worker or here.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use pool_core::task;
use serde::{Deserialize, Serialize};

/// Words, lines and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Runs of bytes that are no ASCII white space.
    pub words: u64,
    /// Line ends.
    pub lines: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    fn of(text: &[u8]) -> Self {
        let (mut words, mut lines, mut in_word) = (0, 0, false);
        for byte in text {
            lines += u64::from(*byte == b'\n');
            let space = byte.is_ascii_whitespace();
            words += u64::from(!space && !in_word);
            in_word = !space;
        }
        Self { words, lines, bytes: text.len() as u64 }
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| Self {
            words: a.words + b.words,
            lines: a.lines + b.lines,
            bytes: a.bytes + b.bytes,
        })
    }
}

/// Counts the words of a file. A file that cannot be read is a value too: the reason as text.
#[task]
pub fn count(path: PathBuf) -> Result<Count, String> {
    count_file(&path)
}

fn count_file(path: &Path) -> Result<Count, String> {
    match std::fs::read(path) {
        Ok(text) => Ok(Count::of(&text)),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// Counts the words of each file in this process, with this many threads; the results are in the order of the files.
#[must_use]
pub fn count_in_threads(files: &[PathBuf], threads: usize) -> Vec<Result<Count, String>> {
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, Result<Count, String>)> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let Some((index, file)) = {
                let index = next.fetch_add(1, Ordering::Relaxed);
                files.get(index).map(|file| (index, file))
            } {
                done.push((index, count_file(file)));
            }
            done
        };
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("counting does not panic")).collect()
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lines_and_bytes_are_those_of_wc() {
        let count = |words, lines, bytes| Count { words, lines, bytes };
        assert_eq!(Count::of(b""), count(0, 0, 0));
        assert_eq!(Count::of(b" one\ttwo\n\nthree"), count(3, 2, 15));
        assert_eq!(Count::of(b"\xFF\xFE x\n"), count(2, 1, 5));
    }

    #[test]
    fn threads_keep_the_order_and_report_what_cannot_be_read() {
        let here = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        let missing = PathBuf::from("/no/such/file");
        let results = count_in_threads(&[missing.clone(), here.clone(), missing], 3);
        assert!(results[0].as_ref().is_err_and(|error| error.starts_with("cannot read /no/such/file: ")));
        assert_eq!(results[1], count(here).run_here().expect("counts can be encoded"));
        assert_eq!(results[0], results[2]);
    }
}
