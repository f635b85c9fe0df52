//! What a task is to do, under which conditions, and how it may end therefore.

use std::time::Duration;

use pool_core::{Call, DeathCause, RetryOn};
use pool_tests::region::{Place, Ring};
use pool_tests::{Ink, Then};

use crate::deed::{Deed, Doomed, Reply, act, act_with_state, digest, load};
use crate::random::Random;
use crate::settings::Settings;

/// One task.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) task: u64,
    pub(crate) deed: Deed,
    /// Bytes of its argument.
    pub(crate) burden: u64,
    pub(crate) stateful: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) retry_on: Option<RetryOn>,
    pub(crate) priority: Option<i8>,
    pub(crate) named: bool,
}

/// Limits of most tasks that never end by themselves are up to this.
const SHORT: Duration = Duration::from_millis(200);

impl Plan {
    /// A task that does no harm, or with this chance a fault.
    pub(crate) fn draw(random: &mut Random, task: u64, faults: u64, settings: &Settings) -> Self {
        let faulty = random.percent(faults);
        let deed = if faulty { fault(random, task, settings) } else { duty(random) };
        let burden = if random.percent(3) { random.skewed(2 << 20) } else { random.skewed(200) };
        let mut plan = Self {
            task,
            deed,
            burden,
            stateful: random.percent(15),
            timeout: random.percent(10).then(|| Duration::from_millis(random.between(3000, 6000))),
            retries: random.percent(30).then(|| random.below(4) as u32),
            retry_on: random.percent(15).then(|| {
                *random.pick(&[RetryOn::TIMEOUT, RetryOn::PANIC, RetryOn::TIMEOUT | RetryOn::PANIC])
            }),
            priority: random.percent(10).then(|| random.between(0, 4) as i8 - 2),
            named: random.percent(5),
        };
        if plan.deed.is_endless() && random.percent(95) {
            plan.timeout = Some(Duration::from_millis(random.between(20, SHORT.as_millis() as u64)));
        }
        if faulty && random.percent(20) {
            plan.retries = Some(random.between(1, 3) as u32);
            plan.deed = Deed::UpToAttempt(random.between(1, 2) as u32, Box::new(plan.deed));
        }
        // Several attempts that each take some seconds would look as if nothing moved any more.
        if plan.deed.is_endless() && plan.timeout.is_none_or(|limit| limit > SHORT) {
            plan.retries = Some(0);
        }
        plan
    }

    /// A task that does no harm, to see whether a pool works.
    pub(crate) fn innocent(task: u64, ms: u64) -> Self {
        Self {
            task,
            deed: Deed::Sleep(ms),
            burden: 10,
            stateful: false,
            timeout: None,
            retries: Some(3),
            retry_on: None,
            priority: None,
            named: false,
        }
    }

    pub(crate) fn call(&self) -> Call<Reply> {
        let burden = load(self.task, self.burden);
        let mut call = if self.stateful {
            act_with_state(self.task, self.deed.clone(), burden)
        } else {
            act(self.task, self.deed.clone(), burden)
        };
        if let Some(limit) = self.timeout {
            call = call.timeout(limit);
        }
        if let Some(retries) = self.retries {
            call = call.retries(retries);
        }
        if let Some(failures) = self.retry_on {
            call = call.retry_on(failures);
        }
        if let Some(priority) = self.priority {
            call = call.priority(priority);
        }
        if self.named {
            call = call.name(format!("deed {}", self.task));
        }
        call
    }

    /// Whether its argument or its answer is too long for a sum, or nearly.
    pub(crate) fn is_long(&self) -> bool {
        const HEAD: u64 = 64;
        let answer = if let Deed::Large(bytes) = self.deed { bytes } else { 0 };
        self.burden.max(answer) + HEAD > pool_ipc::SUMMED_MAX as u64
    }

    /// The right answer.
    pub(crate) fn reply(&self) -> Reply {
        let bytes = if let Deed::Large(bytes) = self.deed { bytes } else { 0 };
        Reply::Done {
            task: self.task,
            digest: digest(self.task, &load(self.task, self.burden)),
            load: load(self.task, bytes),
        }
    }
}

