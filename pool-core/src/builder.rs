//! Making a pool.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::error::BuildError;
use crate::executable::WorkerExe;
use crate::gate::Gate;
use crate::output::{Forwarder, Output};
use crate::policy::{RestartPolicy, bounded};
use crate::pool::Pool;
use crate::sharing::Offer;
use crate::signals;
use crate::start_method::StartMethod;
use crate::supervisor::engine::{Engine, Parts};
use crate::supervisor::launch::Launcher;
use crate::supervisor::lead::Lead;
use crate::supervisor::machine::{Config, Machine};
use crate::supervisor::reactor;
use crate::supervisor::shared::Shared;
use crate::supervisor::token::{MAX_WORKERS, TIMER, WAKE};
use crate::sys::{process, stdio};
use crate::transport::Transport;
use crate::worker::init;

/// How deeply pools may be nested: a task may build a pool whose tasks build pools, and so on.
pub const MAX_DEPTH: u32 = 4;
/// Tasks given to a worker ahead of time, the running one included.
const PREFETCH: usize = 2048;
/// How much work a worker is given ahead of time: many times what it takes to send it more.
const AHEAD: Duration = Duration::from_millis(1);
/// About what it takes to wake a sleeping core, and on it a worker.
const WAKE_UP: Duration = Duration::from_micros(50);
/// How many tasks a worker is given whose pace is not known yet.
const UNPACED: usize = 2;
/// Bytes of arguments given to a worker ahead of time, unless a single task has more.
const PREFETCH_BYTES: usize = 1 << 20;

