//! From settings to a pool that runs.

use std::ffi::OsString;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Builder, MAX_DEPTH};
use crate::error::BuildError;
use crate::events::Events;
use crate::gate::Gate;
use crate::output::{Forwarder, Output};
use crate::policy::bounded;
use crate::pool::Pool;
use crate::sandbox::Sandbox;
use crate::signals;
use crate::supervisor::cgroup::Groups;
use crate::supervisor::confined::Confiner;
use crate::supervisor::engine::seeing::Seeing;
use crate::supervisor::engine::weigh::Limits;
use crate::supervisor::engine::{Engine, Parts};
use crate::supervisor::launch::Launcher;
use crate::supervisor::lead::Lead;
use crate::supervisor::machine::{Config, Machine, Staffing};
use crate::supervisor::reactor;
use crate::supervisor::shared::Shared;
use crate::supervisor::token::{TIMER, WAKE};
use crate::sys::{process, setup, stdio};
use crate::worker::init;

/// After how long an idle worker exits, unless the builder says otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Builder {
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
        if self.nice < 0 && !setup::gains_privileges(&exe.launch) {
            self.try_nice()?;
        }
        let executable = exe.shown.display().to_string();

        let signals = match self.terminate_on_signals && depth == 0 {
            true => {
                Some(signals::prepare().map_err(|source| BuildError::Os { what: "handle signals", source })?)
            }
            false => None,
        };
        let staffing = self.staffing(workers);
        let confiner = self.confiner()?;
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
            staffing,
            executable: executable.clone(),
            restart: self.restart.bounded(),
            start_timeout: bounded(self.start_timeout),
            init_timeout: bounded(self.init_timeout),
            states: self.states.len(),
            exit_timeout: bounded(self.exit_timeout),
            cancel_grace: bounded(self.cancel_grace),
            claim_timeout: bounded(self.start_timeout),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            seed: pool_ipc::now_ns() ^ u64::from(std::process::id()) << 32,
            ..Config::of(workers)
        };
        let prefetch = config.prefetch;
        let wake_up = {
            let wake = Arc::clone(&wake);
            Arc::new(move || {
                // A full counter means that the reactor is being woken anyway.
                let _ = wake.write(1);
            })
        };
        let events = self.on_event.map(|hook| Events::start(&self.name, hook)).transpose();
        let events =
            events.map_err(|source| BuildError::Os { what: "start the thread for worker events", source })?;
        let now = Instant::now();
        let marks = matches!(self.output, Output::Capture(_));
        let engine = Engine::new(Parts {
            machine: Machine::new(config, now).with_spares(spares, now),
            epoll: Arc::clone(&epoll),
            lead,
            timer,
            forwarder: Forwarder::new(self.output, self.name.clone(), wake_up),
            executable,
            pool: self.name.clone(),
            frame_limit: self.frame_limit,
            seeing: Seeing::new(self.name.clone(), events, self.insights),
            limits: Limits {
                recycle: self.recycle_above,
                kill: self.memory_limit,
                processes: confiner.groups.as_ref().and_then(|groups| groups.processes()),
            },
        });
        let launcher = Launcher {
            exe,
            pool: self.name.clone(),
            env: self.inner_threads.map(thread_variables).into_iter().flatten().chain(self.env).collect(),
            worker_env: self.worker_env,
            nice: self.nice,
            cpu_affinity: self.cpu_affinity.unwrap_or_default(),
            states: self.states.iter().map(|state| state.name().to_owned()).collect(),
            current_dir: self.current_dir,
            depth,
            frame_limit: self.frame_limit,
            core_dumps: self.core_dumps,
            transport: self.transport,
            start: self.start,
            measured: self.insights,
            marks,
            zygote: Mutex::default(),
            confiner,
            shared,
        };
        let gate = Gate::new(self.queue_limit, workers as usize);
        let shared =
            Arc::new(Shared::new(engine, wake, epoll, self.name.clone(), workers as usize, launcher, gate));
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
        Ok(Pool::assemble(shared, reactor, prefetch, self.task_timeout))
    }

    /// Finds out whether workers can be confined as they are to be.
    fn confiner(&self) -> Result<Confiner, BuildError> {
        self.limits.check()?;
        let groups = Groups::find(&self.limits);
        Ok(Confiner {
            limits: self.limits.clone(),
            groups: groups.map_err(|why| BuildError::Setting { setting: "limits", why })?,
            jail: self.sandbox.as_ref().map(Sandbox::jail).transpose()?,
            clears_env: self.sandbox.as_ref().is_some_and(Sandbox::clears_env),
            has_scratch: self.sandbox.as_ref().is_some_and(Sandbox::has_scratch),
        })
    }

    fn staffing(&self, workers: u32) -> Staffing {
        // `check` has seen that it fits.
        let least = self.min_workers.map(|least| least as u32).filter(|least| *least < workers);
        Staffing {
            least,
            idle: self.min_workers.map(|_| bounded(self.idle_timeout.unwrap_or(IDLE_TIMEOUT))),
            quota: self.max_tasks_per_worker,
            jitter: self.recycle_jitter,
            overlap: self.recycle_overlap,
            weighs: self.recycle_above.is_some(),
        }
    }
}

/// The environment variables from which numeric libraries learn how many threads to use.
const THREAD_VARIABLES: [&str; 8] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
];

fn thread_variables(threads: usize) -> impl Iterator<Item = (OsString, Option<OsString>)> {
    THREAD_VARIABLES.iter().map(move |name| ((*name).into(), Some(threads.to_string().into())))
}
