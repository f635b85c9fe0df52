//! Starting a worker process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::epoll::Epoll;
use pool_ipc::boot::{send_descriptor, socket_pair};
use pool_ipc::{BOOT_ENV, Board, Boot, Gauges, Region, Wake, pipe_pair, set_nonblocking};

use crate::executable::OpenExe;
use crate::start_method::StartMethod;
use crate::supervisor::event::Incarnation;
use crate::supervisor::link::Rings;
use crate::supervisor::zygote::{self, Forked, ZYGOTE_BOOT, Zygote};
use crate::sys::{process, stdio};
use crate::transport::Transport;

/// How deeply this process is nested: a worker of a pool of the main program is 1.
pub(crate) const DEPTH_ENV: &str = "POOL_WORKER_DEPTH";

/// The number of the socket for the descriptors of large payloads, which follows the boot message.
pub(crate) const PASSING: u64 = 0;

/// All that is needed to start workers of a pool.
#[derive(Debug)]
pub(crate) struct Launcher {
    pub(crate) exe: OpenExe,
    pub(crate) pool: String,
    pub(crate) env: Vec<(OsString, Option<OsString>)>,
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
    /// Write end of the task pipe or doorbell, non-blocking.
    pub(crate) tasks: OwnedFd,
    /// Read end of the result pipe or doorbell, non-blocking.
    pub(crate) results: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
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
        let (task_reader, tasks) = pipe_pair()?;
        let (results, result_writer) = pipe_pair()?;
        let (stdout, stdout_writer) = pipe_pair()?;
        let (stderr, stderr_writer) = pipe_pair()?;
        let (ours, theirs) = socket_pair()?;
        for fd in [&tasks, &results, &stdout, &stderr] {
            set_nonblocking(fd.as_fd())?;
        }
        let boot = Boot {
            pool: self.pool.clone(),
            worker: who.worker.get(),
            generation: who.generation.get(),
            depth: self.depth + 1,
            frame_limit: self.frame_limit,
            supervisor_pid: std::process::id(),
            measured: self.measured,
            marks: self.marks,
            core_dumps: self.core_dumps,
            oom_score_adj: 500,
            ring: rings.is_some(),
        };
        pool_ipc::boot::send(
            ours.as_fd(),
            &boot,
            [task_reader.as_fd(), result_writer.as_fd(), region_fd.as_fd()],
        )
        .map_err(io::Error::other)?;
        // A socket of its own: the boot socket is closed on our side, so that a program that is no worker and reads its
        // standard input comes to its end.
        let (socket, their_socket) = socket_pair()?;
        send_descriptor(ours.as_fd(), PASSING, their_socket.as_fd())?;

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
                command.stdin(theirs).stdout(stdout_writer).stderr(stderr_writer);
                spawn(command)?
            }
        };
        Ok(Launched {
            pid,
            pidfd,
            board: region.board(),
            gauges: region.gauges(),
            marks: self.marks,
            rings,
            socket,
            tasks,
            results,
            stdout,
            stderr,
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

    /// The command of a process of the worker executable, without its standard streams.
    fn command(&self, title: &str, boot: &str) -> Command {
        let mut command = Command::new(&self.exe.launch);
        command.arg0(title).args(&self.exe.args);
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.env(BOOT_ENV, boot).env(DEPTH_ENV, (self.depth + 1).to_string());
        if let Some(dir) = &self.current_dir {
            command.current_dir(dir);
        }
        command.process_group(0);
        command
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
            Err(error)
        }
    }
}

/// Whether a failed spawn may succeed later.
pub(crate) fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EINTR | libc::ETXTBSY)
    )
}