/// The settings of a [`Pool`].
///
/// ```no_run
/// use std::time::Duration;
/// use pool_core::{Output, Pool};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// pool_core::init();
/// let pool = Pool::builder()
///     .name("thumbnails")
///     .workers(4)
///     .env("OMP_NUM_THREADS", "1")
///     .task_timeout(Duration::from_secs(30))
///     .output(Output::Null)
///     .build()?;
/// # drop(pool);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder makes no pool until `build` is called"]
pub struct Builder {
    name: String,
    workers: Option<usize>,
    spares: usize,
    worker: WorkerExe,
    env: Vec<(OsString, Option<OsString>)>,
    current_dir: Option<PathBuf>,
    task_timeout: Option<Duration>,
    start_timeout: Duration,
    exit_timeout: Duration,
    cancel_grace: Duration,
    restart: RestartPolicy,
    output: Output,
    queue_limit: Option<usize>,
    frame_limit: u32,
    core_dumps: bool,
    terminate_on_signals: bool,
    pub(crate) sharing: Offer,
    transport: Transport,
    start: StartMethod,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            name: "pool".to_owned(),
            workers: None,
            spares: 0,
            worker: WorkerExe::current(),
            env: Vec::new(),
            current_dir: None,
            task_timeout: None,
            start_timeout: Duration::from_secs(10),
            exit_timeout: Duration::from_secs(5),
            cancel_grace: Duration::from_millis(100),
            restart: RestartPolicy::default(),
            output: Output::Forward,
            queue_limit: None,
            frame_limit: pool_ipc::DEFAULT_FRAME_LIMIT,
            core_dumps: false,
            terminate_on_signals: false,
            sharing: Offer::default(),
            transport: Transport::default(),
            start: StartMethod::default(),
        }
    }

    /// The name that `ps`, traces and messages show. Default: `pool`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many workers. Default: the available parallelism, which honours CPU affinity and cgroup quotas.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// How many workers more are kept ready, without tasks, to take the place of one that dies or is killed. Default: 0.
    ///
    /// Starting a worker takes a millisecond or more; a spare takes over at once. Each costs the memory of an idle worker, and
    /// no processor time.
    pub fn spares(mut self, spares: usize) -> Self {
        self.spares = spares;
        self
    }

    /// Which program the workers run. Default: this one.
    pub fn worker(mut self, worker: WorkerExe) -> Self {
        self.worker = worker;
        self
    }

    /// Sets an environment variable for the workers. They inherit all others from this program.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Removes an environment variable for the workers.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// The working directory of the workers. Default: that of this program.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Time limit of every task that has none of its own, counted from its start. Default: none.
    pub fn task_timeout(mut self, limit: Duration) -> Self {
        self.task_timeout = Some(limit);
        self
    }

    /// How long a worker may take from its start to its first report, and to take up a task that it has been given.
    /// Default: 10 s.
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.start_timeout = limit;
        self
    }

    /// How long a worker may take to exit when it is asked to. Default: 5 s.
    pub fn exit_timeout(mut self, limit: Duration) -> Self {
        self.exit_timeout = limit;
        self
    }

    /// How long a running task that was cancelled, aborted or timed out may take to notice, through
    /// [`TaskContext::is_cancelled`](crate::TaskContext::is_cancelled), before its worker is killed. Default: 100 ms.
    ///
    /// The handle does not wait for that: it has its error at once.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// How workers that die without running a task are replaced, and when the pool gives up.
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }

    /// What happens to the lines that workers print. Default: they are forwarded.
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Most single tasks that may wait besides those that could run, one for each worker. Default: no limit.
    ///
    /// With more, [`apply`](Pool::apply) and [`apply_async`](Pool::apply_async) wait until one has ended, and
    /// [`try_apply_async`](Pool::try_apply_async) gives the call back. Batches bound themselves, and do not count. Callbacks may
    /// submit to a full queue; wakers of futures must not, as they must not wait for the pool in any other way.
    pub fn queue_limit(mut self, waiting: usize) -> Self {
        self.queue_limit = Some(waiting);
        self
    }

    /// Most bytes that the arguments of a task, or its result, may have when encoded. Default: 1 GiB.
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.frame_limit = bytes;
        self
    }

    /// How worker processes are started. Default: each is spawned.
    pub fn start(mut self, method: StartMethod) -> Self {
        self.start = method;
        self
    }

    /// Whether workers may dump core. Default: no (`RLIMIT_CORE` is 0).
    pub fn core_dumps(mut self, allowed: bool) -> Self {
        self.core_dumps = allowed;
        self
    }

    /// Whether SIGINT (Ctrl-C) and SIGTERM end this pool before they end the program. Default: no, they end the program at
    /// once, and the workers with it.
    ///
    /// Every task ends with [`TaskError::Interrupted`](crate::TaskError::Interrupted), the workers are killed, and then the
    /// signal does what it does by default: half a second later, so that `main` can report, or when the program exits, which
    /// ends it by the signal and not with a status of its own. A second signal does so at once. Handlers of the program's own
    /// go on to be called. A signal that the program ignores when the pool is built stays ignored, and in a worker, for a pool
    /// inside a pool, this setting does nothing: the workers of inner pools die with their worker.
    ///
    /// The handlers, and a thread that waits for them, are made with the first such pool, and stay for the life of the program.
    ///
    /// ```no_run
    /// use pool_core::{Pool, TaskError, task};
    ///
    /// #[task]
    /// fn simulate(seed: u64) -> f64 {
    ///     seed as f64
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// pool_core::init();
    /// let pool = Pool::builder().terminate_on_signals(true).build()?;
    /// match pool.map(simulate, 0..1_000_000) {
    ///     Ok(results) => println!("{} results", results.len()),
    ///     Err(failed) => match failed.error {
    ///         TaskError::Interrupted { .. } => eprintln!("stopped after {} runs", failed.completed),
    ///         other => return Err(other.into()),
    ///     },
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn terminate_on_signals(mut self, handled: bool) -> Self {
        self.terminate_on_signals = handled;
        self
    }

    /// Makes the pool, and starts its workers. It does not wait for them: tasks can be submitted at once.
    ///
    /// # Errors
    /// [`BuildError`] when a setting is wrong, the worker executable cannot be opened or executed,
    /// [`pool_core::init()`](crate::init) has not been called, or the operating system refuses a thread or a descriptor. A
    /// worker executable that turns out to be none breaks the pool instead
    /// ([`TaskError::PoolBroken`](crate::TaskError::PoolBroken)).
    pub fn build(self) -> Result<Pool, BuildError> {
        let depth = init::depth().ok_or(BuildError::NotInitialised)?;
        if depth >= MAX_DEPTH {
            return Err(BuildError::TooDeep { depth, limit: MAX_DEPTH });
        }
        let (workers, spares) = self.check()?;
        stdio::plug().map_err(|source| BuildError::Os {
            what: "open /dev/null in place of a closed standard stream",
            source,
        })?;
        let exe = self.worker.open()?;
        let executable = exe.shown.display().to_string();

        let signals = match self.terminate_on_signals && depth == 0 {
            true => {
                Some(signals::prepare().map_err(|source| BuildError::Os { what: "handle signals", source })?)
            }
            false => None,
        };
        let shared = self.sharing.seal()?;
        let os = |what| move |source: nix::errno::Errno| BuildError::Os { what, source: source.into() };
        let epoll =
            Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(os("create an epoll instance"))?);
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(os("create an eventfd"))?;
        let wake = Arc::new(wake);
        let timer = process::timer().map_err(|source| BuildError::Os { what: "create a timer", source })?;
        let watch = os("watch a descriptor");
        epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE)).map_err(watch)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER)).map_err(watch)?;

        let lead = Arc::new(Lead::new(&epoll).map_err(os("create an epoll instance"))?);
        let config = Config {
            workers,
            executable: executable.clone(),
            restart: self.restart.bounded(),
            start_timeout: bounded(self.start_timeout),
            exit_timeout: bounded(self.exit_timeout),
            cancel_grace: bounded(self.cancel_grace),
            claim_timeout: bounded(self.start_timeout),
            ahead: AHEAD,
            wake: WAKE_UP,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            unpaced: UNPACED,
            prefetch: PREFETCH,
            prefetch_bytes: PREFETCH_BYTES,
            ticket_window: pool_ipc::SLOTS as u64,
            seed: pool_ipc::now_ns() ^ u64::from(std::process::id()) << 32,
        };
        let wake_up = {
            let wake = Arc::clone(&wake);
            Arc::new(move || {
                // A full counter means that the reactor is being woken anyway.
                let _ = wake.write(1);
            })
        };
        let now = Instant::now();
        let engine = Engine::new(Parts {
            machine: Machine::new(config, now).with_spares(spares, now),
            epoll: Arc::clone(&epoll),
            lead,
            timer,
            forwarder: Forwarder::new(self.output, self.name.clone(), wake_up),
            executable,
            pool: self.name.clone(),
            frame_limit: self.frame_limit,
        });
        let launcher = Launcher {
            exe,
            pool: self.name.clone(),
            env: self.env,
            current_dir: self.current_dir,
            depth,
            frame_limit: self.frame_limit,
            core_dumps: self.core_dumps,
            transport: self.transport,
            start: self.start,
            zygote: Mutex::default(),
            shared,
        };
        let gate = Gate::new(self.queue_limit, workers as usize);
        let shared = Arc::new(Shared::new(engine, wake, epoll, self.name.clone(), launcher, gate));
        // The spawns that the machine wants from the start are waiting when the thread begins.
        shared.with(|_, _| ());
        let reactor = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("{}-reactor", self.name))
                .spawn(move || reactor::run(&shared))
        };
        if let Some(place) = signals {
            place.take(&shared);
        }
        let reactor =
            reactor.map_err(|source| BuildError::Os { what: "start the reactor thread", source })?;
        Ok(Pool::assemble(shared, reactor, workers as usize, PREFETCH, self.task_timeout))
    }

    /// Checks the settings, and returns the number of workers.
    /// How tasks and results travel; rings in shared memory by default.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    fn check(&self) -> Result<(u32, u32), BuildError> {
        let wrong = |setting, why: String| Err(BuildError::Setting { setting, why });
        let workers = match self.workers {
            Some(0) => return Err(BuildError::NoWorkers),
            Some(workers) => workers,
            // Where the system does not tell, one worker is right for sure.
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let most = MAX_WORKERS as usize;
        if workers > most {
            return wrong("workers", format!("{workers} are too many, {MAX_WORKERS} is the limit"));
        }
        if self.spares > most - workers {
            let with = format!("{} with {workers} workers are too many", self.spares);
            return wrong("spares", format!("{with}, {MAX_WORKERS} of both is the limit"));
        }
        if self.name.is_empty() || self.name.contains('\0') {
            return wrong("name", format!("{:?} is empty or contains a NUL", self.name));
        }
        for (name, value) in &self.env {
            let bad = |text: &OsStr| text.as_bytes().contains(&0);
            if name.is_empty()
                || name.as_bytes().contains(&b'=')
                || bad(name)
                || value.as_deref().is_some_and(bad)
            {
                return wrong(
                    "env",
                    format!("{name:?} is empty, or contains `=` or a NUL, or its value does"),
                );
            }
        }
        if let Some(dir) = self.current_dir.as_ref().filter(|dir| !dir.is_dir()) {
            return wrong("current_dir", format!("{} is no directory", dir.display()));
        }
        if (self.frame_limit as usize) < 4096 {
            return wrong(
                "frame_limit",
                format!("{} bytes are too few, 4096 is the least", self.frame_limit),
            );
        }
        if self.start_timeout.is_zero() {
            return wrong("start_timeout", "no worker can start in no time".to_owned());
        }
        let mut names = HashSet::new();
        if let Some(twice) = crate::task::table().iter().find(|task| !names.insert(task.name)) {
            return Err(BuildError::DuplicateTask { name: twice.name.to_owned() });
        }
        Ok((workers as u32, self.spares as u32))
    }
}
