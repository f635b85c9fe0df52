//! Holding the two sides on two cores.
//!
//! Left alone, the scheduler often runs both sides of a small exchange on one core, where nobody has to be woken elsewhere and
//! two that spin wait for each other's time slices. Which it will be is luck, and a limit must not be.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use pool_benches::Outcome;

use super::child::Other;

/// The calling thread on one core and a process on another; the thread is let go when this is dropped.
#[derive(Debug)]
pub(crate) struct Apart {
    anywhere: CpuSet,
}

impl Apart {
    /// On a machine with one core nothing is held.
    pub(crate) fn hold(other: &Other) -> Outcome<Self> {
        let me = Pid::from_raw(0);
        let anywhere = sched_getaffinity(me)?;
        let mut cores = Vec::new();
        for core in 0..CpuSet::count() {
            if anywhere.is_set(core)? {
                let mut one = CpuSet::new();
                one.set(core)?;
                cores.push(one);
            }
        }
        if let [here, there, ..] = &cores[..] {
            sched_setaffinity(me, here)?;
            let held = Self { anywhere };
            sched_setaffinity(Pid::from_raw(i32::try_from(other.process.id())?), there)?;
            return Ok(held);
        }
        Ok(Self { anywhere })
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // These cores were allowed before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.anywhere);
    }
}
