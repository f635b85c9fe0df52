//! How a process becomes a worker.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pool_ipc::{BOOT_ENV, Boot, Hello, Kind, Region, TaskDecl, Unfit, WorkerEnds};

use crate::sharing;
use crate::supervisor::launch::{self, DEPTH_ENV, LIFELINE, PASSING};
use crate::supervisor::zygote::{ZYGOTE_BOOT, title};
use crate::sys::confine::CpuTimer;
use crate::sys::{build_id, cpus, process, setup};
use crate::task;
use crate::worker::parcels::Parcels;
use crate::worker::wire::{Inlet, Outlet};
use crate::worker::{confine, panics, serve, zygote};

/// 0: `init` has not been called; otherwise the depth of this process plus one.
static STATE: AtomicU32 = AtomicU32::new(0);

/// Makes this process ready for pools; in a process that a pool has launched, works for that pool and never returns.
///
/// It must be the first line of `main`: what comes before it runs in every worker too. Calling it again does nothing. A program that never calls it cannot build a pool:
/// [`Builder::build`](crate::Builder::build) fails, in a launched copy of it too, so nothing is launched without end.
///
/// ```
/// # #[expect(clippy::needless_doctest_main, reason = "main is the point")]
/// fn main() {
///     pool_core::init();
///     // … the program
/// }
/// ```
///
/// # With an async runtime
/// `#[tokio::main]` starts its runtime before the first line of `main`, so each worker would start one, too, for nothing, and a
/// task could not start one of its own. Start it by hand:
///
/// ```no_run
/// # struct Runtime;
/// # impl Runtime {
/// #     fn new() -> std::io::Result<Self> { Ok(Self) }
/// #     fn block_on<E>(&self, _: impl Future<Output = Result<(), E>>) -> Result<(), E> { Ok(()) }
/// # }
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     pool_core::init();
///     Runtime::new()?.block_on(run()) // tokio::runtime::Runtime, or that of smol, …
/// }
///
/// async fn run() -> Result<(), Box<dyn std::error::Error>> {
///     // … `handle.await`
///     Ok(())
/// }
/// ```
///
/// # Panics
/// Never. A worker that cannot start says why on its stderr and exits with status 1, which its pool reports.
pub fn init() {
    if STATE.load(Ordering::Acquire) != 0 {
        return;
    }
    if is_launched() {
        if !setup::on_main_thread() {
            fail_to_start(
                "pool_core::init() was called on a thread other than the main one; in a program of #[test] functions, use \
                 `pool_core::test_worker!();` at the root of the test crate instead",
            );
        }
        let is_forked = is_zygote();
        if is_forked && let Err(error) = zygote::run() {
            fail_to_start(&error.to_string());
        }
        match become_worker(is_forked) {
            Ok((boot, hello, region, inlet, outlet, parcels, cpu)) => {
                serve::serve(&boot, &hello, &region, inlet, outlet, parcels, cpu)
            }
            Err(error) => fail_to_start(&error.to_string()),
        }
    }
    let depth = std::env::var(DEPTH_ENV).ok().and_then(|depth| depth.parse::<u32>().ok()).unwrap_or(0);
    STATE.store(depth.saturating_add(1), Ordering::Release);
}

fn fail_to_start(why: &str) -> ! {
    // Not `eprintln!`, which a test harness keeps to itself. If there is no stderr, the exit status has to do.
    let _ = writeln!(io::stderr(), "pool worker cannot start: {why}");
    std::process::exit(1)
}

/// Whether a pool has launched this process, and it has not become a worker yet.
fn is_launched() -> bool {
    LAUNCHED.load(Ordering::Acquire)
        || (std::env::var_os(BOOT_ENV).is_some() && pool_ipc::boot::is_boot_socket(io::stdin().as_fd()))
}

/// Whether a launched process is to fork workers, and not to be one.
fn is_zygote() -> bool {
    ZYGOTE.load(Ordering::Acquire) || std::env::var_os(BOOT_ENV).is_some_and(|value| value == ZYGOTE_BOOT)
}

/// Called before `main`: remembers that a pool has launched this process, and closes what it has inherited, whatever `main`
/// does until it calls [`init`]. What `main` opens by then stays open: threads that it has started may use it.
pub(crate) fn note_launch() {
    LAUNCHED.store(is_launched(), Ordering::Release);
    ZYGOTE.store(is_launched() && is_zygote(), Ordering::Release);
    if is_launched() {
        close_inherited();
    }
}

/// Closes what this process has inherited, unless that has been done: what is open by then may be its own.
pub(super) fn close_inherited() {
    if !CLOSED.swap(true, Ordering::AcqRel) {
        setup::close_inherited();
    }
}

/// How deeply this process is nested; `None` before [`init`].
pub(crate) fn depth() -> Option<u32> {
    STATE.load(Ordering::Acquire).checked_sub(1)
}

/// A pool has launched this process.
static LAUNCHED: AtomicBool = AtomicBool::new(false);
/// What it has inherited has been closed.
static CLOSED: AtomicBool = AtomicBool::new(false);
/// It is to be a zygote.
static ZYGOTE: AtomicBool = AtomicBool::new(false);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