fn duty(random: &mut Random) -> Deed {
    match random.below(100) {
        0..55 => Deed::Nothing,
        55..75 => Deed::Spin(random.skewed(2000)),
        75..85 => Deed::Sleep(random.skewed(15)),
        85..90 => Deed::Cooperate(random.skewed(15)),
        90..93 => Deed::Large(random.skewed(2 << 20)),
        93..96 => Deed::Print(random.skewed(50)),
        _ => Deed::ReadShared,
    }
}

const SIGNALS: [i32; 12] = [
    libc::SIGKILL,
    libc::SIGSEGV,
    libc::SIGTERM,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGALRM,
    libc::SIGUSR1,
    libc::SIGXCPU,
];

const PLACES: [Place; 12] = [
    Place::Everything,
    Place::Board,
    Place::Bytes(Ring::Tasks),
    Place::Bytes(Ring::Results),
    Place::Tail(Ring::Tasks),
    Place::Head(Ring::Tasks),
    Place::Tail(Ring::Results),
    Place::Head(Ring::Results),
    Place::ReaderWaits(Ring::Tasks),
    Place::WriterWaits(Ring::Results),
    Place::Gauges,
    Place::Decoded,
];

fn fault(random: &mut Random, task: u64, settings: &Settings) -> Deed {
    let status = random.below(256) as i32;
    match random.below(48) {
        0 | 1 => Deed::Exit(status),
        2 | 3 => Deed::QuickExit(status),
        4..8 => Deed::Raise(*random.pick(&SIGNALS)),
        8 => Deed::Abort,
        9 | 10 => Deed::Segv,
        11 => Deed::Bus,
        12 => Deed::StackOverflow,
        13 => Deed::DoublePanic,
        14 => Deed::AllocFailure,
        15..18 => Deed::Panic,
        18 => Deed::PanicValue,
        19 => Deed::PanicOnEncode,
        20 => Deed::DieOnDecode(Doomed(task)),
        21 => Deed::DieOnEncode,
        22 => Deed::ForkAndExit,
        23 => Deed::Grandchild(random.pick(&["return", "exit", "segv"]).to_string()),
        24 | 25 => Deed::Hang,
        26 => Deed::HangIgnoringSigterm,
        27 => Deed::HangBlockingSignals,
        28 => Deed::HangInC,
        29 => Deed::SpinForEver,
        30 | 31 => Deed::Stop,
        32 => Deed::Spam(random.skewed(4 << 20)),
        33 => Deed::GarbageOnDescriptors,
        34 => Deed::OrphanThread,
        35 => Deed::GarbageFrame,
        36 => Deed::ClosePipes,
        37 => Deed::ClosePipesAndReturn,
        38 => Deed::CoverPipes(random.percent(50)),
        39 => Deed::CloseSockets,
        40 => Deed::ForkAndReturn,
        41 => Deed::ScribbleAll(random.percent(50)),
        42 | 43 => {
            let place = *random.pick(&PLACES);
            let value = *random.pick(&[0, u64::MAX, 1, 4096]);
            // Words for words, bytes for the rest.
            let is_word = place.size() == size_of::<u64>();
            let ink = match place {
                _ if is_word && random.percent(50) => Ink::Set(value),
                _ if is_word => Ink::Add(*random.pick(&[1, -1, 4096])),
                _ if random.percent(50) => Ink::Speckle,
                _ => Ink::Fill(status as u8),
            };
            Deed::Scribble(place, ink, *random.pick(&[Then::Return, Then::Hang, Then::Exit(7)]))
        }
        44 => {
            let place = *random.pick(&PLACES);
            Deed::Vandal(random.next(), place, random.between(1, 300), random.below(2) * 200)
        }
        45 => Deed::Nested,
        _ => Deed::Leak(settings.memory_limit.map_or(4 << 20, |limit| random.between(limit / 4, limit * 2))),
    }
}

impl Deed {
    /// Whether it may end with an answer.
    pub(crate) fn may_return(&self) -> bool {
        use Deed as D;
        match self {
            // The rest of the pool's memory may be gone by then, and the worker with it, but it returns.
            D::CoverPipes(returns) | D::ScribbleAll(returns) => *returns,
            D::Scribble(_, _, then) => *then == Then::Return,
            D::Grandchild(then) => then == "return",
            // Somebody may continue it.
            D::Stop => true,
            D::UpToAttempt(..) => true,
            D::Exit(_) | D::QuickExit(_) | D::Raise(_) | D::Abort | D::Segv | D::Bus => false,
            D::StackOverflow | D::DoublePanic | D::AllocFailure | D::DieOnDecode(_) | D::DieOnEncode => false,
            D::Panic | D::PanicValue | D::PanicOnEncode | D::ForkAndExit | D::ClosePipes => false,
            _ => !self.is_endless(),
        }
    }

