//! Starting a worker process.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::epoll::Epoll;
use pool_ipc::boot::{send_descriptor, socket_pair};
use pool_ipc::{BOOT_ENV, Board, Boot, BootError, Gauges, Region, Wake, pipe_pair, set_nonblocking};

use crate::executable::OpenExe;
use crate::sharing::SHARED;
use crate::start_method::StartMethod;
use crate::supervisor::confined::{Confined, Confiner};
use crate::supervisor::event::Incarnation;
use crate::supervisor::link::Rings;
use crate::supervisor::zygote::{self, Forked, ZYGOTE_BOOT, Zygote};
use crate::sys::{process, stdio};
use crate::told::caught;
use crate::transport::Transport;

/// How deeply this process is nested: a worker of a pool of the main program is 1.
pub(crate) const DEPTH_ENV: &str = "POOL_WORKER_DEPTH";

/// The number of the socket for the descriptors of large payloads, which follows the boot message.
pub(crate) const PASSING: u64 = 0;
/// The number of the read end of the *lifeline*, which comes next: a pipe that nothing is written to, and whose hang-up means
/// that the supervisor is gone.
pub(crate) const LIFELINE: u64 = u64::MAX;

/// All that is needed to start workers of a pool.
#[derive(Debug)]
pub(crate) struct Launcher {
    pub(crate) exe: OpenExe,
    pub(crate) pool: String,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
    pub(crate) worker_env: Option<WorkerEnv>,
    pub(crate) nice: i32,
    /// The sets of CPUs that workers are bound to in turn; none to leave them where they are.
    pub(crate) cpu_affinity: Vec<Vec<usize>>,
    /// The states that a worker builds before it is ready.
    pub(crate) states: Vec<String>,
    pub(crate) current_dir: Option<PathBuf>,
    pub(crate) depth: u32,
    pub(crate) frame_limit: u32,
    pub(crate) core_dumps: bool,
    pub(crate) transport: Transport,
    pub(crate) start: StartMethod,
    /// Whether workers measure their tasks.
    pub(crate) measured: bool,
    /// Whether they mark which task prints what.
    pub(crate) marks: bool,
    /// Only the reactor takes the lock.
    pub(crate) zygote: Mutex<Zygote>,
    /// How workers are confined.
    pub(crate) confiner: Confiner,
    /// What all workers are given to read.
    pub(crate) shared: Option<pool_ipc::Sealed>,
}

/// Environment variables of a worker by its place.
#[derive(Clone)]
pub(crate) struct WorkerEnv(Arc<VariablesOf>);

type VariablesOf = dyn Fn(usize) -> Vec<(OsString, OsString)> + Send + Sync;

impl WorkerEnv {
    pub(crate) fn new(of: impl Fn(usize) -> Vec<(OsString, OsString)> + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    /// Asks the code of the program, which may panic.
    fn of(&self, worker: usize) -> io::Result<Vec<(OsString, OsString)>> {
        let variables = caught(|| self.0(worker))
            .ok_or_else(|| io::Error::other("the function given to `Builder::worker_env` panicked"))?;
        let is_name =
            |name: &OsStr| !name.is_empty() && !name.as_bytes().iter().any(|byte| b"=\0".contains(byte));
        match variables.iter().find(|(name, value)| !is_name(name) || value.as_bytes().contains(&0)) {
            Some((name, _)) => {
                let why = format!(
                    "`Builder::worker_env`: {name:?} is empty, or contains `=` or a NUL, or its value does"
                );
                Err(io::Error::new(io::ErrorKind::InvalidInput, why))
            }
            None => Ok(variables),
        }
    }
}

impl fmt::Debug for WorkerEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerEnv")
    }
}

