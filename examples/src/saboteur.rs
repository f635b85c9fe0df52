//! A thread that kills workers.

use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_core::{Pool, WorkerInfo, WorkerStatus};

/// Kills a random worker of a pool at each tick, from the outside: the pool is not told.
#[derive(Debug)]
pub struct Saboteur {
    /// Closed to stop the thread.
    running: Sender<()>,
    thread: JoinHandle<u64>,
}

impl Saboteur {
    /// Begins to send SIGKILL to a random live worker of the pool at this interval.
    #[must_use]
    pub fn start(pool: Pool, interval: Duration) -> Self {
        let (running, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut kills = 0;
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                kills += u64::from(kill_one(&pool.workers()));
            }
            kills
        });
        Self { running, thread }
    }

    /// Stops it, and returns how many workers it has killed.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn stop(self) -> u64 {
        drop(self.running);
        self.thread.join().expect("the saboteur does not panic")
    }
}

/// Kills one of the workers that are alive; tells whether there was one.
fn kill_one(workers: &[WorkerInfo]) -> bool {
    let is_live = |worker: &&WorkerInfo| {
        matches!(worker.status, WorkerStatus::Starting | WorkerStatus::Idle | WorkerStatus::Busy)
    };
    let live: Vec<u32> = workers.iter().filter(is_live).filter_map(|worker| worker.pid).collect();
    if live.is_empty() {
        return false;
    }
    // Each `RandomState` has keys of its own, so its hash of nothing is a random number.
    let choice = RandomState::new().hash_one(()) % live.len() as u64;
    let Ok(pid) = i32::try_from(live[choice as usize]) else { return false };
    // An error says that it died between the snapshot and now.
    kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
}
