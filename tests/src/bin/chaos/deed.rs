//! What the tasks do, which run in workers: their duty, or one of the faults.

use std::backtrace::Backtrace;
use std::error::Error;
use std::time::{Duration, Instant};

use pool_core::{Call, ExitContext, StateContext, TaskContext, WorkerState, task};
use pool_tests::region::Place;
use pool_tests::{Ink, Then, leave_a_vandal, scribble};
use pool_worker::drill;
use serde::{Deserialize, Deserializer, Serialize};

use crate::journal::{JOURNAL, Step, note};
use crate::random::mix;

/// What a task does before it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Deed {
    // What harms nobody
    Nothing,
    Spin(u64),
    Sleep(u64),
    /// Until it is cancelled, or so many milliseconds have passed.
    Cooperate(u64),
    /// Answers with so many bytes.
    Large(u64),
    Print(u64),
    Spam(u64),
    ReadShared,
    GarbageOnDescriptors,
    OrphanThread,
    Grandchild(String),
    Nested,
    /// Keeps so many bytes.
    Leak(u64),
    /// The deed on attempts up to this one, and nothing after.
    UpToAttempt(u32, Box<Deed>),

    // What fails the task, or ends the worker
    Exit(i32),
    QuickExit(i32),
    Raise(i32),
    Abort,
    Segv,
    Bus,
    StackOverflow,
    DoublePanic,
    AllocFailure,
    Panic,
    PanicValue,
    PanicOnEncode,
    DieOnDecode(Doomed),
    DieOnEncode,
    ForkAndExit,

    // What takes too long
    Hang,
    HangIgnoringSigterm,
    HangBlockingSignals,
    HangInC,
    SpinForEver,
    Stop,

    // What attacks the connection with the pool, and whoever runs in the same worker
    GarbageFrame,
    ClosePipes,
    ClosePipesAndReturn,
    CoverPipes(bool),
    CloseSockets,
    ForkAndReturn,
    ScribbleAll(bool),
    Scribble(Place, Ink, Then),
    /// A thread that scribbles: seed, where, for how many milliseconds, and with pauses of how many microseconds.
    Vandal(u64, Place, u64, u64),
}

/// The number of a task, whose worker dies when it decodes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Doomed(pub(crate) u64);

impl<'de> Deserialize<'de> for Doomed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let task = u64::deserialize(from)?;
        if std::env::var_os(JOURNAL).is_none() {
            // Nothing is worse than that, so it is not left to the verdict.
            let trace = Backtrace::force_capture();
            eprintln!(
                "arguments that no worker has decoded were decoded by the soak itself, of task {task}:\n{trace}"
            );
            std::process::abort();
        }
        note(Step::Dies, task, 0);
        run(drill::raise(libc::SIGKILL));
        Ok(Self(task))
    }
}

/// What a task answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done {
        task: u64,
        /// Of the arguments.
        digest: u64,
        load: String,
    },
    Dying(drill::DieOnEncode),
    Panicking(drill::PanicOnEncode),
}

/// The text that a task is given, or gives back, and nobody else's.
pub(crate) fn load(task: u64, bytes: u64) -> String {
    let letter = |n: u64| char::from(b'a' + (mix(task ^ (n / 64)) % 26) as u8);
    (0..bytes).map(letter).collect()
}

