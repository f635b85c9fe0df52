//! Supervisor: results in the segments of one worker.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use pool_ipc::{Locator, Sealed, SegmentView};

use crate::arena::Limits;
use crate::reply::{Foreign, Reply, Returns};
use crate::shared_bytes::SharedBytes;

/// The most segments of a worker that are mapped: twice what an honest one has, because the old ones stay until what is in
/// them has been copied.
const MAX_SEGMENTS: usize = 2 * Limits::WORKER.segments;
/// The most bytes of them; it is address space and not memory.
const MAX_BYTES: usize = 2 * Limits::WORKER.bytes;
/// The most sealed files that wait for their frames.
const MAX_WAITING: usize = 512;
/// The most bytes before a sealed block.
const MAX_HEAD: usize = 16;

/// Why a result that a worker tells of is not accepted.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It cannot be, in words: a violation.
    Lie(String),
    /// This program has no descriptor or no memory for it. The worker is innocent.
    Resources(io::Error),
}

/// One worker's segments, and what it has passed in them. Nothing that the worker says is believed.
#[derive(Debug, Default)]
pub(crate) struct ResultsIn {
    views: HashMap<u64, Arc<SegmentView>>,
    /// Segments that there was no room to map when they came. They come once, so they are kept for the next result.
    unmapped: HashMap<u64, OwnedFd>,
    /// Forgotten, but a result in it has not been copied yet.
    leaving: Vec<Weak<SegmentView>>,
    /// Sealed files whose frames have not come.
    sealed: HashMap<u64, SharedBytes>,
    /// What its results were given up for want of a descriptor or memory; a sealed file of these numbers may still come.
    given_up: VecDeque<u64>,
    /// A descriptor has been lost, so one that has not come proves nothing.
    lost: bool,
    returns: Arc<Returns>,
}

impl ResultsIn {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The result that a `DoneAt` frame tells of. `receive` receives one descriptor and its number, without waiting; `limit`
    /// is the most bytes that a result may have.
    ///
    /// # Errors
    /// Why there is none, and who is to blame.
    pub(crate) fn accept(
        &mut self,
        payload: &[u8],
        limit: usize,
        mut receive: impl FnMut() -> io::Result<Option<(u64, OwnedFd)>>,
    ) -> Result<Reply, Refusal> {
        let (locator, head) = Locator::split(payload).map_err(|error| Refusal::Lie(error.to_string()))?;
        if locator.len > limit as u64 {
            return lie(format!("a result of {} bytes, over the limit of {limit}", locator.len));
        }
        let found = self.find(locator, head, limit, &mut receive);
        if let Err(Refusal::Resources(_)) = &found {
            self.give_up(locator);
        }
        found
    }

    fn find(
        &mut self,
        locator: Locator,
        head: &[u8],
        limit: usize,
        receive: &mut impl FnMut() -> io::Result<Option<(u64, OwnedFd)>>,
    ) -> Result<Reply, Refusal> {
        loop {
            if let Some(view) = self.views.get(&locator.segment) {
                let foreign = Foreign::new(Arc::clone(view), locator, Arc::clone(&self.returns));
                let inside = foreign.filter(|_| head.is_empty());
                return inside
                    .map(Reply::foreign)
                    .ok_or_else(|| Refusal::Lie(format!("a result where none can be: {locator:?}")));
            }
            if let Some(bytes) = self.sealed.remove(&locator.segment) {
                if (locator.offset, locator.len) != (0, bytes.len() as u64) || head.len() > MAX_HEAD {
                    return lie(format!("a sealed result that is described wrongly: {locator:?}"));
                }
                return Ok(Reply::sealed(head, bytes));
            }
            if let Some(fd) = self.unmapped.remove(&locator.segment) {
                self.map(locator.segment, fd)?;
                continue;
            }
            match receive() {
                Ok(Some((id, fd))) => self.keep(id, fd, limit)?,
                Ok(None) if self.lost => {
                    return Err(Refusal::Resources(io::Error::from_raw_os_error(libc::EMFILE)));
                }
                Ok(None) => {
                    return lie(format!("a result in segment {}, which has not come", locator.segment));
                }
                Err(error) if is_for_want(&error) => {
                    // It may have been lost, too, if another thread took the last number.
                    self.lost = true;
                    return Err(Refusal::Resources(error));
                }
                Err(error) => return lie(format!("a segment that cannot be received: {error}")),
            }
        }
    }