type Ready = (Boot, Vec<u8>, Region, Inlet, Outlet, Parcels, Option<CpuTimer>);

fn become_worker(is_forked: bool) -> Result<Ready> {
    LAUNCHED.store(false, Ordering::Release);
    setup::remove_env(BOOT_ENV);
    match is_forked {
        // What is open is the zygote's.
        true => setup::close_inherited(),
        false => close_inherited(),
    }
    let (boot, ends) = pool_ipc::boot::receive(io::stdin().as_fd())?;
    let parcels = match pool_ipc::boot::receive_descriptor(io::stdin().as_fd(), false)? {
        Some((PASSING, socket)) => Parcels::new(socket),
        _ => return Err("the boot message came without the socket for large payloads".into()),
    };
    let lifeline = match pool_ipc::boot::receive_descriptor(io::stdin().as_fd(), false)? {
        Some((LIFELINE, lifeline)) => lifeline,
        _ => return Err("the boot message came without the lifeline".into()),
    };
    sharing::receive(io::stdin().as_fd())?;
    // From here on the death of the supervisor is noticed.
    setup::die_with_parent()?;
    if let Err(error) = setup::hang_on(lifeline) {
        serve::complain(&format!(
            "has no lifeline ({error}): if its supervisor is killed, only the death signal ends it"
        ));
    }
    setup::reset_signals();
    setup::null_stdin()?;
    if let Err(error) = setup::leave_terminal() {
        serve::complain(&format!(
            "keeps its terminal ({error}): a task that asks something there is stopped"
        ));
    }
    // There is one thread: all that are started later have the same.
    if !boot.cpus.is_empty() {
        cpus::bind_to(&boot.cpus).map_err(|error| {
            format!("it cannot be bound to the CPUs {:?} (`Builder::cpu_affinity`): {error}", boot.cpus)
        })?;
    }
    setup::set_name(&boot.pool);
    if is_forked {
        setup::replace_title(&title(&boot.pool), &launch::title(&boot.pool, boot.worker));
    }
    setup::line_buffer_c_stdout();
    if !boot.core_dumps {
        setup::forbid_core_dumps()?;
    }
    prefer_for_oom(boot.oom_score_adj);
    let WorkerEnds { tasks, results, region } = ends;
    let region = Region::open(region.as_fd())?;
    let tasks: &'static OwnedFd = Box::leak(Box::new(tasks));
    let (task_ring, result_ring) = match boot.ring {
        true => {
            let (tasks, results) = region.worker();
            (Some(tasks), Some(results))
        }
        false => (None, None),
    };
    let inlet = Inlet::new(boot.frame_limit, task_ring, region.board(), tasks);
    let results: &'static OwnedFd = Box::leak(Box::new(results));
    serve::note_result_pipe(results);
    let mut outlet = Outlet::new(result_ring, results, tasks);
    if boot.nice != 0
        && let Err(error) = setup::renice(boot.nice)
    {
        let why = format!("{} cannot be added to its niceness (`Builder::nice`): {error}", boot.nice);
        return Err(unfit(&mut outlet, why));
    }
    let cpu = confine::limit(&boot.confinement).map_err(|why| unfit(&mut outlet, why))?;
    panics::install_hook();
    STATE.store(boot.depth.saturating_add(1), Ordering::Release);
    let hello = hello()?;
    confine::enter(&boot.confinement).map_err(|why| unfit(&mut outlet, why))?;
    Ok((boot, hello, region, inlet, outlet, parcels, cpu))
}

/// Says that no other worker would fare better, so that the pool does not try.
fn unfit(outlet: &mut Outlet, why: String) -> Box<dyn std::error::Error> {
    match (Unfit { state: String::new(), why: why.clone() }).encode() {
        Ok(notice) => {
            outlet.send(Kind::Unfit, 0, &notice);
            outlet.run_low();
            why.into()
        }
        Err(error) => error.into(),
    }
}

fn hello() -> Result<Vec<u8>> {
    let declare =
        |task: &task::TaskEntry| TaskDecl { name: task.name.into(), signature: task.signature.into() };
    let hello = Hello {
        pid: std::process::id(),
        build_id: build_id::build_id(),
        executable: std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default(),
        base_max_rss: process::own_max_rss(),
        tasks: task::table().iter().map(declare).collect(),
    };
    Ok(hello.encode()?)
}

/// Makes the kernel's OOM killer prefer this worker over its supervisor. Raising the score needs no privilege; where
/// `/proc` is missing, there is nothing to be done.
fn prefer_for_oom(by: i32) {
    let Ok(file) = File::options().read(true).write(true).open("/proc/self/oom_score_adj") else { return };
    let mut text = [0; 16];
    let len = file.read_at(&mut text, 0).unwrap_or(0);
    let own =
        std::str::from_utf8(&text[..len]).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0_i32);
    // Not allowed, or confined: then it has the score that it has.
    let _ = file.write_at(own.saturating_add(by).min(1000).to_string().as_bytes(), 0);
}