/// Every byte counts.
pub(crate) fn digest(task: u64, load: &str) -> u64 {
    load.bytes().fold(mix(task), |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

/// What a worker reads that has been shared with it.
pub(crate) const SHARED: &str = "chaos";

/// Notes the begin of a task, and its end when it is dropped.
struct Presence(u64, u32);

impl Presence {
    fn new(task: u64, attempt: u32) -> Self {
        note(Step::Begun, task, attempt);
        Self(task, attempt)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        note(Step::Left, self.0, self.1);
    }
}

/// Does the deed, and answers.
#[task]
pub(crate) fn act(n: u64, deed: Deed, burden: String, #[context] cx: &TaskContext) -> Reply {
    let _presence = Presence::new(n, cx.attempt());
    perform(n, deed, &burden, cx)
}

/// The same with a state.
#[task]
pub(crate) fn act_with_state(
    n: u64,
    deed: Deed,
    burden: String,
    #[state] mood: &mut Mood,
    #[context] cx: &TaskContext,
) -> Reply {
    let _presence = Presence::new(n, cx.attempt());
    mood.tasks += 1;
    perform(n, deed, &burden, cx)
}

fn perform(n: u64, deed: Deed, burden: &str, cx: &TaskContext) -> Reply {
    let mut bytes = 0;
    match deed {
        Deed::Nothing => {}
        Deed::Spin(us) => {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(us) {
                std::hint::spin_loop();
            }
        }
        Deed::Sleep(ms) => std::thread::sleep(Duration::from_millis(ms)),
        Deed::Cooperate(ms) => {
            let start = Instant::now();
            while !cx.is_cancelled() && start.elapsed() < Duration::from_millis(ms) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Deed::Large(size) => bytes = size,
        Deed::ReadShared => {
            let shared = cx.shared(SHARED).unwrap_or_default();
            assert_eq!(shared, load(0, shared.len() as u64).as_bytes(), "what is shared is not what was");
        }
        Deed::UpToAttempt(last, deed) if cx.attempt() <= last => return perform(n, *deed, burden, cx),
        Deed::UpToAttempt(..) | Deed::DieOnDecode(_) => {}
        Deed::Print(lines) => run(drill::print_stderr(lines, format!("task {n}"))),
        Deed::Spam(size) => run(drill::spam_stdout(size)),
        Deed::GarbageOnDescriptors => run(drill::garbage_fds(0, 9)),
        Deed::OrphanThread => run(drill::orphan_thread()),
        Deed::Grandchild(then) => drop(run(drill::grandchild(600, then))),
        Deed::Nested => assert_eq!(run(drill::nested(1, 5)), [0, 1, 2, 3, 4]),
        Deed::Leak(size) => drop(run(drill::leak(size))),
        Deed::Exit(status) => run(drill::exit(status)),
        Deed::QuickExit(status) => run(drill::quick_exit(status)),
        Deed::Raise(signal) => run(drill::raise(signal)),
        Deed::Abort => run(drill::abort()),
        Deed::Segv => run(drill::segv()),
        Deed::Bus => run(drill::bus()),
        Deed::StackOverflow => run(drill::stack_overflow()),
        Deed::DoublePanic => run(drill::double_panic()),
        Deed::AllocFailure => run(drill::alloc_failure()),
        Deed::Panic => panic!("{}", panic_of(n)),
        Deed::PanicValue => run(drill::panic_value()),
        Deed::PanicOnEncode => return Reply::Panicking(drill::PanicOnEncode),
        Deed::DieOnEncode => return Reply::Dying(drill::DieOnEncode),
        Deed::ForkAndExit => run(drill::fork_and_exit()),
        Deed::Hang => run(drill::hang()),
        Deed::HangIgnoringSigterm => run(drill::hang_ignoring_sigterm()),
        Deed::HangBlockingSignals => run(drill::hang_blocking_signals()),
        Deed::HangInC => run(drill::hang_in_c()),
        Deed::SpinForEver => run(drill::spin_for_ever()),
        Deed::Stop => run(drill::stop()),
        Deed::GarbageFrame => run(drill::garbage_frame()),
        Deed::ClosePipes => run(drill::close_pipes()),
        Deed::ClosePipesAndReturn => run(drill::close_pipes_and_return()),
        Deed::CoverPipes(returns) => run(drill::cover_pipes(returns)),
        Deed::CloseSockets => drop(run(drill::close_sockets())),
        Deed::ForkAndReturn => drop(run(drill::fork_and_return())),
        Deed::ScribbleAll(returns) => run(drill::scribble_board(returns)),
        Deed::Scribble(place, ink, then) => drop(run(scribble(0, place, ink, then))),
        Deed::Vandal(seed, place, ms, pause_us) => drop(run(leave_a_vandal(seed, place, ms, pause_us))),
    }
    Reply::Done { task: n, digest: digest(n, burden), load: load(n, bytes) }
}

/// The text of a panic that a task is to have.
pub(crate) fn panic_of(task: u64) -> String {
    format!("task {task} panics on purpose")
}

fn run<R>(call: Call<R>) -> R {
    call.run_here().expect("arguments and results of drills can be encoded")
}

/// The environment variable that says how moody workers are: what every n-th does.
pub(crate) const MOODS: &str = "POOL_CHAOS_MOODS";

/// A state that dies now and then while it is built, and panics or hangs when its worker is to exit. It goes by the process id,
/// so that what happens to one worker does not happen to the next.
#[derive(Debug)]
pub(crate) struct Mood {
    tasks: u64,
    whim: u64,
}

impl WorkerState for Mood {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let every: u64 = std::env::var(MOODS).ok().and_then(|every| every.parse().ok()).unwrap_or(u64::MAX);
        let whim = mix(u64::from(std::process::id())) % every;
        match whim {
            0 => {
                note(Step::Dies, 0, 0);
                run(drill::raise(libc::SIGKILL));
            }
            1 => std::thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
        Ok(Self { tasks: 0, whim })
    }

    fn exit(self, cx: &mut ExitContext) {
        match self.whim {
            2 => panic!("a state panics on purpose while its worker exits"),
            3 => run(drill::hang()),
            _ => cx.leave(&self.tasks).expect("a number can be encoded"),
        }
    }
}