    /// A result cannot be had, though the worker has done nothing wrong: its memory is free again.
    fn give_up(&mut self, locator: Locator) {
        self.returns.push(locator);
        if self.given_up.len() >= MAX_WAITING {
            self.given_up.pop_front();
        }
        self.given_up.push_back(locator.segment);
    }

    fn keep(&mut self, id: u64, fd: OwnedFd, limit: usize) -> Result<(), Refusal> {
        if self.views.contains_key(&id) || self.sealed.contains_key(&id) || self.unmapped.contains_key(&id) {
            return lie(format!("segment {id} twice"));
        }
        if Sealed::is_sealed(fd.as_fd()) {
            if let Some(place) = self.given_up.iter().position(|given_up| *given_up == id) {
                self.given_up.remove(place);
                return Ok(());
            }
            if self.sealed.len() >= MAX_WAITING {
                return lie(format!("{MAX_WAITING} sealed results of which it has not told"));
            }
            let waiting = self.sealed.values().fold(0, |sum: usize, bytes| sum.saturating_add(bytes.len()));
            let lost = &mut self.lost;
            let refused = |error: io::Error| {
                if is_for_want(&error) {
                    *lost = true;
                    return Refusal::Resources(error);
                }
                unusable(&error)
            };
            self.sealed.insert(id, open_sealed(fd, limit, waiting).map_err(refused)?);
            return Ok(());
        }
        self.map(id, fd)
    }

    /// Maps a segment of the worker, or keeps it until there is room.
    fn map(&mut self, id: u64, fd: OwnedFd) -> Result<(), Refusal> {
        let view = match SegmentView::open(fd.as_fd()) {
            Ok(view) => view,
            Err(error) if is_for_want(&error) => {
                if self.unmapped.len() >= MAX_SEGMENTS {
                    return lie(format!("{MAX_SEGMENTS} segments that cannot be mapped"));
                }
                self.unmapped.insert(id, fd);
                return Err(Refusal::Resources(error));
            }
            Err(error) => return Err(unusable(&error)),
        };
        self.leaving.retain(|view| view.strong_count() > 0);
        let leaving: Vec<Arc<SegmentView>> = self.leaving.iter().filter_map(Weak::upgrade).collect();
        let count = self.views.len() + leaving.len();
        let bytes =
            self.views.values().chain(&leaving).fold(view.len(), |sum, view| sum.saturating_add(view.len()));
        if count >= MAX_SEGMENTS || bytes > MAX_BYTES {
            return lie(format!("{count} segments of {bytes} bytes are too many"));
        }
        self.views.insert(id, Arc::new(view));
        Ok(())
    }

    /// The worker has given the segment `id` back. What is still to be copied from it can be.
    pub(crate) fn forget(&mut self, id: u64) {
        self.unmapped.remove(&id);
        if let Some(view) = self.views.remove(&id) {
            self.leaving.push(Arc::downgrade(&view));
        }
    }

    /// Whether segments are mapped, which are to be looked after.
    pub(crate) fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// What the worker can use again, each to be sent in a `Release` frame.
    #[inline]
    pub(crate) fn released(&self) -> Vec<Locator> {
        self.returns.take()
    }
}

fn lie<T>(what: String) -> Result<T, Refusal> {
    Err(Refusal::Lie(what))
}

fn unusable(error: &io::Error) -> Refusal {
    Refusal::Lie(format!("a segment that cannot be used: {error}"))
}

/// Whether this program lacked something, whoever the descriptor came from.
fn is_for_want(error: &io::Error) -> bool {
    let wants = [libc::EMFILE, libc::ENFILE, libc::ENOMEM];
    error.kind() == io::ErrorKind::OutOfMemory
        || error.raw_os_error().is_some_and(|number| wants.contains(&number))
}

/// `waiting`: bytes of the sealed files of which the worker has not told yet.
fn open_sealed(fd: OwnedFd, limit: usize, waiting: usize) -> io::Result<SharedBytes> {
    let file = File::from(fd);
    let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if len > limit || len.saturating_add(waiting) > MAX_BYTES {
        let message = format!("a sealed result of {len} bytes is too large");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let fd = OwnedFd::from(file);
    match Sealed::open(fd.as_fd()) {
        Ok(sealed) => Ok(sealed.into()),
        // The number of mappings is limited (vm.max_map_count). The bytes cannot change any more, so they can be read.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            let file = File::from(fd);
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
            bytes.resize(len, 0);
            file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes.into())
        }
        Err(error) => Err(error),
    }
}