/// A worker that has been started.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: u32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) board: Board,
    pub(crate) gauges: Gauges,
    /// Whether it marks which task prints what.
    pub(crate) marks: bool,
    pub(crate) rings: Option<Rings>,
    /// Where the descriptors of large payloads go to and come from.
    pub(crate) socket: OwnedFd,
    /// The worker and its process group are killed by the kernel when this is closed.
    pub(crate) lifeline: OwnedFd,
    /// Write end of the task pipe or doorbell, non-blocking.
    pub(crate) tasks: OwnedFd,
    /// Read end of the result pipe or doorbell, non-blocking.
    pub(crate) results: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// What is kept of its limits and its sandbox.
    pub(crate) confined: Confined,
}

/// A pipe for few bytes at a time: the end to read from, and the end to write to.
fn bell_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}

impl Launcher {
    /// Starts a worker: has the zygote fork it, or spawns it.
    ///
    /// All descriptors are close-on-exec. What the worker needs travels through a socket that is its standard input,
    /// where it is waiting before the worker exists.
    pub(crate) fn launch(&self, who: Incarnation) -> io::Result<Launched> {
        stdio::plug()?;
        let (region, region_fd) = Region::create()?;
        let rings = if self.transport == Transport::Rings {
            let (tasks, mut results) = region.supervisor();
            // Its hello is waited for by the reactor, which sleeps.
            results.arm(Wake::Each).map_err(io::Error::other)?;
            Some(Rings { tasks, results })
        } else {
            None
        };
        // Where there are rings, they carry bells only.
        let exchange = if rings.is_some() { bell_pair } else { pipe_pair };
        let (task_reader, tasks) = exchange()?;
        let (results, result_writer) = exchange()?;
        let (stdout, stdout_writer) = pipe_pair()?;
        let (stderr, stderr_writer) = pipe_pair()?;
        let (ours, theirs) = socket_pair()?;
        for fd in [&tasks, &results, &stdout, &stderr] {
            set_nonblocking(fd.as_fd())?;
        }
        let (confinement, confined) = self.confiner.prepare()?;
        // For the seals of the gauges: nothing that could be there by chance.
        let key = RandomState::new().hash_one(who.generation.get());
        let boot = Boot {
            pool: self.pool.clone(),
            worker: who.worker.get(),
            generation: who.generation.get(),
            depth: self.depth + 1,
            frame_limit: self.frame_limit,
            supervisor_pid: std::process::id(),
            measured: self.measured.then_some(key),
            marks: self.marks,
            core_dumps: self.core_dumps,
            oom_score_adj: 500,
            ring: rings.is_some(),
            nice: self.nice,
            cpus: self.cpus_of(who.index()),
            states: self.states.clone(),
            confinement,
        };
        pool_ipc::boot::send(
            ours.as_fd(),
            &boot,
            [task_reader.as_fd(), result_writer.as_fd(), region_fd.as_fd()],
        )
        .map_err(not_sent)?;
        // A socket of its own: the boot socket is closed on our side, so that a program that is no worker and reads its
        // standard input comes to its end.
        let (socket, their_socket) = socket_pair()?;
        send_descriptor(ours.as_fd(), PASSING, their_socket.as_fd())?;
        let (their_lifeline, lifeline) = bell_pair()?;
        send_descriptor(ours.as_fd(), LIFELINE, their_lifeline.as_fd())?;
        if let Some(fd) = self.shared.as_ref().and_then(|shared| shared.fd()) {
            send_descriptor(ours.as_fd(), SHARED, fd)?;
        }

        let forked = match self.start {
            StartMethod::Zygote => self.zygote().fork(
                &self.pool,
                theirs.as_fd(),
                stdout_writer.as_fd(),
                stderr_writer.as_fd(),
            )?,
            StartMethod::Spawn => None,
        };
        let (pid, pidfd) = match forked {
            Some(Forked { pid, pidfd }) => (pid, pidfd),
            None => {
                let mut command = self.command(&title(&self.pool, who.worker.get()), "1");
                if let Some(env) = &self.worker_env {
                    command.envs(env.of(who.index())?);
                    self.mark(&mut command, "1");
                }
                command.stdin(theirs).stdout(stdout_writer).stderr(stderr_writer);
                spawn(command).map_err(|error| self.explained(error))?
            }
        };
        Ok(Launched {
            pid,
            pidfd,
            board: region.board(),
            gauges: region.gauges(key),
            marks: self.marks,
            rings,
            socket,
            lifeline,
            tasks,
            results,
            stdout,
            stderr,
            confined,
        })
    }

