//! Finding the records of a journal, whatever has become of it.
//!
//! Records follow each other from the header on. Where the head of one is damaged, the next one that is sound is looked for, and
//! what is between them is lost. What is behind the last one is the torn end of what was being written when its program, or
//! its machine, died; it is cut off.
//!
//! Bodies are not read here, so that a journal with large results is opened quickly. Whoever wants one checks it.

use std::io;

use super::header::HEADER;
use super::source::{Source, Window};
use crate::record::{HEAD, Head, Salt, find};

/// What has been found beside the records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Where the last record ends.
    pub(crate) end: u64,
    /// Bytes between records that are none.
    pub(crate) lost: u64,
}

/// Reports the head and the position of every record of a file with `len` bytes, in their order.
pub(crate) fn scan<S: Source + ?Sized, E: From<io::Error>>(
    source: &S,
    salt: &Salt,
    len: u64,
    mut report: impl FnMut(Head, u64) -> Result<(), E>,
) -> Result<Scanned, E> {
    let mut window = Window::default();
    let mut scanned = Scanned { end: (HEADER as u64).min(len), lost: 0 };
    let mut position = scanned.end;
    loop {
        let bytes = window.at(source, position, HEAD, len)?;
        let Some(head) = bytes.first_chunk::<HEAD>() else { break };
        match Head::decode(head, salt, position).and_then(|head| Some((head, head.end(position)?))) {
            Some((head, end)) if end <= len => {
                scanned.lost += position - scanned.end;
                report(head, position)?;
                (position, scanned.end) = (end, end);
            }
            // One whose body is cut off, or none.
            _ => position += 1 + find(&bytes[1..]).unwrap_or(bytes.len() - 1) as u64,
        }
    }
    Ok(scanned)
}
