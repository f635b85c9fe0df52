//! The thread that has the disk take what was written.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::error::JournalError;
use super::file::failed;
use super::pace::{Due, Marks, Pace};

/// A file that is written by one thread, and synced by another one, which is started with the first write.
///
/// When to sync is said in [`pace`](super::pace). A failure is for ever: every call after it fails with the same error.
#[derive(Debug)]
pub(crate) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    file: File,
    /// Has the disk take the data.
    sync: fn(&File) -> io::Result<()>,
    path: PathBuf,
    state: Mutex<State>,
    /// Something was written, or it is the end.
    wake: Condvar,
    /// A sync is over.
    synced: Condvar,
}

#[derive(Debug)]
struct State {
    marks: Marks,
    failure: Option<Arc<JournalError>>,
    /// The failure is that of a sync.
    untrusted: bool,
    over: bool,
}

impl Syncer {
    /// Of a file with so many bytes, of which the first `end` are there for good.
    pub(crate) fn new(file: File, path: &Path, pace: Pace, end: u64) -> Self {
        Self::with(File::sync_data, file, path, pace, end)
    }

    fn with(sync: fn(&File) -> io::Result<()>, file: File, path: &Path, pace: Pace, end: u64) -> Self {
        let state = State { marks: Marks::new(pace, end), failure: None, untrusted: false, over: false };
        let shared = Shared {
            file,
            sync,
            path: path.to_owned(),
            state: Mutex::new(state),
            wake: Condvar::new(),
            synced: Condvar::new(),
        };
        Self { shared: Arc::new(shared), thread: None }
    }

    /// The failure that everything ends with from now on, if there was one.
    pub(crate) fn failure(&self) -> Option<Arc<JournalError>> {
        self.shared.lock().failure.clone()
    }

    /// Something could not be written.
    pub(crate) fn fail(&self, error: JournalError) -> Arc<JournalError> {
        let mut state = self.shared.lock();
        Arc::clone(state.failure.get_or_insert_with(|| Arc::new(error)))
    }

    /// So many outcomes have been written, up to this end. Waits if the disk is too far behind.
    pub(crate) fn wrote(&mut self, end: u64, items: u64) -> Result<(), Arc<JournalError>> {
        if self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new().name("pool-journal".to_owned()).spawn(move || shared.run());
            match started {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => return Err(self.fail(failed("start a thread for", &self.shared.path, error))),
            }
        }
        let mut state = self.shared.lock();
        let now = Instant::now();
        let before = state.marks.due(now);
        state.marks.wrote(now, end, items);
        match (before, state.marks.due(now)) {
            (_, Due::Now) | (Due::Later, Due::At(_)) => self.shared.wake.notify_one(),
            _ => {}
        }
        while state.marks.is_behind() && state.failure.is_none() {
            state = self.shared.synced.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &state.failure {
            None => Ok(()),
            Some(failure) => {
                // It may have been written after the cut.
                self.shared.cut(&state);
                Err(Arc::clone(failure))
            }
        }
    }

    /// Ends the thread, and has the disk take what is left.
    pub(crate) fn finish(&mut self) -> Result<(), Arc<JournalError>> {
        self.stop();
        let state = self.shared.lock();
        if let Some(failure) = &state.failure {
            return Err(Arc::clone(failure));
        }
        // Also what others have written, who did not come to it.
        let state = self.shared.sync(state);
        state.failure.clone().map_or(Ok(()), Err)
    }

