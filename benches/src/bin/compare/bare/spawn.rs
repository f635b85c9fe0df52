//! Processes: how long one takes to start, to exit, and to be known as dead; and what memory it holds.

use std::io::Read;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pool_benches::process::Memory;
use pool_benches::{Outcome, ensure};

use super::child::{Part, Piped};
use crate::sys;

/// From posix_spawn to the first byte that the process writes, and to the end of its reaping.
pub(crate) fn spawn() -> Outcome<(Duration, Duration)> {
    let start = Instant::now();
    let mut piped = Piped::start(Part::Greet)?;
    let first = first_byte(&mut piped, start)?;
    let status = piped.other.process.wait()?;
    let exit = start.elapsed();
    ensure(status.success(), "a process has failed")?;
    Ok((first, exit))
}

fn first_byte(piped: &mut Piped, start: Instant) -> Outcome<Duration> {
    let mut byte = [0];
    piped.output.read_exact(&mut byte)?;
    let time = start.elapsed();
    ensure(byte == *b"!", "a process has written something else")?;
    Ok(time)
}

/// From SIGKILL to the moment at which the pidfd says so.
pub(crate) fn death() -> Outcome<Duration> {
    let mut piped = Piped::start(Part::Wait)?;
    first_byte(&mut piped, Instant::now())?;
    let pidfd = sys::pidfd_open(piped.other.process.id())?;
    let start = Instant::now();
    piped.other.process.kill()?;
    let mut watched = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut watched, PollTimeout::NONE)?;
    Ok(start.elapsed())
}

/// What two idle copies of this program hold beside this one, counted as for pools.
pub(crate) fn memory() -> Outcome<Memory> {
    let before = Memory::of_family()?;
    let mut both = [Piped::start(Part::Wait)?, Piped::start(Part::Wait)?];
    for piped in &mut both {
        first_byte(piped, Instant::now())?;
    }
    Ok(Memory::of_family()?.since(before))
}
