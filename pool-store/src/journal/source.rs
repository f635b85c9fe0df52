//! Reading a file at any place, by pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that are read together.
const TOGETHER: usize = 64 << 10;

/// What can be read at any place.
pub(crate) trait Source {
    /// Fills as much of `into` as there is from this position on, and says how much that was.
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize>;
}

impl Source for File {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < into.len() {
            match FileExt::read_at(self, &mut into[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Source for [u8] {
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let rest =
            usize::try_from(position).ok().and_then(|position| self.get(position..)).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

/// The piece of a source that was read last.
#[derive(Debug, Default)]
pub(crate) struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The bytes from `position` on: at least `wanted` of them, unless there are fewer before `end`. `wanted` is small.
    pub(crate) fn at<S: Source + ?Sized>(
        &mut self,
        source: &S,
        position: u64,
        wanted: usize,
        end: u64,
    ) -> io::Result<&[u8]> {
        let left = usize::try_from(end.saturating_sub(position)).unwrap_or(usize::MAX);
        let offset = position.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        let held = offset.and_then(|offset| self.bytes.len().checked_sub(offset)).unwrap_or(0);
        if held < wanted.min(left) {
            self.bytes.resize(left.min(TOGETHER.max(wanted)), 0);
            self.start = position;
            let filled = source.read_at(&mut self.bytes, position);
            self.bytes.truncate(*filled.as_ref().unwrap_or(&0));
            filled?;
            return Ok(&self.bytes);
        }
        Ok(offset.and_then(|offset| self.bytes.get(offset..)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_moves_to_what_is_wanted() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        let end = bytes.len() as u64;
        let mut window = Window::default();
        for position in [0, 1, 65_530, 3, 199_990, 199_999, 200_000, 300_000] {
            let held = window.at(&bytes[..], position, 16, end).unwrap();
            let right = bytes.get(position as usize..).unwrap_or_default();
            assert!(held.len() >= right.len().min(16), "{position}");
            assert_eq!(held, &right[..held.len()], "{position}");
        }
        assert_eq!(window.at(&bytes[..], 0, 16, 5).unwrap().len(), 5, "nothing behind the end");
    }
}
