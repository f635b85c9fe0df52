//! How workers are started, and which of them a zygote has forked.

use std::sync::LazyLock;

use pool_core::StartMethod;

static CHOSEN: LazyLock<StartMethod> = LazyLock::new(|| match std::env::var("POOL_TEST_START").as_deref() {
    Ok("spawn") | Err(std::env::VarError::NotPresent) => StartMethod::Spawn,
    Ok("zygote") => StartMethod::Zygote,
    other => panic!("POOL_TEST_START is {other:?}; it must be `spawn` or `zygote`"),
});

/// How all pools of the tests start their workers.
///
/// # Panics
/// When the environment names a method that there is not.
#[must_use]
pub fn start_method() -> StartMethod {
    *CHOSEN
}

/// Zygotes, and the workers that they have forked.
pub mod zygote {
    use std::fs;

    use nix::sys::signal::Signal;
    use pool_core::Pool;

    use crate::{Part, play, process, right, wait_until};

    /// The zygotes among the children of this process that have got as far as to wait for requests.
    #[must_use]
    pub fn pids() -> Vec<u32> {
        let is_zygote = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "pool-zygote" && process::is_alive(*pid)
        };
        process::children().into_iter().filter(is_zygote).collect()
    }

    /// The only zygote, once it is there.
    ///
    /// # Panics
    /// When there are several, or none comes.
    #[must_use]
    pub fn pid() -> u32 {
        let mut found = Vec::new();
        wait_until("the zygote is there", || {
            found = pids();
            found.len() == 1
        });
        found[0]
    }

    /// Whether a worker has been forked: it was never started with its own name, and has room for a longer one behind it.
    #[must_use]
    pub fn is_forked(worker: u32) -> bool {
        fs::read(format!("/proc/{worker}/cmdline")).is_ok_and(|line| line.windows(2).any(|two| two == [0, 0]))
    }

    /// The pids of all workers, once all are ready.
    #[must_use]
    pub fn workers(pool: &Pool) -> Vec<u32> {
        wait_until("every worker is ready", || pool.stats().workers_ready == pool.workers().len());
        pool.workers().iter().filter_map(|worker| worker.pid).collect()
    }

    /// Kills workers until all are forked ones, and returns the pid of the zygote.
    ///
    /// # Panics
    /// When a task that runs in between fails.
    pub fn replace_workers(pool: &Pool) -> u32 {
        // There may be no zygote now: a dead one is replaced when a worker is wanted.
        loop {
            let spawned: Vec<u32> = workers(pool).into_iter().filter(|pid| !is_forked(*pid)).collect();
            if spawned.is_empty() {
                return pid();
            }
            let deaths = pool.stats().deaths.total() + spawned.len() as u64;
            spawned.iter().for_each(|pid| process::send(*pid, Signal::SIGKILL));
            wait_until("the deaths are counted", || pool.stats().deaths.total() >= deaths);
            // A task that ends well forgives them.
            assert_eq!(pool.apply(play(1, Part::Innocent)).expect("an innocent"), right(1));
        }
    }
}
