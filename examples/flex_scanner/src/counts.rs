//! What the scanner counts, and the task that has it counted.

use std::path::{Path, PathBuf};

use pool_core::task;
use serde::{Deserialize, Serialize};

use crate::ffi;

/// Numbers of tokens; the layout is that of `struct counts` in `scanner.l`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) identifiers: u64,
    pub(crate) numbers: u64,
    pub(crate) strings: u64,
    pub(crate) comments: u64,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |a, b| Self {
            identifiers: a.identifiers + b.identifiers,
            numbers: a.numbers + b.numbers,
            strings: a.strings + b.strings,
            comments: a.comments + b.comments,
        })
    }
}

/// Scans a file. One that cannot be opened is a value too: the reason as text.
#[task]
pub(crate) fn scan(path: PathBuf) -> Result<Counts, String> {
    scan_here(&path)
}

/// As [`scan`], in this process.
pub(crate) fn scan_here(path: &Path) -> Result<Counts, String> {
    named(path, ffi::scan(path))
}

/// An error that names the file.
pub(crate) fn named(path: &Path, counts: std::io::Result<Counts>) -> Result<Counts, String> {
    counts.map_err(|error| format!("cannot open {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_of(text: &[u8]) -> Counts {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        scan(file.path().to_owned()).run_here().unwrap().unwrap()
    }

    #[test]
    fn tokens_are_counted() {
        let text = br#"
            // a comment with "a string" and 1 number
            fn main() { let x_1 = 0x2A + 3.5; /* two
               lines ** */ print("4 \" five", 'c', '"', '\''); }
        "#;
        let expected = Counts { identifiers: 5, numbers: 2, strings: 1, comments: 2 };
        assert_eq!(counts_of(text), expected);
    }

    #[test]
    fn a_file_leaves_nothing_behind_for_the_next() {
        assert_eq!(counts_of(b"a /* never closed").comments, 1);
        assert_eq!(counts_of(b"b c"), Counts { identifiers: 2, ..Counts::default() });
        assert_eq!(counts_of(b""), Counts::default());
        assert_eq!(counts_of(&vec![b'x'; 100_000]).identifiers, 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let error = scan("/no/such/file".into()).run_here().unwrap().unwrap_err();
        assert!(error.starts_with("cannot open /no/such/file: "), "{error}");
    }
}