    fn stop(&mut self) {
        self.shared.lock().over = true;
        self.shared.wake.notify_one();
        // It does not panic; and if it did, what is left would still be synced.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Syncer {
    /// What was written and is not on the disk yet does not wait for the kernel: nobody else would sync it.
    fn drop(&mut self) {
        self.stop();
        let state = self.shared.lock();
        if state.failure.is_none() && state.marks.is_waiting() {
            // Nobody is left who could be told of an error; what it costs is cut off.
            drop(self.shared.sync(state));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the thread does.
    fn run(&self) {
        let mut state = self.lock();
        while !state.over && state.failure.is_none() {
            let now = Instant::now();
            state = match state.marks.due(now) {
                Due::Now => self.sync(state),
                Due::Later => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Due::At(at) => {
                    let left = at.saturating_duration_since(now);
                    self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        // Whoever waits for a sync sees why there is none.
        self.synced.notify_all();
    }

    /// Has the disk take what has been written so far, without the lock.
    fn sync<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let mark = state.marks.written();
        drop(state);
        let synced = (self.sync)(&self.file);
        let mut state = self.lock();
        match synced {
            Ok(()) => state.marks.reached(Instant::now(), mark),
            Err(error) => self.give_up(&mut state, error),
        }
        self.synced.notify_all();
        state
    }

    fn give_up(&self, state: &mut State, error: io::Error) {
        if state.failure.is_none() {
            state.failure = Some(Arc::new(failed("sync", &self.path, error)));
            state.untrusted = true;
            self.cut(state);
        }
    }

    /// What a failed sync was for cannot be trusted to be on the disk, also if it can still be read: it is cut off, and runs
    /// again.
    fn cut(&self, state: &State) {
        if state.untrusted {
            // Should this fail, too, then what is lost is found by its checksums.
            let _ = self.file.set_len(state.marks.synced());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const PACE: Pace = Pace { every: Duration::ZERO, items: 2 };

    fn failing(_: &File) -> io::Result<()> {
        Err(io::Error::other("the disk is gone"))
    }

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 100], 0).unwrap();
        file
    }

    fn write(syncer: &mut Syncer, end: u64) -> Result<(), Arc<JournalError>> {
        syncer.shared.file.write_all_at(&[2; 50], end - 50).unwrap();
        syncer.wrote(end, 1)
    }

    #[test]
    fn a_writer_that_is_ahead_of_the_disk_waits_and_everything_is_synced() {
        let mut syncer = Syncer::new(file(), Path::new("x"), PACE, 100);
        for end in (150..5000).step_by(50) {
            write(&mut syncer, end).unwrap();
            assert!(!syncer.shared.lock().marks.is_behind());
        }
        syncer.finish().unwrap();
        assert_eq!(syncer.shared.lock().marks.synced(), 4950);
    }

    #[test]
    fn what_a_failed_sync_was_for_is_cut_off_and_no_later_one_succeeds() {
        let mut syncer = Syncer::with(failing, file(), Path::new("x"), PACE, 100);
        let mut end = 150;
        let failure = loop {
            match write(&mut syncer, end) {
                Ok(()) => end += 50,
                Err(error) => break error,
            }
        };
        assert!(failure.to_string().contains("cannot sync the journal x: the disk is gone"), "{failure}");
        assert_eq!(syncer.shared.file.metadata().unwrap().len(), 100);
        assert!(Arc::ptr_eq(&syncer.finish().unwrap_err(), &failure));
        assert!(Arc::ptr_eq(&syncer.failure().unwrap(), &failure));
    }

    #[test]
    fn what_was_written_is_synced_also_if_nobody_says_that_it_is_the_end() {
        static SYNCS: AtomicUsize = AtomicUsize::new(0);
        let count = |file: &File| {
            SYNCS.fetch_add(1, Ordering::Relaxed);
            file.sync_data()
        };
        let never = Pace { every: Duration::MAX, items: 1000 };
        let mut syncer = Syncer::with(count, file(), Path::new("x"), never, 100);
        write(&mut syncer, 150).unwrap();
        let shared = Arc::clone(&syncer.shared);
        drop(syncer);
        assert_eq!((SYNCS.load(Ordering::Relaxed), shared.lock().marks.synced()), (1, 150));
        let mut syncer = Syncer::with(count, file(), Path::new("x"), never, 100);
        write(&mut syncer, 150).unwrap();
        syncer.finish().unwrap();
        drop(syncer);
        assert_eq!(SYNCS.load(Ordering::Relaxed), 2, "not once more");
    }

    #[test]
    fn a_last_sync_that_fails_is_told() {
        let never = Pace { every: Duration::MAX, items: 1000 };
        let mut syncer = Syncer::with(failing, file(), Path::new("x"), never, 100);
        write(&mut syncer, 150).unwrap();
        assert!(syncer.finish().unwrap_err().is_io());
        assert_eq!(syncer.shared.file.metadata().unwrap().len(), 100);
    }
}
