//! The worker programs of the tests.

use std::path::{Path, PathBuf};

use pool_core::WorkerExe;

pub(crate) fn stock_path() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pool-tests-worker"))
}

/// An honest worker.
pub(crate) fn stock() -> WorkerExe {
    WorkerExe::path(stock_path())
}

/// A worker whose panics abort.
pub(crate) fn aborting() -> WorkerExe {
    WorkerExe::path(env!("CARGO_BIN_EXE_abort-worker"))
}

/// A worker that plays a trick whenever it can.
pub(crate) fn hostile(trick: &str) -> WorkerExe {
    WorkerExe::path(env!("CARGO_BIN_EXE_hostile-worker")).arg(trick)
}

/// A place for the file that says that a trick has been played.
#[derive(Debug)]
pub(crate) struct Once {
    dir: tempfile::TempDir,
}

impl Once {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a writable temporary directory") }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("played")
    }

    /// A worker that plays a trick, unless one of them has played it before.
    pub(crate) fn hostile(&self, trick: &str) -> WorkerExe {
        hostile(trick).arg("--once").arg(self.file())
    }

    pub(crate) fn was_played(&self) -> bool {
        self.file().exists()
    }
}

/// A worker into which no task is linked.
pub(crate) fn bare() -> WorkerExe {
    WorkerExe::path(env!("CARGO_BIN_EXE_bare-worker"))
}

/// A worker with a thread that it has started before it became one.
pub(crate) fn threaded() -> WorkerExe {
    WorkerExe::path(env!("CARGO_BIN_EXE_threaded-worker"))
}

/// A program that builds a pool and has forgotten `init()`.
pub(crate) fn no_init() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_no-init"))
}

/// A program that has a pool; its first argument says what it does with it.
pub(crate) fn host() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_host"))
}

/// A program whose pool uses a store; its first argument says how.
pub(crate) fn store_user() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_store-user"))
}

/// A program that has a pool and too little of something; its first argument says of what.
pub(crate) fn pressed() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pressed"))
}

/// A program that runs a batch with a journal.
pub(crate) fn resumed() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_resumed"))
}
