//! What a journal holds, read from bytes as it would be read from a file.

use std::path::Path;

use super::error::JournalError;
use super::file::failed;
use super::header::{self, HEADER, Header};
use super::job::Fingerprint;
use super::log::{FAILURE, Found, Opened, Remembered, body_of, refusal};
use super::source::Window;
use crate::record::{HEAD, Head};

/// What is noted of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The item.
    pub index: u64,
    /// Its call.
    pub call: Fingerprint,
    /// Its outcome.
    pub outcome: Remembered,
}

/// Every outcome that would be found if these bytes were opened as a journal.
///
/// # Errors
/// Those of [`Journal::open`](super::Journal::open) that are about the contents.
pub fn inspect(bytes: &[u8]) -> Result<(Vec<Noted>, Opened), JournalError> {
    let path = Path::new("(bytes)");
    let len = bytes.len() as u64;
    let empty = Opened { items: 0, cut: len, damaged: 0 };
    let salt = match header::decode(&bytes[..bytes.len().min(HEADER)]) {
        Header::Sound(salt) => salt,
        Header::Unfinished => return Ok((Vec::new(), empty)),
        bad => return Err(refusal(bad, path)),
    };
    let read = |error| failed("read", path, error);
    let found = Found::read(bytes, &salt, len).map_err(read)?;
    let (mut noted, mut window) = (Vec::new(), Window::default());
    for (index, position) in found.positions.iter() {
        let head = window.at(bytes, position, HEAD, len).map_err(read)?;
        let Some(head) = head.first_chunk().and_then(|head| Head::decode(head, &salt, position)) else {
            continue;
        };
        if let Some(body) = body_of(bytes, &mut window, &head, position, len).map_err(read)? {
            let outcome = Remembered { failed: head.kind == FAILURE, body };
            noted.push(Noted { index, call: Fingerprint(head.fingerprint), outcome });
        }
    }
    let cut = len.saturating_sub(found.scanned.end);
    Ok((noted, Opened { items: found.positions.count(), cut, damaged: found.scanned.lost }))
}
