//! Tasks that leave processes and threads behind, or bring pools of their own.

use std::process::Command;

use pool_core::{Pool, task};

use crate::drill::hangs::sleep_for_ever;
use crate::drill::values::echo_u64;
use crate::sys;

/// Starts `sleep` for this many seconds, with the worker's stdout and stderr and in its process group, and leaves it alone.
///
/// Then it does what `then` says: `"return"` the child's process id, `"exit"` with status 0, or `"segv"`.
#[task]
pub fn grandchild(seconds: u64, then: String) -> u32 {
    let child = match Command::new("sleep").arg(seconds.to_string()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("cannot start `sleep`: {error}"),
    };
    match then.as_str() {
        "return" => child.id(),
        "exit" => std::process::exit(0),
        "segv" => {
            sys::write_to_null();
            unreachable!("nothing can be written to address 0")
        }
        other => panic!("`{other}` is not one of \"return\", \"exit\", \"segv\""),
    }
}

/// Leaves a thread running for ever.
#[task]
pub fn orphan_thread() {
    let spawned = std::thread::Builder::new().name("orphan".to_owned()).spawn(|| sleep_for_ever());
    if let Err(error) = spawned {
        panic!("cannot start a thread: {error}");
    }
}

/// Builds a pool of this many workers inside the task, and returns 0, 1, …, n − 1 as its workers echo them.
#[task]
pub fn nested(workers: u64, n: u64) -> Vec<u64> {
    let pool = match Pool::builder().name("nested").workers(workers as usize).build() {
        Ok(pool) => pool,
        Err(error) => panic!("cannot build a pool inside a task: {error}"),
    };
    match pool.map(echo_u64, 0..n) {
        Ok(echoes) => echoes,
        Err(error) => panic!("the pool inside a task failed: {error}"),
    }
}

/// Forks, and exits with status 0, as a program does that makes itself a daemon. The child sleeps for ever; it has copies of
/// all descriptors, the worker's pipes included.
#[task]
pub fn fork_and_exit() {
    match sys::fork_a_sleeper() {
        Ok(_child) => sys::exit_now(0),
        Err(error) => panic!("cannot fork: {error}"),
    }
}

/// Forks, and returns in parent and child: true in the child, false in the parent. The child believes to be the worker.
#[task]
pub fn fork_and_return() -> bool {
    match sys::fork() {
        Ok(is_child) => is_child,
        Err(error) => panic!("cannot fork: {error}"),
    }
}
