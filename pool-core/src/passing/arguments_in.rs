//! Worker: arguments that the supervisor has lent.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use pool_ipc::{Locator, SegmentView};

/// The supervisor's segments, as far as they have been mapped.
#[derive(Debug, Default)]
pub(crate) struct ArgumentsIn {
    views: HashMap<u64, Arc<SegmentView>>,
}

impl ArgumentsIn {
    /// The segment of a `TaskAt` frame. `receive` receives one descriptor and its number, without waiting.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if it has not come; those of `receive` and of [`SegmentView::open`].
    pub(crate) fn find(
        &mut self,
        locator: &Locator,
        mut receive: impl FnMut() -> io::Result<Option<(u64, OwnedFd)>>,
    ) -> io::Result<Arc<SegmentView>> {
        loop {
            if let Some(view) = self.views.get(&locator.segment) {
                return Ok(Arc::clone(view));
            }
            let Some((id, fd)) = receive()? else {
                let what = format!("the descriptor of segment {} has not come", locator.segment);
                return Err(io::Error::new(io::ErrorKind::NotFound, what));
            };
            self.views.insert(id, Arc::new(SegmentView::open(fd.as_fd())?));
        }
    }

    /// The supervisor has given the segment `id` back.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn forget(
        &mut self,
        id: u64,
        receive: impl FnMut() -> io::Result<Option<(u64, OwnedFd)>>,
    ) -> io::Result<()> {
        self.find(&Locator { segment: id, offset: 0, len: 0 }, receive)?;
        self.views.remove(&id);
        Ok(())
    }
}
