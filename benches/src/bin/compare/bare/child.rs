//! The process on the other side.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use pool_benches::Outcome;

use super::{bulk, streams, trips};

/// First argument of this program when it is the other side.
pub(crate) const ARGUMENT: &str = "bare";

/// Bytes that a pipe can hold here, if the kernel grants it.
const PIPE_CAPACITY: libc::c_int = 256 << 10;

/// What the other side does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Writes a byte and exits.
    Greet,
    /// Writes a byte and waits.
    Wait,
    /// Sends back what comes through a pipe.
    PipeTrips,
    /// Answers through shared memory, asleep in between.
    FutexTrips,
    /// Answers through shared memory, spinning in between.
    SpinTrips,
    /// Reads a stream.
    Swallow,
    /// Looks at data in shared memory, or copies it; asleep in between.
    SleepingBulk,
    /// The same, spinning in between.
    SpinningBulk,
}

const PARTS: [(&str, Part); 8] = [
    ("greet", Part::Greet),
    ("wait", Part::Wait),
    ("pipe-trips", Part::PipeTrips),
    ("futex-trips", Part::FutexTrips),
    ("spin-trips", Part::SpinTrips),
    ("swallow", Part::Swallow),
    ("sleeping-bulk", Part::SleepingBulk),
    ("spinning-bulk", Part::SpinningBulk),
];

/// The main program of the other side.
pub(crate) fn play(name: &str) -> Outcome<()> {
    // One that spins must not outlive the measurement.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let part = PARTS.iter().find(|(known, _)| *known == name).map(|(_, part)| *part);
    match part.ok_or_else(|| format!("no part is called {name:?}"))? {
        Part::Greet => greet(),
        Part::Wait => {
            greet()?;
            std::io::stdin().read_to_end(&mut Vec::new())?;
            Ok(())
        }
        Part::PipeTrips => trips::answer_by_pipe(),
        Part::FutexTrips => trips::answer_by_word(trips::Waiting::Asleep),
        Part::SpinTrips => trips::answer_by_word(trips::Waiting::Spinning),
        Part::Swallow => streams::swallow(),
        Part::SleepingBulk => bulk::serve(trips::Waiting::Asleep),
        Part::SpinningBulk => bulk::serve(trips::Waiting::Spinning),
    }
}

fn greet() -> Outcome<()> {
    let mut output = std::io::stdout();
    output.write_all(b"!")?;
    Ok(output.flush()?)
}

/// A process that plays a part; killed and reaped when it is dropped.
#[derive(Debug)]
pub(crate) struct Other {
    pub(crate) process: Child,
}

impl Other {
    /// Starts it with this as its standard input and output.
    pub(crate) fn start(part: Part, input: impl Into<Stdio>, output: impl Into<Stdio>) -> Outcome<Self> {
        let name = PARTS.iter().find(|(_, known)| *known == part).map_or("", |(name, _)| *name);
        let mut command = Command::new("/proc/self/exe");
        command.args([ARGUMENT, name]).stdin(input).stdout(output);
        Ok(Self { process: command.spawn()? })
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Fails only when it is gone, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process behind two pipes.
#[derive(Debug)]
pub(crate) struct Piped {
    pub(crate) input: PipeWriter,
    pub(crate) output: PipeReader,
    pub(crate) other: Other,
}

impl Piped {
    pub(crate) fn start(part: Part) -> Outcome<Self> {
        let (theirs_in, input) = std::io::pipe()?;
        let (output, theirs_out) = std::io::pipe()?;
        for end in [&input, &theirs_out] {
            // A pipe of the default size works too, where the kernel does not grant this.
            let _ = fcntl(end, FcntlArg::F_SETPIPE_SZ(PIPE_CAPACITY));
        }
        let other = Other::start(part, OwnedFd::from(theirs_in), OwnedFd::from(theirs_out))?;
        Ok(Self { input, output, other })
    }
}