    /// Makes a zygote if one is wanted and there is none.
    pub(crate) fn warm(&self, epoll: &Arc<Epoll>) {
        if self.start == StartMethod::Zygote {
            self.zygote().warm(&self.pool, epoll, |theirs| {
                let mut command = self.command(&zygote::title(&self.pool), ZYGOTE_BOOT);
                command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
                spawn(command)
            });
        }
    }

    /// The zygote may be dead.
    pub(crate) fn look(&self) {
        self.zygote().look(&self.pool);
    }

    /// Nothing more will be launched.
    pub(crate) fn end(&self) {
        self.zygote().end(&self.pool);
    }

    fn zygote(&self) -> MutexGuard<'_, Zygote> {
        self.zygote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says to a process of the worker executable what it is.
    fn mark(&self, command: &mut Command, boot: &str) {
        command.env(BOOT_ENV, boot).env(DEPTH_ENV, (self.depth + 1).to_string());
    }

    /// Says what has gone that was there when the pool was built.
    fn explained(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::NotFound {
            return error;
        }
        let gone = self.current_dir.iter().chain([&self.exe.launch]).find(|path| !path.exists());
        match gone {
            Some(path) => io::Error::new(error.kind(), format!("{} is not there: {error}", path.display())),
            None => error,
        }
    }

    fn cpus_of(&self, worker: usize) -> Vec<u32> {
        let set = worker.checked_rem(self.cpu_affinity.len()).map(|place| &self.cpu_affinity[place]);
        // Numbers of CPUs that exist, as was checked when the pool was built.
        set.into_iter().flatten().filter_map(|cpu| u32::try_from(*cpu).ok()).collect()
    }

    /// The command of a process of the worker executable, without its standard streams.
    fn command(&self, title: &str, boot: &str) -> Command {
        let mut command = Command::new(&self.exe.launch);
        command.arg0(title).args(&self.exe.args);
        if self.confiner.clears_env {
            command.env_clear();
        }
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        self.mark(&mut command, boot);
        if let Some(dir) = &self.current_dir {
            command.current_dir(dir);
        }
        command.process_group(0);
        command
    }
}

/// Why the boot message could not be sent, as the system has said it.
fn not_sent(error: BootError) -> io::Error {
    match error {
        BootError::Io { source, .. } => source,
        BootError::Message(why) => io::Error::new(io::ErrorKind::InvalidInput, why),
        other => io::Error::other(other),
    }
}

/// What `ps` shows of a worker.
pub(crate) fn title(pool: &str, worker: u32) -> String {
    format!("{pool}: worker {worker}")
}

/// Spawns a process on the posix_spawn(3) path of the standard library: no code of ours runs between fork and exec.
fn spawn(mut command: Command) -> io::Result<(u32, OwnedFd)> {
    let mut child = command.spawn()?;
    let pid = child.id();
    match process::pidfd_open(pid) {
        Ok(pidfd) => Ok((pid, pidfd)),
        Err(error) => {
            // Without a pidfd its death would go unnoticed: it must not live.
            let _ = child.kill();
            let _ = child.wait();
            Err(match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EPERM) => {
                    let why = "pidfd_open(2) is refused: it takes Linux 5.10 or later, and no seccomp filter against it";
                    io::Error::new(error.kind(), format!("{why}: {error}"))
                }
                _ => error,
            })
        }
    }
}

/// Whether a failed spawn may succeed later.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::ENOMEM
                | libc::ENOBUFS
                | libc::EMFILE
                | libc::ENFILE
                // Too many descriptors of this user are in sockets, on their way to somebody.
                | libc::ETOOMANYREFS
                | libc::EINTR
                | libc::ETXTBSY
        )
    )
}
