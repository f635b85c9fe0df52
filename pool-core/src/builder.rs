//! Making a pool.

mod building;
mod checks;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use crate::events::{Hook, WorkerEvent};
use crate::executable::WorkerExe;
use crate::limits::WorkerLimits;
use crate::output::Output;
use crate::policy::RestartPolicy;
use crate::sandbox::Sandbox;
use crate::sharing::Offer;
use crate::start_method::StartMethod;
use crate::state::{StateEntry, WorkerState};
use crate::supervisor::launch::WorkerEnv;
use crate::transport::Transport;

/// How deeply pools may be nested: a task may build a pool whose tasks build pools, and so on.
pub const MAX_DEPTH: u32 = 4;
/// The settings of a [`Pool`](crate::Pool).
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
    min_workers: Option<usize>,
    idle_timeout: Option<Duration>,
    spares: usize,
    max_tasks_per_worker: Option<u64>,
    recycle_jitter: u64,
    recycle_overlap: bool,
    worker: WorkerExe,
    env: Vec<(OsString, Option<OsString>)>,
    worker_env: Option<WorkerEnv>,
    inner_threads: Option<usize>,
    current_dir: Option<PathBuf>,
    nice: i32,
    cpu_affinity: Option<Vec<Vec<usize>>>,
    states: Vec<StateEntry>,
    recycle_above: Option<u64>,
    memory_limit: Option<u64>,
    limits: WorkerLimits,
    sandbox: Option<Sandbox>,
    task_timeout: Option<Duration>,
    start_timeout: Duration,
    init_timeout: Duration,
    exit_timeout: Duration,
    cancel_grace: Duration,
    restart: RestartPolicy,
    output: Output,
    queue_limit: Option<usize>,
    insights: bool,
    on_event: Option<Hook>,
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
            min_workers: None,
            idle_timeout: None,
            spares: 0,
            max_tasks_per_worker: None,
            recycle_jitter: 0,
            recycle_overlap: true,
            worker: WorkerExe::current(),
            env: Vec::new(),
            worker_env: None,
            inner_threads: None,
            current_dir: None,
            nice: 0,
            cpu_affinity: None,
            states: Vec::new(),
            recycle_above: None,
            memory_limit: None,
            limits: WorkerLimits::new(),
            sandbox: None,
            task_timeout: None,
            start_timeout: Duration::from_secs(10),
            init_timeout: Duration::from_secs(60),
            exit_timeout: Duration::from_secs(5),
            cancel_grace: Duration::from_millis(100),
            restart: RestartPolicy::default(),
            output: Output::Forward,
            queue_limit: None,
            insights: false,
            on_event: None,
            frame_limit: pool_ipc::DEFAULT_FRAME_LIMIT,
            core_dumps: false,
            terminate_on_signals: false,
            sharing: Offer::default(),
            transport: Transport::default(),
            start: StartMethod::default(),
        }
    }

    /// The name that `ps`, traces and messages show, of 4096 bytes at most. Default: `pool`.
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

    /// Lets the pool have fewer workers while it has little to do. Default: as many as [`workers`](Self::workers).
    ///
    /// It starts with so many. While more tasks have not ended than there are workers, none of these is idle, and they will
    /// need more than 5 ms (about what it takes to start a worker) for what waits, by the pace of the latest tasks or because
    /// nothing has ended for so long, it starts more, up to `workers`: as many as it takes to have it done within that time.
    /// Those that have been idle for [`idle_timeout`](Self::idle_timeout) exit. With 0 an unused pool has no process, and its next
    /// task waits for one to start.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::builder()
    ///     .workers(16)
    ///     .min_workers(1)
    ///     .idle_timeout(Duration::from_secs(30))
    ///     .build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    pub fn min_workers(mut self, workers: usize) -> Self {
        self.min_workers = Some(workers);
        self
    }

    /// After how long without tasks a worker exits, if there are more than [`min_workers`](Self::min_workers). Default: 10 s.
    ///
    /// Without `min_workers` it has no effect.
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle_timeout = Some(idle);
        self
    }

    /// Has each worker process run so many tasks at most, and then be replaced: for code that leaks. 0 counts as 1. Default:
    /// no limit.
    ///
    /// While there is work a process runs exactly so many, less the [jitter](Self::recycle_jitter). Every attempt of a
    /// task counts. Running tasks are never interrupted for this, and the successor starts before the old process has
    /// finished its last task; see [`recycle_overlap`](Self::recycle_overlap).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::builder()
    ///     .workers(8)
    ///     .max_tasks_per_worker(1000)
    ///     .recycle_jitter(100)
    ///     .build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.max_tasks_per_worker = Some(tasks);
        self
    }

    /// Has each process exit up to so many tasks earlier, at random, so that not all are replaced at once. Default: 0.
    ///
    /// Only with [`max_tasks_per_worker`](Self::max_tasks_per_worker); every process runs one task at least.
    pub fn recycle_jitter(mut self, tasks: u64) -> Self {
        self.recycle_jitter = tasks;
        self
    }

    /// Whether the successor of a worker that is to be replaced starts while the old one still works. Default: yes.
    ///
    /// Then there are for a while more processes than workers, by a quarter at most or by one; no more tasks run at once. With
    /// `false` each process starts when the one before it has exited.
    pub fn recycle_overlap(mut self, overlap: bool) -> Self {
        self.recycle_overlap = overlap;
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

    /// Sets environment variables of each worker by its [index](crate::TaskContext::worker_index), after [`env`](Self::env).
    ///
    /// The function is called on a thread of the pool each time a worker is started, so a worker that replaces another in the
    /// same place is given what it returns for that place. If it panics, or a name cannot be one, the worker does not start.
    /// Not for [`StartMethod::Zygote`], whose workers share one environment.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::builder()
    ///     .workers(2)
    ///     .worker_env(|worker| [("CUDA_VISIBLE_DEVICES", worker.to_string())])
    ///     .build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    pub fn worker_env<K, V, E>(mut self, of: impl Fn(usize) -> E + Send + Sync + 'static) -> Self
    where
        E: IntoIterator<Item = (K, V)>,
        K: AsRef<OsStr>,
        V: AsRef<OsStr>,
    {
        self.worker_env = Some(WorkerEnv::new(move |worker| {
            let owned = |(name, value): (K, V)| (name.as_ref().to_owned(), value.as_ref().to_owned());
            of(worker).into_iter().map(owned).collect()
        }));
        self
    }

    /// How many threads the numeric libraries in each worker may use: sets the environment variables that OpenMP, OpenBLAS,
    /// MKL, BLIS, Accelerate, Numba, NumExpr and Rayon read when they start. Default: what they find in the environment.
    ///
    /// A variable that [`env`](Self::env) sets or [`env_remove`](Self::env_remove) removes is left to these.
    pub fn inner_threads(mut self, threads: usize) -> Self {
        self.inner_threads = Some(threads);
        self
    }

    /// Binds workers to CPUs: the one with the [index](crate::TaskContext::worker_index) `i` to the set `i mod n` of the `n`
    /// sets. Default: each runs wherever this program may.
    ///
    /// The CPUs must be among those that this program may use when the pool is built.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::builder().workers(2).cpu_affinity([[0, 1], [2, 3]]).build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "sched_setaffinity")]
    pub fn cpu_affinity<S: AsRef<[usize]>>(mut self, sets: impl IntoIterator<Item = S>) -> Self {
        self.cpu_affinity = Some(sets.into_iter().map(|set| set.as_ref().to_vec()).collect());
        self
    }

    /// Adds this to the niceness of the workers, from −20 to 19; what is above 19 counts as 19. Default: 0.
    ///
    /// Less than 0 needs a privilege (`CAP_SYS_NICE`, or a limit `RLIMIT_NICE` that allows it). Where this program does not have
    /// it, [`build`](Self::build) fails; where a worker turns out not to have it, the pool breaks.
    pub fn nice(mut self, by: i32) -> Self {
        self.nice = by;
        self
    }

    /// The working directory of the workers. Default: that of this program.
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(dir.into());
        self
    }

    /// Time limit of every task that has none of its own, counted from its start. Default: none.
    ///
    /// A single call is exempted with [`timeout(Duration::MAX)`](crate::Call::timeout).
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

    /// Has every worker build this state when it starts, before it is ready, and not only when a task needs it.
    ///
    /// Some task of the worker executable must have the parameter `#[state] _: &mut S`, or the pool breaks.
    pub fn state<S: WorkerState>(mut self) -> Self {
        self.states.push(StateEntry::of::<S>());
        self
    }

    /// How long a worker may take to build a [state](crate::WorkerState). Default: 60 s.
    ///
    /// A worker that takes longer is killed and replaced; no task is blamed. If the state has never been built in any worker,
    /// or if it costs more workers in a row than [`RestartPolicy::max_restarts`] allows, the pool is broken.
    pub fn init_timeout(mut self, limit: Duration) -> Self {
        self.init_timeout = limit;
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

    /// Has a worker replaced whose private memory exceeds so many bytes, after the task that it runs. Default: no limit.
    ///
    /// No task is interrupted; those that wait behind it are given to others. What counts as private, and when a worker is looked
    /// at, is as for [`memory_limit`](Self::memory_limit).
    ///
    /// ```no_run
    /// # fn main() -> Result<(), pool_core::BuildError> {
    /// let pool = pool_core::Pool::builder().recycle_above(512 << 20).memory_limit(2 << 30).build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    pub fn recycle_above(mut self, bytes: u64) -> Self {
        self.recycle_above = Some(bytes);
        self
    }

    /// Kills a worker whose private memory exceeds so many bytes. Default: no limit.
    ///
    /// The task that it runs ends with [`WorkerDied`](crate::TaskError::WorkerDied) and the cause
    /// [`MemoryLimit`](crate::DeathCause::MemoryLimit), or is retried if it allows that; other tasks are not affected. Private is
    /// what is resident and neither mapped from a file nor shared with another process, such as large arguments and results.
    ///
    /// A worker is looked at while it has tasks, every 5 to 100 ms and the more often the nearer it is to the limit, and once
    /// afterwards; so a task that allocates fast can exceed it for a moment.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Limits of what workers may use; see [`WorkerLimits`]. Default: none.
    ///
    /// Those that were given before are replaced; only a [`memory_limit`](Self::memory_limit) stays, unless these name one
    /// ([`WorkerLimits::memory`]).
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use pool_core::{Pool, WorkerLimits};
    ///
    /// # fn main() -> Result<(), pool_core::BuildError> {
    /// let limits = WorkerLimits::new().cpu_time(Duration::from_secs(10)).file_size(1 << 30);
    /// let pool = Pool::builder().limits(limits).build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    pub fn limits(mut self, limits: WorkerLimits) -> Self {
        self.memory_limit = limits.memory.or(self.memory_limit);
        self.limits = limits;
        self
    }

    /// What workers give up before their first task, for code that nobody trusts; see [`Sandbox`]. Default: nothing.
    ///
    /// ```no_run
    /// use pool_core::{Pool, Sandbox};
    ///
    /// # fn main() -> Result<(), pool_core::BuildError> {
    /// let pool = Pool::builder().sandbox(Sandbox::new()).build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
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
    /// With more, [`apply`](crate::Pool::apply) and [`apply_async`](crate::Pool::apply_async) wait until one has ended, and
    /// [`try_apply_async`](crate::Pool::try_apply_async) gives the call back. Batches bound themselves, and do not count. Callbacks may
    /// submit to a full queue; wakers of futures must not, as they must not wait for the pool in any other way.
    pub fn queue_limit(mut self, waiting: usize) -> Self {
        self.queue_limit = Some(waiting);
        self
    }

    /// Whether workers measure how long tasks wait and run, for [`Pool::insights`](crate::Pool::insights). Default: no.
    ///
    /// It costs a worker two looks at the clock for each task, some 50 ns. The encoded arguments of its five longest tasks are kept, up to
    /// 1 KiB each, and shown when they are asked for; see [`LongTask::arguments`](crate::LongTask::arguments).
    pub fn insights(mut self, measured: bool) -> Self {
        self.insights = measured;
        self
    }

    /// Has a function told what happens to workers: start, death, and what is between; see [`WorkerEvent`]. A second one
    /// replaces the first.
    ///
    /// It is called on a thread of its own, in the order of the events, and nobody waits for it, but for
    /// [`join`](crate::Pool::join), [`shutdown`](crate::Pool::shutdown), [`terminate`](crate::Pool::terminate) and the end of the pool: these wait
    /// until all events have been told, for one second at most. It may use the pool, and panic.
    ///
    /// ```no_run
    /// use pool_core::{Pool, WorkerEvent};
    ///
    /// # fn main() -> Result<(), pool_core::BuildError> {
    /// let pool = Pool::builder()
    ///     .on_worker_event(|event| {
    ///         if let WorkerEvent::Died(death) = event {
    ///             eprintln!("{death}");
    ///         }
    ///     })
    ///     .build()?;
    /// # drop(pool);
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_worker_event(mut self, function: impl Fn(&WorkerEvent) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Hook::new(function));
        self
    }

    /// Most bytes that the arguments of a task, or its result, may have when encoded, 4096 at least. Default: 1 GiB.
    ///
    /// What workers say besides has bounds of its own: 8 MiB for the list of their tasks, 192 KiB for the report of a panic,
    /// 64 KiB for an exit value.
    pub fn frame_limit(mut self, bytes: u32) -> Self {
        self.frame_limit = bytes;
        self
    }

    /// How worker processes are started. Default: each is spawned.
    pub fn start(mut self, method: StartMethod) -> Self {
        self.start = method;
        self
    }

    /// Whether workers may dump core. Default: no, neither to a file nor to a program (`RLIMIT_CORE` is 1, see core(5)).
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

    /// How tasks and results travel; rings in shared memory by default.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }
}
