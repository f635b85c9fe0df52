//! Large data through shared memory that is mapped once and used again and again.
//!
//! Either the two sides spin, each on a core of its own, or they sleep wherever the scheduler puts them. On one core the data
//! stays in its cache, so neither way is always the faster one.

use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pool_benches::{Outcome, ensure};

use super::child::{Other, Part};
use super::cores::Apart;
use super::trips::{Waiting, shared_memory};
use crate::sys::Mapping;

/// The data begins here; before it are the words.
const DATA: usize = 4096;
/// Most bytes one way.
const ROOM: usize = 16 << 20;
const PAGE: usize = 4096;

const THERE: usize = 0;
const BACK: usize = 1;
const LENGTH: usize = 2;
const COPIES: usize = 3;
const SUM: usize = 4;

/// A process that shares memory with this one, and waits for the next request.
#[derive(Debug)]
pub(crate) struct Bulk {
    memory: Mapping,
    last: u32,
    waiting: Waiting,
    _apart: Option<Apart>,
    _other: Other,
}

impl Bulk {
    pub(crate) fn start(waiting: Waiting) -> Outcome<Self> {
        let (file, memory) = shared_memory(DATA + 2 * ROOM)?;
        let part = match waiting {
            Waiting::Asleep => Part::SleepingBulk,
            Waiting::Spinning => Part::SpinningBulk,
        };
        let other = Other::start(part, file, Stdio::null())?;
        let apart = if waiting == Waiting::Spinning { Some(Apart::hold(&other)?) } else { None };
        Ok(Self { memory, last: 0, waiting, _apart: apart, _other: other })
    }

    /// Copies the data in; the other side looks at one byte of each page.
    pub(crate) fn one_way(&mut self, data: &[u8]) -> Outcome<Duration> {
        let start = Instant::now();
        self.exchange(data, false)?;
        let time = start.elapsed();
        let sum = data.iter().step_by(PAGE).fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        ensure(self.memory.word(SUM)?.load(Ordering::Relaxed) == sum, "the other side has seen other data")?;
        Ok(time)
    }

    /// Copies the data in; the other side makes a copy of it for this side to use in place.
    pub(crate) fn there_and_back(&mut self, data: &[u8]) -> Outcome<Duration> {
        let start = Instant::now();
        self.exchange(data, true)?;
        let time = start.elapsed();
        for (index, byte) in data.iter().enumerate().step_by(PAGE) {
            ensure(self.memory.byte(DATA + ROOM + index)? == *byte, "other data has come back")?;
        }
        Ok(time)
    }

    fn exchange(&mut self, data: &[u8], copies: bool) -> Outcome<()> {
        self.memory.write(DATA, data)?;
        self.memory.word(LENGTH)?.store(u32::try_from(data.len())?, Ordering::Relaxed);
        self.memory.word(COPIES)?.store(u32::from(copies), Ordering::Relaxed);
        let old = self.last;
        self.last = old.wrapping_add(1);
        self.waiting.send(self.memory.word(THERE)?, self.last);
        self.waiting.wait(self.memory.word(BACK)?, old);
        Ok(())
    }
}

/// The other side; ends when it is killed.
pub(crate) fn serve(waiting: Waiting) -> Outcome<()> {
    let memory = Mapping::new(std::io::stdin().as_fd(), DATA + 2 * ROOM)?;
    let (there, back) = (memory.word(THERE)?, memory.word(BACK)?);
    let mut last = back.load(Ordering::Acquire);
    loop {
        last = waiting.wait(there, last);
        let length = usize::try_from(memory.word(LENGTH)?.load(Ordering::Relaxed))?;
        if memory.word(COPIES)?.load(Ordering::Relaxed) == 1 {
            memory.duplicate(DATA, DATA + ROOM, length)?;
        } else {
            let mut sum = 0_u32;
            for index in (0..length).step_by(PAGE) {
                sum = sum.wrapping_add(u32::from(memory.byte(DATA + index)?));
            }
            memory.word(SUM)?.store(sum, Ordering::Relaxed);
        }
        waiting.send(back, last);
    }
}

/// How long one copy takes inside this process, into memory that has been used before.
pub(crate) fn memcpy(data: &[u8], into: &mut [u8]) -> Outcome<Duration> {
    let start = Instant::now();
    into.copy_from_slice(data);
    let time = start.elapsed();
    ensure(std::hint::black_box(&*into).last() == data.last(), "the copy differs")?;
    Ok(time)
}
