//! Runs of small frames, looked through at once.

use std::fmt;

use crate::frame::{HEADER_LEN, Header, Kind};

/// Frames of one kind with consecutive tickets, all of them whole and sound.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Run<'a> {
    /// How many.
    pub count: u32,
    /// The frames with their headers, one after the other; [`frames`] walks them.
    pub bytes: &'a [u8],
}

impl<'a> Run<'a> {
    /// The longest at the start of `bytes`; it may be empty.
    pub(crate) fn at_start(bytes: &'a [u8], limit: u32, kind: Kind, first_ticket: u64, max: u32) -> Self {
        let (mut count, mut rest) = (0, bytes);
        while count < max {
            let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() else { break };
            let Ok(header) = Header::decode(header, limit) else { break };
            if header.kind != kind || header.ticket.wrapping_sub(u64::from(count)) != first_ticket {
                break;
            }
            let Some((payload, behind)) = behind.split_at_checked(header.len as usize) else { break };
            if !header.matches(payload) {
                break;
            }
            rest = behind;
            count += 1;
        }
        Self { count, bytes: &bytes[..bytes.len() - rest.len()] }
    }

    /// The payloads, in order.
    pub fn payloads(&self) -> Frames<'a> {
        frames(self.bytes)
    }
}

impl fmt::Debug for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("count", &self.count).field("len", &self.bytes.len()).finish()
    }
}

/// The payloads of a [`Run`]'s bytes, or of the rest of them from the start of a frame on. Headers are not checked again;
/// bytes that are no frames end it.
#[must_use]
pub fn frames(bytes: &[u8]) -> Frames<'_> {
    Frames { rest: bytes }
}

/// The payloads of frames that were checked before; see [`frames`].
#[derive(Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// The bytes of the frames that have not been taken.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (header, behind) = self.rest.split_first_chunk::<HEADER_LEN>()?;
        let [l0, l1, l2, l3, ..] = *header;
        let (payload, behind) = behind.split_at_checked(u32::from_le_bytes([l0, l1, l2, l3]) as usize)?;
        self.rest = behind;
        Some(payload)
    }
}

impl fmt::Debug for Frames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("rest", &self.rest.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(0..30_u8, 0..400), ticket: u64, max: u32) {
            let mut frames = frames(&bytes);
            let taken: usize = frames.by_ref().map(|payload| HEADER_LEN + payload.len()).sum();
            prop_assert_eq!(frames.rest(), &bytes[taken..]);
            prop_assert_eq!(Run::at_start(&bytes, u32::MAX, Kind::Done, ticket, max).count, 0);
        }
    }

    #[test]
    fn a_run_behind_the_last_ticket_wraps() {
        let frame = |ticket| Header::new(Kind::Done, ticket, &[]).unwrap().encode();
        let bytes = [frame(u64::MAX), frame(0)].concat();
        assert_eq!(Run::at_start(&bytes, 0, Kind::Done, u64::MAX, 9).count, 2);
    }
}
