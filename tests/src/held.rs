//! Tasks that tell who has run them, and that end when the test says so.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pool_core::task;

/// How long a held task waits for its test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the process id of the worker.
#[task]
pub fn pid_for(_n: u64) -> u32 {
    std::process::id()
}

/// Waits until a file is there; for tasks, which have no other way to hear from their test.
///
/// # Panics
/// When it does not come.
pub fn wait_for_file(file: &Path) {
    let start = Instant::now();
    while !file.exists() {
        assert!(start.elapsed() < PATIENCE, "{} does not come", file.display());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes the file `begun`, waits until the file `end` is there, and returns the process id of the worker.
///
/// # Panics
/// When it cannot make the one, or the other does not come.
#[task]
pub fn held(begun: PathBuf, end: PathBuf) -> u32 {
    std::fs::write(&begun, []).expect("the test has made the directory");
    wait_for_file(&end);
    std::process::id()
}

/// The files of held tasks.
#[derive(Debug)]
pub struct Leash {
    dir: tempfile::TempDir,
}

impl Leash {
    /// A directory of its own.
    ///
    /// # Panics
    /// When there is no room for one.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory for temporary files") }
    }

    /// A task that runs until [`release`](Self::release) is called with its number.
    pub fn task(&self, n: u64) -> pool_core::Call<u32> {
        held(self.path("begun", n), self.path("end", n))
    }

    /// Whether the task of this number runs, or has run.
    #[must_use]
    pub fn has_begun(&self, n: u64) -> bool {
        self.path("begun", n).exists()
    }

    /// Lets the task of this number end.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn release(&self, n: u64) {
        std::fs::write(self.path("end", n), []).expect("the directory is still there");
    }

    fn path(&self, what: &str, n: u64) -> PathBuf {
        Path::new(self.dir.path()).join(format!("{what}-{n}"))
    }
}
