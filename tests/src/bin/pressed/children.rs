//! Children of which the program is not told, or that it may not signal, and children that are given to it.

use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{Pool, TaskError};
use pool_tests::{Part, expect_healthy, play as act, process, wait_until};
use pool_worker::drill;

use crate::{builder, say};

/// Attaches itself to processes as a debugger that never looks at them, until its standard input ends.
pub(crate) fn debugs(pids: &str) {
    for pid in pids.split(',') {
        let pid: libc::pid_t = pid.parse().expect("a number");
        // SAFETY: PTRACE_SEIZE takes integers, and touches no memory of ours.
        if unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } < 0 {
            return say(&format!("skipped: {pid} cannot be debugged: {}", std::io::Error::last_os_error()));
        }
    }
    say("attached");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
}

/// A debugger of a process; `None` if it cannot be one, and why has been said.
fn debugger_of(pid: u32) -> Option<(Child, ChildStdin)> {
    let program = std::env::current_exe().expect("Linux tells");
    let mut command = Command::new(program);
    command.args(["debugs", &pid.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("room for a child");
    let leash = child.stdin.take().expect("it is a pipe");
    let mut said = [0; 8];
    child.stdout.take().expect("it is a pipe").read_exact(&mut said).expect("it says something");
    if said == *b"attached" {
        return Some((child, leash));
    }
    drop(leash);
    say("skipped: no process can be debugged here");
    child.wait().expect("it is our child");
    None
}

fn busy(pool: &Pool) -> u32 {
    let find =
        || pool.workers().into_iter().find(|worker| worker.task.is_some()).and_then(|worker| worker.pid);
    wait_until("it runs", || find().is_some());
    find().expect("it has been seen")
}

/// The pool ends while a debugger still holds a worker that is dead.
pub(crate) fn debugged(worker: &Path) {
    for ends in ["join", "drop"] {
        let pool = builder(worker).build().expect("a pool");
        let task = pool.apply_async(drill::hang());
        let pid = busy(&pool);
        let Some((mut debugger, leash)) = debugger_of(pid) else { return };
        process::send(pid, Signal::SIGKILL);
        say(&task.get().expect_err("it hangs").to_string().replace(&pid.to_string(), "PID"));
        expect_healthy(&pool);
        if ends == "join" {
            pool.join();
        }
        drop(pool);
        say(&format!("{ends}: state {:?}", process::state(pid)));
        drop(leash);
        debugger.wait().expect("it is our child");
    }
}

/// Tasks leave children behind, and this program is the one that they are given to.
pub(crate) fn adopts(worker: &Path) {
    // SAFETY: the call takes integers.
    let asked = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    assert_eq!(asked, 0, "Linux has had it since 3.4");
    let pool = builder(worker).build().expect("a pool");
    wait_until("every worker is ready", || pool.stats().workers_ready == 2);
    let strangers = || {
        let workers: Vec<u32> = pool.workers().into_iter().filter_map(|worker| worker.pid).collect();
        // A zygote is a child, too.
        let is_left = |pid: &u32| !workers.contains(pid) && process::state(*pid) == Some('Z');
        process::children().into_iter().filter(is_left).count()
    };
    for then in ["exit", "segv"] {
        assert!(matches!(
            pool.apply(drill::grandchild(1000, then.to_owned())),
            Err(TaskError::WorkerDied(_))
        ));
        wait_until("the orphans are reaped", || strangers() == 0);
    }
    // Killed by the pool, and replaced before they are dead.
    let child = pool.apply(drill::grandchild(1000, "return".to_owned())).expect("it returns");
    let parent = process::parent(child).expect("it lives");
    let hangs: Vec<_> = (0..2).map(|_| pool.apply_async(drill::hang())).collect();
    wait_until("they run", || pool.workers().iter().all(|worker| worker.task.is_some()));
    hangs.iter().for_each(|task| task.cancel());
    wait_until("both are gone", || process::state(parent).is_none() && process::state(child).is_none());
    say("reaped");
    expect_healthy(&pool);
    drop(pool);
    say(&format!("{} children left", process::children().len()));
}

/// Makes the kernel one that has no such system call, for this program and what it starts; false, where that cannot be, and why has been said.
fn refuse(call: libc::c_long) -> bool {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, call as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which is valid for the call; the other call takes integers.
    let filtered = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    if !filtered {
        say(&format!("skipped: no filter of system calls: {}", std::io::Error::last_os_error()));
    }
    filtered
}

pub(crate) fn no_pidfd_signals(worker: &Path) {
    if !refuse(libc::SYS_pidfd_send_signal) {
        return;
    }
    let pool = builder(worker).build().expect("a pool");
    let task = pool.apply_async(act(1, Part::Hang).timeout(Duration::from_millis(300)));
    let pid = busy(&pool);
    say(&task.get().expect_err("it hangs").to_string());
    wait_until("it is gone", || process::state(pid).is_none());
    expect_healthy(&pool);
    drop(pool);
    say(&format!("{} children left", process::children().len()));
}

pub(crate) fn no_pidfds(worker: &Path) {
    if !refuse(libc::SYS_pidfd_open) {
        return;
    }
    let pool = builder(worker).build().expect("a pool");
    say(&pool.apply(act(1, Part::Innocent)).expect_err("no death could be noticed").to_string());
    drop(pool);
    say(&format!("{} children left", process::children().len()));
}
