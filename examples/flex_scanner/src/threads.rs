//! What happens when threads share the scanner.
//!
//! That is undefined behaviour, so it is done in a process of its own: this program, started again with `--share`. The pool
//! runs it, which gives a time limit for free: a scanner that is confused may also loop for ever.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use pool_core::{Pool, TaskError};
use pool_worker::command::{self, Command, CommandStatus};

use crate::counts::{Counts, named};
use crate::ffi;

/// How long the process may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Scans the files with several threads at once and without a lock, and prints the sum of their counts.
pub(crate) fn share(files: &[PathBuf], threads: NonZero<usize>) {
    let next = AtomicUsize::new(0);
    let counts: Counts = thread::scope(|scope| {
        let work = || {
            let files = std::iter::from_fn(|| files.get(next.fetch_add(1, Ordering::Relaxed)));
            // SAFETY: deliberately none: what comes of it is what this process is there to show. Nothing else is done in it.
            files.filter_map(|file| named(file, unsafe { ffi::scan_unguarded(file) }).ok()).sum()
        };
        let threads: Vec<_> = (0..threads.get()).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).sum()
    });
    println!("{counts:?}");
}

/// Runs [`share`] in a process of its own, and tells what went wrong, if anything did.
pub(crate) fn observe(pool: &Pool, arguments: Command, expected: Counts) -> Result<Option<String>, String> {
    let output = match pool.apply(command::run(arguments).timeout(LIMIT)) {
        Ok(output) => output.map_err(|error| error.to_string())?,
        Err(TaskError::TimedOut { limit, .. }) => return Ok(Some(format!("it still ran after {limit:?}"))),
        Err(error) => return Err(error.to_string()),
    };
    if output.status != CommandStatus::Exited(0) {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let why = stderr.lines().next_back().map(|line| format!(": {line}")).unwrap_or_default();
        return Ok(Some(format!("the process {}{why}", output.status)));
    }
    let found = String::from_utf8_lossy(&output.stdout);
    let right = found.trim() == format!("{expected:?}");
    Ok((!right).then(|| format!("the counts are wrong: {}", found.trim())))
}
