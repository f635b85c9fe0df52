//! Borrowing what the supervisor has passed.

use pool_ipc::{Locator, SegmentView};

/// The bytes at `locator` in a segment of the supervisor; `None` if they are not inside.
///
/// To be called with what a `TaskAt` frame says whose ticket has been claimed, and borrowed until the answer.
pub(crate) fn lent<'v>(view: &'v SegmentView, locator: &Locator) -> Option<&'v [u8]> {
    let (offset, len) = (usize::try_from(locator.offset).ok()?, usize::try_from(locator.len).ok()?);
    // SAFETY: the supervisor made the segment, and does not write to what it has lent until this worker has answered or is
    // dead. If it were corrupt, this worker would be the least of its victims.
    unsafe { view.bytes(offset, len) }
}
