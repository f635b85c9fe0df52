//! Round trips of a few bytes: through pipes, and through a word of shared memory, asleep or spinning.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use pool_benches::{Outcome, ensure};

use super::child::{Other, Part, Piped};
use crate::sys::{Mapping, futex_wait, futex_wake};

const LENGTH: usize = 4096;
const THERE: usize = 0;
const BACK: usize = 1;

/// Looks at a word between two that let the scheduler have a say, in case both sides are on one core.
const LOOKS: u32 = 2_000;

/// How a side waits for a word to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    Asleep,
    Spinning,
}

impl Waiting {
    /// Waits until the word is no longer `old`, and returns what it is.
    pub(crate) fn wait(self, word: &AtomicU32, old: u32) -> u32 {
        let mut looks = 0;
        loop {
            let now = word.load(Ordering::Acquire);
            if now != old {
                return now;
            }
            match self {
                Self::Asleep => futex_wait(word, old),
                Self::Spinning => {
                    looks += 1;
                    if looks % LOOKS == 0 {
                        std::thread::yield_now();
                    }
                    std::hint::spin_loop();
                }
            }
        }
    }

    /// Changes a word that the other side waits for.
    pub(crate) fn send(self, word: &AtomicU32, value: u32) {
        word.store(value, Ordering::Release);
        if self == Self::Asleep {
            futex_wake(word);
        }
    }
}

/// Something that answers.
pub(crate) trait Trip {
    /// The process that answers, when it may be held on a core.
    fn other(&self) -> Option<&Other> {
        None
    }

    /// Sends a number, and waits until it comes back.
    fn trip(&mut self, number: u32) -> Outcome<()>;
}

/// Round trips through two pipes.
pub(crate) struct ByPipe(Piped);

impl ByPipe {
    pub(crate) fn start() -> Outcome<Self> {
        Ok(Self(Piped::start(Part::PipeTrips)?))
    }
}

impl Trip for ByPipe {
    fn other(&self) -> Option<&Other> {
        Some(&self.0.other)
    }

    fn trip(&mut self, number: u32) -> Outcome<()> {
        self.0.input.write_all(&u64::from(number).to_le_bytes())?;
        let mut answer = [0; 8];
        self.0.output.read_exact(&mut answer)?;
        ensure(u64::from_le_bytes(answer) == u64::from(number), "a pipe has brought back something else")
    }
}

/// Round trips through two words of shared memory.
pub(crate) struct ByWord {
    memory: Mapping,
    waiting: Waiting,
    other: Other,
}

impl ByWord {
    pub(crate) fn start(waiting: Waiting) -> Outcome<Self> {
        let part = match waiting {
            Waiting::Asleep => Part::FutexTrips,
            Waiting::Spinning => Part::SpinTrips,
        };
        let (file, memory) = shared_memory(LENGTH)?;
        Ok(Self { memory, waiting, other: Other::start(part, file, std::process::Stdio::null())? })
    }
}

impl Trip for ByWord {
    fn other(&self) -> Option<&Other> {
        Some(&self.other)
    }

    /// `number` must not be the one of the trip before.
    fn trip(&mut self, number: u32) -> Outcome<()> {
        let (there, back) = (self.memory.word(THERE)?, self.memory.word(BACK)?);
        let old = back.load(Ordering::Acquire);
        self.waiting.send(there, number);
        ensure(self.waiting.wait(back, old) == number, "a word has brought back something else")
    }
}

/// A memfd of this length, and its mapping.
pub(crate) fn shared_memory(length: usize) -> Outcome<(OwnedFd, Mapping)> {
    let file = std::fs::File::from(memfd_create(c"bare", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(length as u64)?;
    let memory = Mapping::new(file.as_fd(), length)?;
    Ok((file.into(), memory))
}

/// The other side of [`ByPipe`].
pub(crate) fn answer_by_pipe() -> Outcome<()> {
    let (input, output) =
        (std::io::stdin().as_fd().try_clone_to_owned()?, std::io::stdout().as_fd().try_clone_to_owned()?);
    let (mut input, mut output) = (std::fs::File::from(input), std::fs::File::from(output));
    let mut message = [0; 8];
    while input.read_exact(&mut message).is_ok() {
        output.write_all(&message)?;
    }
    Ok(())
}

/// The other side of [`ByWord`]; ends when it is killed.
pub(crate) fn answer_by_word(waiting: Waiting) -> Outcome<()> {
    let memory = Mapping::new(std::io::stdin().as_fd(), LENGTH)?;
    let (there, back) = (memory.word(THERE)?, memory.word(BACK)?);
    let mut last = back.load(Ordering::Acquire);
    loop {
        last = waiting.wait(there, last);
        waiting.send(back, last);
    }
}
