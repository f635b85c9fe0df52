//! What the state machine is told, and what it counts.

use std::time::Duration;

use crate::policy::RestartPolicy;
use crate::stats::RetireCounts;

/// What the state machine is configured with.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Workers that are given tasks.
    pub(crate) workers: u32,
    pub(crate) staffing: Staffing,
    /// The worker executable, for messages.
    pub(crate) executable: String,
    pub(crate) restart: RestartPolicy,
    pub(crate) start_timeout: Duration,
    /// How long a worker may take to build a state.
    pub(crate) init_timeout: Duration,
    /// About what it takes until a new worker is of use. An elastic pool grows for what those that are there will not have done
    /// by then; zero: whenever tasks wait.
    pub(crate) start_up: Duration,
    /// How many states a worker builds before its hello, at most.
    pub(crate) states: usize,
    pub(crate) exit_timeout: Duration,
    pub(crate) cancel_grace: Duration,
    /// How long a worker may leave its next task unclaimed.
    pub(crate) claim_timeout: Duration,
    /// For how long a worker is given work ahead of time, as far as its pace is known.
    pub(crate) ahead: Duration,
    /// About what it takes to wake a worker. For tasks that one that is awake will have done by then, none is woken; zero: one
    /// always is.
    pub(crate) wake: Duration,
    /// Workers that can run at a time. While so many are busy, one more does not make short items end earlier.
    pub(crate) cores: usize,
    /// Items given to a worker whose pace is not known yet, two at least.
    pub(crate) unpaced: usize,
    /// Most items given to a worker ahead of time, the running one included; less than `ticket_window`.
    pub(crate) prefetch: usize,
    /// Most bytes of arguments given to a worker ahead of time.
    pub(crate) prefetch_bytes: usize,
    /// The distance between the oldest ticket held and a new one stays below this.
    pub(crate) ticket_window: u64,
    /// Seed of the back-off's jitter.
    pub(crate) seed: u64,
}

/// A limit where none has been set.
const LIMIT: Duration = Duration::from_secs(10);

impl Config {
    /// What a pool of so many workers on one core has, unless it is told otherwise.
    pub(crate) fn of(workers: u32) -> Self {
        Self {
            workers,
            staffing: Staffing::default(),
            executable: String::new(),
            restart: RestartPolicy::default(),
            start_timeout: LIMIT,
            init_timeout: LIMIT,
            start_up: Duration::from_millis(5),
            states: 0,
            exit_timeout: LIMIT,
            cancel_grace: LIMIT,
            claim_timeout: LIMIT,
            // Many times what it takes to send it more.
            ahead: Duration::from_millis(1),
            // A sleeping core, and a worker on it.
            wake: Duration::from_micros(50),
            cores: 1,
            unpaced: 2,
            prefetch: 2048,
            prefetch_bytes: 1 << 20,
            ticket_window: pool_ipc::SLOTS as u64,
            seed: 1,
        }
    }
}

/// When workers come and go that are healthy.
#[derive(Debug, Clone)]
pub(crate) struct Staffing {
    /// How many are left when there is nothing to do; all of them if it does not say.
    pub(crate) least: Option<u32>,
    /// After how long without tasks a worker goes that is one of more than that.
    pub(crate) idle: Option<Duration>,
    /// Tasks that a process runs before it is replaced.
    pub(crate) quota: Option<u64>,
    /// So many fewer, at random.
    pub(crate) jitter: u64,
    /// Whether workers may be replaced for their size.
    pub(crate) weighs: bool,
    /// Whether a successor starts before its predecessor has gone.
    pub(crate) overlap: bool,
}

impl Default for Staffing {
    /// They stay as long as they live.
    fn default() -> Self {
        Self { least: None, idle: None, quota: None, jitter: 0, weighs: false, overlap: true }
    }
}

/// Counters; they only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) submitted: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) cancelled: u64,
    pub(crate) timed_out: u64,
    pub(crate) retried: u64,
    pub(crate) requeued: u64,
    pub(crate) taken_back: u64,
    pub(crate) spawned: u64,
    pub(crate) task_deaths: u64,
    pub(crate) idle_deaths: u64,
    pub(crate) start_deaths: u64,
    pub(crate) kills: u64,
    pub(crate) overdue: u64,
    pub(crate) retired: RetireCounts,
}
