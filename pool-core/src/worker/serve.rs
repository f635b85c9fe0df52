//! The worker's loop: claim, run, answer.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pool_ipc::{Board, Boot, Failure, Fill, FrameReader, Kind, TaskHead, WorkerEnds, write_frame};

use crate::context::{CancelProbe, TaskContext};
use crate::fork::Origin;
use crate::ids::{TaskId, WorkerId};
use crate::state::States;
use crate::sys::setup;
use crate::task::{self, RunContext, RunError};
use crate::worker::panics;

/// A result buffer that has grown larger than this is given back.
const KEPT: usize = 1 << 20;

/// Exit status of a worker that cannot go on, for a reason that it has printed.
const GAVE_UP: i32 = 102;

/// Exit status of a worker that has found its claim board overwritten when it was about to start a task. The supervisor
/// learns from it that this task has not been started.
pub(crate) const SCRIBBLED: i32 = 103;

struct Worker {
    id: WorkerId,
    results: OwnedFd,
    board: Arc<Board>,
    frame_limit: usize,
    states: States,
    /// The ticket of the task that is running, for the cancel probe.
    current: Arc<AtomicU64>,
    probe: CancelProbe,
    output: Vec<u8>,
    /// This process, as opposed to one that a task has forked.
    origin: Origin,
}

/// Works until the supervisor says otherwise or is gone.
pub(super) fn serve(boot: &Boot, ends: WorkerEnds, board: Board) -> ! {
    let WorkerEnds { tasks, results, board: board_fd } = ends;
    drop(board_fd);
    let (board, current) = (Arc::new(board), Arc::new(AtomicU64::new(0)));
    let probe: CancelProbe = {
        let (board, current) = (Arc::clone(&board), Arc::clone(&current));
        Arc::new(move |_| board.cancel_requested(current.load(Ordering::Relaxed)))
    };
    // The watch thread uses the same descriptor, whose number is out of the way of task code.
    let tasks: &'static OwnedFd = Box::leak(Box::new(tasks));
    start_watch(tasks);
    let own = identity(tasks);
    let mut worker = Worker {
        id: WorkerId::new(boot.worker),
        results,
        board,
        frame_limit: boot.frame_limit as usize,
        states: States::new(),
        current,
        probe,
        output: Vec::new(),
        origin: Origin::here(),
    };
    let mut reader = FrameReader::new(boot.frame_limit);
    loop {
        loop {
            let frame = match reader.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => give_up(&error.to_string()),
            };
            match frame.kind {
                Kind::Task => worker.run(frame.ticket, &frame.payload),
                Kind::Retire => worker.retire(),
                other => give_up(&format!("an unexpected {other:?} frame")),
            }
        }
        match reader.fill(tasks.as_fd()) {
            Ok(Fill::Bytes(_)) => {}
            Ok(Fill::Eof) if identity(tasks) != own => give_up(
                "the task pipe is gone: has the task put something else in the place of descriptors that are not its own?",
            ),
            // The supervisor is gone.
            Ok(Fill::Eof) => setup::kill_own_group(),
            // Somebody has made the descriptor non-blocking: wait for it as for any other.
            Ok(Fill::WouldBlock) => wait_readable(tasks),
            Err(error) => give_up(&format!("cannot read tasks: {error}")),
        }
    }
}

impl Worker {
    fn run(&mut self, ticket: u64, payload: &[u8]) {
        if !self.board.claim(ticket, pool_ipc::now_ns()) {
            if !self.board.is_withdrawn(ticket) {
                // Skipping it would lose it, and running it might be the second time.
                complain("gives up: an earlier task has overwritten its claim board");
                std::process::exit(SCRIBBLED);
            }
            return;
        }
        let (head, arguments) = match TaskHead::split(payload) {
            Ok(split) => split,
            Err(error) => give_up(&error.to_string()),
        };
        self.current.store(ticket, Ordering::Relaxed);
        self.output.clear();
        let failure = self.call(&head, arguments);
        if self.origin.is_elsewhere() {
            // The task has forked, and this is the child: the worker's pipes are not its own.
            setup::leave();
        }
        self.current.store(0, Ordering::Relaxed);
        let written = match failure {
            None if self.output.len() <= self.frame_limit => self.write(Kind::Done, ticket, &self.output),
            None => {
                let message = format!(
                    "its result is {} bytes, over the limit of {} (frame_limit); raise it with `Builder::frame_limit`",
                    self.output.len(),
                    self.frame_limit,
                );
                self.fail(ticket, Failure::Encode(message))
            }
            Some(failure) => self.fail(ticket, failure),
        };
        match written {
            Ok(()) => {}
            // Nobody reads results any more.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => setup::kill_own_group(),
            Err(error) => give_up(&format!(
                "cannot write a result: {error} (has the task closed descriptors that are not its own?)"
            )),
        }
        self.board.finish(ticket);
        if self.output.capacity() > KEPT {
            self.output = Vec::new();
        }
    }

