//! The tasks of the tests: one that does what it is told, and two for the hostile worker.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pool_core::{Call, TaskContext, task};
use pool_worker::drill;
use serde::{Deserialize, Serialize};

/// What [`play`] does before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// Nothing.
    Innocent,
    /// Sleeps for so many milliseconds.
    Sleep(u64),
    /// Returns when it is cancelled, or after so many milliseconds.
    Cooperate(u64),
    /// Writes a line to stderr, and then plays another part.
    Say(String, Box<Part>),
    /// Plays a part on attempts up to this one, and none after.
    UpToAttempt(u32, Box<Part>),
    /// Sleeps for so many milliseconds, and then plays another part.
    After(u64, Box<Part>),
    /// `exit(3)`.
    Exit(i32),
    /// `_exit(2)`.
    QuickExit(i32),
    /// Sends itself a signal.
    Raise(i32),
    /// `abort(3)`.
    Abort,
    /// Writes to address 0.
    Segv,
    /// Reads beyond the end of a mapped file.
    Bus,
    /// Recurses for ever.
    StackOverflow,
    /// Panics with a text.
    Panic(String),
    /// Panics with a number.
    PanicValue,
    /// Panics while it unwinds.
    DoublePanic,
    /// Fails to allocate.
    AllocFailure,
    /// Exceeds so many seconds of CPU time.
    CpuLimit(u64),
    /// Stops itself.
    Stop,
    /// Ends the thread that runs it, and leaves another one that sleeps.
    EndThread,
    /// As above, and the other one is busy.
    EndThreadBesideSpinner,
    /// Asks to be debugged by its parent, and sends itself a signal.
    StopForParent,
    /// Sleeps for ever.
    Hang,
    /// Dies while its argument is decoded.
    DieOnDecode(drill::DieOnDecode),
    /// Dies while its result is encoded.
    DieOnEncode,
}

/// What [`play`] answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The result.
    Value(u64),
    /// Whether it was cancelled.
    Cancelled(bool),
    /// Kills the worker while it is encoded.
    Dying(drill::DieOnEncode),
}

/// The right answer of `play(n, Part::Innocent)` and of everything else that ends well.
#[must_use]
pub fn right(n: u64) -> Answer {
    Answer::Value(n.wrapping_mul(3).wrapping_add(1))
}

/// Plays a part, and then answers `n` with [`right`].
#[task]
pub fn play(n: u64, part: Part, #[context] cx: &TaskContext) -> Answer {
    act(n, part, cx)
}

fn act(n: u64, part: Part, cx: &TaskContext) -> Answer {
    let played = match part {
        Part::Innocent => Ok(()),
        Part::Sleep(ms) => {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(())
        }
        Part::Cooperate(ms) => {
            let start = std::time::Instant::now();
            while !cx.is_cancelled() && start.elapsed() < Duration::from_millis(ms) {
                std::thread::sleep(Duration::from_millis(1));
            }
            return Answer::Cancelled(cx.is_cancelled());
        }
        Part::Say(line, then) => {
            eprintln!("{line}");
            return act(n, *then, cx);
        }
        Part::UpToAttempt(last, then) if cx.attempt() <= last => return act(n, *then, cx),
        Part::UpToAttempt(..) => Ok(()),
        Part::After(ms, then) => {
            std::thread::sleep(Duration::from_millis(ms));
            return act(n, *then, cx);
        }
        Part::Exit(code) => drill::exit(code).run_here(),
        Part::QuickExit(code) => drill::quick_exit(code).run_here(),
        Part::Raise(signal) => drill::raise(signal).run_here(),
        Part::Abort => drill::abort().run_here(),
        Part::Segv => drill::segv().run_here(),
        Part::Bus => drill::bus().run_here(),
        Part::StackOverflow => drill::stack_overflow().run_here(),
        Part::Panic(message) => drill::panic(message).run_here(),
        Part::PanicValue => drill::panic_value().run_here(),
        Part::DoublePanic => drill::double_panic().run_here(),
        Part::AllocFailure => drill::alloc_failure().run_here(),
        Part::CpuLimit(seconds) => drill::cpu_limit(seconds).run_here(),
        Part::Stop => drill::stop().run_here(),
        Part::EndThread => crate::standstill::end_thread(|| std::thread::sleep(Duration::from_secs(3600))),
        Part::EndThreadBesideSpinner => crate::standstill::end_thread(std::hint::spin_loop),
        Part::StopForParent => {
            crate::standstill::stop_for_parent();
            Ok(())
        }
        Part::Hang => drill::hang().run_here(),
        Part::DieOnDecode(_) => Ok(()),
        Part::DieOnEncode => return Answer::Dying(drill::DieOnEncode),
    };
    played.expect("a drill without arguments that fail");
    right(n)
}

/// The right answer of [`victim`] and [`innocent`].
#[must_use]
pub fn sevens(len: u64) -> Vec<u8> {
    vec![7; usize::try_from(len).expect("64-bit Linux")]
}

/// What the hostile worker plays its trick on; an honest one returns that many [`sevens`].
#[task]
pub fn victim(len: u64) -> Vec<u8> {
    sevens(len)
}

/// What the hostile worker attacks its supervisor at, in ways that the seed leads to; an honest one returns that many [`sevens`].
#[task]
pub fn assault(_seed: u64, len: u64) -> Vec<u8> {
    sevens(len)
}

/// What the hostile worker runs honestly: as many [`sevens`].
#[task]
pub fn innocent(len: u64) -> Vec<u8> {
    sevens(len)
}

/// A call that does nothing and returns nothing.
pub fn quiet(_: u64) -> Call<()> {
    drill::print_stdout(0, String::new())
}

/// Says that it has started by making a file, waits until it is cancelled, and says so by making another one.
#[task]
pub fn note_cancellation(started: PathBuf, noted: PathBuf, #[context] cx: &TaskContext) {
    make(&started);
    while !cx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    make(&noted);
}

/// Waits until a file is there, and exits with status 1.
#[task]
pub fn exit_once_there(file: PathBuf) {
    while !file.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::exit(1)
}

fn make(file: &Path) {
    std::fs::write(file, "").expect("the directory is the test's own");
}

/// Exits on so many attempts, and then tells which attempt it is.
#[task]
pub fn attempt_after_deaths(deaths: u32, #[context] cx: &TaskContext) -> u32 {
    if cx.attempt() <= deaths {
        std::process::exit(1);
    }
    cx.attempt()
}

/// An error for odd numbers.
#[task]
pub fn even(n: u64) -> Result<u64, String> {
    if n.is_multiple_of(2) { Ok(n) } else { Err(format!("{n} is odd")) }
}

/// Builds a pool of two workers that run this task's own program, and has both of them sleep for ever.
#[task]
pub fn nested_hang() {
    let builder = pool_core::Pool::builder().name("nested").transport(crate::transport()).workers(2);
    let pool = builder.build().expect("a pool in a worker");
    let hanging: Vec<_> = (0..2).map(|_| pool.apply_async(drill::hang())).collect();
    hanging.into_iter().for_each(|handle| drop(handle.get()));
}

/// Waits until a file is there, and returns the number.
#[task]
pub fn once_there(file: PathBuf, n: u64) -> u64 {
    crate::held::wait_for_file(&file);
    n
}
