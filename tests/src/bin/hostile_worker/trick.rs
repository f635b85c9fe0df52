//! What a hostile worker does.

use std::fs::File;
use std::path::PathBuf;

use pool_ipc::ring::CAPACITY;
use pool_tests::region::{Place, Ring};

/// Further than a position of a ring can be.
const FAR: i64 = CAPACITY as i64 + 1;

/// How much of the victim's result leaves the worker before it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Portion {
    Bytes(usize),
    Half,
    AllBut(usize),
}

/// The one rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trick {
    // Before the hello
    ExitEarly,
    DieEarly,
    HangEarly,
    PrepareEarly,
    HelloVersion(u32),
    GarbageHello,
    HelloWithoutVictim,
    HelloWithOtherSignature,
    // At the victim, before its result
    NeverClaim,
    PrepareForEver,
    DieUnclaimed,
    DieClaimed,
    ClaimFromTheFuture,
    FinishWithoutResult,
    CloseResults,
    StopBeforeResult,
    // In place of the victim's result
    Write(Portion),
    HalfAndExit,
    HalfAndLinger,
    Huge,
    UnknownKind,
    WrongTicket,
    OutOfOrder,
    GarbageResult,
    GarbageFailure,
    SupervisorsFrame,
    SecondHello,
    Bye,
    WrongSum,
    ExitNote,
    GarbageUnfit,
    GarbageState,
    Prepared,
    PreparingTwice,
    EndlessResults,
    EndlessGarbage,
    // After the victim's result
    Twice,
    FinishAndDie,
    // With rings, in place of the victim's result or after it
    Bend(Place, i64),
    FallSilent,
    RingForEver,
    // At an assault
    Random,
    // When asked to retire
    DieRetiring,
    ExitRetiring(i32),
    HangRetiring,
}

impl Trick {
    fn parse(text: &str) -> Option<Self> {
        let (name, number) = match text.split_once('=') {
            Some((name, number)) => (name, Some(number.parse::<u32>().ok()?)),
            None => (text, None),
        };
        Some(match (name, number) {
            ("exit-early", None) => Self::ExitEarly,
            ("die-early", None) => Self::DieEarly,
            ("hang-early", None) => Self::HangEarly,
            ("prepare-early", None) => Self::PrepareEarly,
            ("hello-version", Some(version)) => Self::HelloVersion(version),
            ("garbage-hello", None) => Self::GarbageHello,
            ("hello-without-victim", None) => Self::HelloWithoutVictim,
            ("hello-with-other-signature", None) => Self::HelloWithOtherSignature,
            ("never-claim", None) => Self::NeverClaim,
            ("prepare-for-ever", None) => Self::PrepareForEver,
            ("die-unclaimed", None) => Self::DieUnclaimed,
            ("die-claimed", None) => Self::DieClaimed,
            ("claim-from-the-future", None) => Self::ClaimFromTheFuture,
            ("finish-without-result", None) => Self::FinishWithoutResult,
            ("close-results", None) => Self::CloseResults,
            ("stop-before-result", None) => Self::StopBeforeResult,
            ("write", Some(bytes)) => Self::Write(Portion::Bytes(bytes as usize)),
            ("write-half", None) => Self::Write(Portion::Half),
            ("write-all-but", Some(bytes)) => Self::Write(Portion::AllBut(bytes as usize)),
            ("half-and-exit", None) => Self::HalfAndExit,
            ("half-and-linger", None) => Self::HalfAndLinger,
            ("huge", None) => Self::Huge,
            ("unknown-kind", None) => Self::UnknownKind,
            ("wrong-ticket", None) => Self::WrongTicket,
            ("out-of-order", None) => Self::OutOfOrder,
            ("garbage-result", None) => Self::GarbageResult,
            ("garbage-failure", None) => Self::GarbageFailure,
            ("supervisors-frame", None) => Self::SupervisorsFrame,
            ("second-hello", None) => Self::SecondHello,
            ("bye", None) => Self::Bye,
            ("wrong-sum", None) => Self::WrongSum,
            ("exit-note", None) => Self::ExitNote,
            ("garbage-unfit", None) => Self::GarbageUnfit,
            ("garbage-state", None) => Self::GarbageState,
            ("prepared", None) => Self::Prepared,
            ("preparing-twice", None) => Self::PreparingTwice,
            ("endless-results", None) => Self::EndlessResults,
            ("endless-garbage", None) => Self::EndlessGarbage,
            ("twice", None) => Self::Twice,
            ("finish-and-die", None) => Self::FinishAndDie,
            ("tail-ahead", None) => Self::Bend(Place::Tail(Ring::Results), FAR),
            ("tail-back", None) => Self::Bend(Place::Tail(Ring::Results), -1),
            ("head-ahead", None) => Self::Bend(Place::Head(Ring::Tasks), FAR),
            ("head-back", None) => Self::Bend(Place::Head(Ring::Tasks), -1),
            ("fall-silent", None) => Self::FallSilent,
            ("ring-for-ever", None) => Self::RingForEver,
            ("random", None) => Self::Random,
            ("die-retiring", None) => Self::DieRetiring,
            ("exit-retiring", Some(code)) => Self::ExitRetiring(i32::try_from(code).ok()?),
            ("hang-retiring", None) => Self::HangRetiring,
            _ => return None,
        })
    }
}

/// A trick, and how often it is played.
#[derive(Debug)]
pub(crate) struct Script {
    trick: Trick,
    once: Option<PathBuf>,
}

impl Script {
    pub(crate) fn from_args(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let text = args.next().ok_or("usage: hostile-worker TRICK [--once FILE]")?;
        let trick = Trick::parse(&text).ok_or_else(|| format!("`{text}` is no trick"))?;
        let once = match (args.next().as_deref(), args.next()) {
            (None, _) => None,
            (Some("--once"), Some(file)) => Some(PathBuf::from(file)),
            (Some(other), _) => return Err(format!("`{other}` is no option, or has no value")),
        };
        Ok(Self { trick, once })
    }

    /// The trick, if it is one of these and it is to be played now.
    pub(crate) fn now(&self, fits: impl FnOnce(&Trick) -> bool) -> Option<&Trick> {
        let due = fits(&self.trick) && self.once.as_ref().is_none_or(|file| File::create_new(file).is_ok());
        due.then_some(&self.trick)
    }
}
