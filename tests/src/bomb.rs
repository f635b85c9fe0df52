//! Tasks that use up more than they may.

use std::hint::black_box;
use std::io::Write;
use std::time::{Duration, Instant};

use pool_core::task;
use serde::{Deserialize, Serialize};

/// How processes are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fuse {
    /// Every process forks for ever, as do its children.
    Fork,
    /// The same, and each child leaves its process group.
    ForkAndLeave,
    /// Threads are started until none can be, and wait.
    Threads,
}

/// Multiplies without end. It never returns by itself.
#[task]
pub fn explode(fuse: Fuse) -> u64 {
    match fuse {
        Fuse::Threads => loop {
            if std::thread::Builder::new().spawn(std::thread::park).is_err() {
                std::thread::sleep(Duration::from_secs(600));
            }
        },
        Fuse::Fork | Fuse::ForkAndLeave => loop {
            // SAFETY: the child makes only calls that are async-signal-safe: fork, setsid and this loop's.
            unsafe {
                if libc::fork() == 0 && fuse == Fuse::ForkAndLeave {
                    libc::setsid();
                }
            }
        },
    }
}

/// Uses so much processor time on each of so many threads.
#[task]
pub fn spin(threads: u32, each_ms: u64) -> u32 {
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(move || burn(each_ms));
        }
        burn(each_ms);
    });
    threads
}

/// Uses processor time of this thread.
fn burn(ms: u64) {
    let used = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the place is valid for the call.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let (until, deadline) = (used() + Duration::from_millis(ms), Instant::now() + Duration::from_secs(600));
    while used() < until && Instant::now() < deadline {
        (0..10_000_u64).for_each(|n| _ = black_box(n));
    }
}

/// Writes a file of so many bytes, and removes it. Whether it has the length.
#[task]
pub fn touch(dir: std::path::PathBuf, bytes: u64) -> bool {
    let path = dir.join(format!("file-{}", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&path)?;
        (0..bytes).step_by(4096).try_for_each(|at| {
            let len = (bytes - at).min(4096) as usize;
            file.write_all(&[7; 4096][..len])
        })?;
        file.metadata().map(|found| found.len())
    };
    let written: std::io::Result<u64> = write();
    let removed = std::fs::remove_file(&path);
    written.is_ok_and(|len| len == bytes) && removed.is_ok()
}