    /// Whether it runs until it is stopped.
    pub(crate) fn is_endless(&self) -> bool {
        use Deed as D;
        match self {
            D::CoverPipes(returns) | D::ScribbleAll(returns) => !returns,
            D::Scribble(_, _, then) => *then == Then::Hang,
            D::UpToAttempt(_, deed) => deed.is_endless(),
            D::Hang | D::HangIgnoringSigterm | D::HangBlockingSignals => true,
            D::HangInC | D::SpinForEver | D::Stop => true,
            _ => false,
        }
    }

    /// Whether it may exceed a limit of some seconds.
    pub(crate) fn may_be_slow(&self) -> bool {
        match self {
            Self::UpToAttempt(_, deed) => deed.may_be_slow(),
            // They wait for a reader, for processes to start, for pages.
            Self::Spam(_) | Self::Nested | Self::Leak(_) => true,
            // The runtime prints a stack, whatever RUST_BACKTRACE says. Reading this program's symbols takes a tenth of a second
            // of a processor, which is seconds where a dozen do it at once and others are busy too.
            Self::DoublePanic => true,
            _ => self.is_endless(),
        }
    }

    /// Whether it may harm those that run in the same worker before and after.
    pub(crate) fn taints(&self, rings: bool) -> bool {
        match self {
            Self::UpToAttempt(_, deed) => deed.taints(rings),
            // With rings the pipe is a doorbell, and what is in it has no meaning.
            Self::GarbageFrame => !rings,
            Self::ClosePipes | Self::ClosePipesAndReturn | Self::CoverPipes(_) | Self::CloseSockets => true,
            Self::ForkAndReturn | Self::ScribbleAll(_) | Self::Scribble(..) | Self::Vandal(..) => true,
            _ => false,
        }
    }

    pub(crate) fn leaks(&self) -> bool {
        match self {
            Self::UpToAttempt(_, deed) => deed.leaks(),
            _ => matches!(self, Self::Leak(_)),
        }
    }

    /// Whether it panics.
    pub(crate) fn panics(&self) -> bool {
        match self {
            Self::UpToAttempt(_, deed) => deed.panics(),
            _ => matches!(self, Self::Panic | Self::PanicValue | Self::PanicOnEncode),
        }
    }

    /// Whether it writes what is no frame to the pool.
    pub(crate) fn writes_garbage(&self) -> bool {
        match self {
            Self::UpToAttempt(_, deed) => deed.writes_garbage(),
            _ => matches!(self, Self::GarbageFrame),
        }
    }

    /// Whether it may end its worker in this way.
    pub(crate) fn causes(&self, cause: &DeathCause) -> bool {
        use Deed as D;
        let by = |wanted: &[i32]| match cause {
            DeathCause::Signalled { signal, .. } => wanted.contains(signal),
            _ => false,
        };
        match self {
            D::UpToAttempt(_, deed) => deed.causes(cause),
            D::Exit(status) | D::QuickExit(status) => *cause == DeathCause::Exited(*status),
            D::Raise(signal) => by(&[*signal]),
            D::Abort | D::AllocFailure => by(&[libc::SIGABRT]),
            // The runtime prints a stack before it aborts, and what it reads for that is more than the limit.
            D::DoublePanic => by(&[libc::SIGABRT]) || matches!(cause, DeathCause::MemoryLimit { .. }),
            D::Segv => by(&[libc::SIGSEGV]),
            D::Bus => by(&[libc::SIGBUS]),
            D::StackOverflow => by(&[libc::SIGABRT, libc::SIGSEGV]),
            D::DieOnDecode(_) | D::DieOnEncode => by(&[libc::SIGKILL]),
            D::ForkAndExit => *cause == DeathCause::Exited(0),
            D::Grandchild(then) => match then.as_str() {
                "exit" => *cause == DeathCause::Exited(0),
                "segv" => by(&[libc::SIGSEGV]),
                _ => false,
            },
            D::Scribble(_, _, Then::Exit(status)) => *cause == DeathCause::Exited(*status),
            D::Leak(_) => matches!(cause, DeathCause::MemoryLimit { .. }),
            _ => false,
        }
    }
}