    /// Runs the task; its result is in `output` unless a failure is returned.
    fn call(&mut self, head: &TaskHead, arguments: &[u8]) -> Option<Failure> {
        let Some(entry) = usize::try_from(head.index).ok().and_then(|index| task::table().get(index)) else {
            return Some(Failure::UnknownTask { index: head.index });
        };
        let deadline = (head.timeout_ns > 0)
            .then(|| Instant::now().checked_add(Duration::from_nanos(head.timeout_ns)))
            .flatten();
        let context = TaskContext::new(
            self.id,
            TaskId::new(head.task),
            head.attempt,
            deadline,
            Arc::clone(&self.probe),
        );
        panics::forget();
        let (states, output) = (&mut self.states, &mut self.output);
        let run = AssertUnwindSafe(|| {
            (entry.run)(&mut RunContext { context: &context, states }, arguments, output)
        });
        match catch_unwind(run) {
            Ok(Ok(())) => None,
            Ok(Err(RunError::Decode(message))) => Some(Failure::Decode(message)),
            Ok(Err(RunError::Encode(message))) => Some(Failure::Encode(message)),
            Ok(Err(RunError::State(message))) => Some(Failure::State(message)),
            Err(payload) => {
                let report = panics::report(&*payload);
                // Dropping what was thrown, or states that were in use, may panic again; that must not end the worker.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
                let _ = catch_unwind(AssertUnwindSafe(|| self.states.clear()));
                Some(report)
            }
        }
    }

    fn write(&self, kind: Kind, ticket: u64, payload: &[u8]) -> std::io::Result<()> {
        write_frame(self.results.as_fd(), kind, ticket, &[payload])
    }

    fn fail(&self, ticket: u64, failure: Failure) -> std::io::Result<()> {
        let report = failure.bounded().encode().map_err(std::io::Error::other)?;
        self.write(Kind::Failed, ticket, &report)
    }

    fn retire(&mut self) -> ! {
        let states = &mut self.states;
        let _ = catch_unwind(AssertUnwindSafe(|| states.clear()));
        // The exit itself is the answer that counts, so nothing is lost with this frame.
        let _ = self.write(Kind::Bye, 0, &[]);
        std::process::exit(0)
    }
}

/// Watches for the end of the supervisor while the main thread is busy with a task.
fn start_watch(tasks: &'static OwnedFd) {
    let spawned =
        std::thread::Builder::new().name("pool-watch".to_owned()).stack_size(64 * 1024).spawn(move || {
            setup::unblock_signals();
            if setup::wait_for_hang_up(tasks.as_fd()).is_ok() {
                setup::kill_own_group();
            }
            // The task code has closed our descriptor: the death signal remains.
        });
    if let Err(error) = spawned {
        complain(&format!(
            "has no watch thread ({error}): if its supervisor is killed, only the death signal ends it"
        ));
    }
}

/// Which file a descriptor stands for.
fn identity(fd: &OwnedFd) -> Option<(u64, u64)> {
    nix::sys::stat::fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

fn wait_readable(fd: &OwnedFd) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // Whatever comes of it, the next read tells.
    let _ = poll(&mut fds, PollTimeout::NONE);
}

/// Says something on stderr, if there is one.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "pool worker {what}");
}

fn give_up(why: &str) -> ! {
    complain(&format!("gives up: {why}"));
    std::process::exit(GAVE_UP)
}
