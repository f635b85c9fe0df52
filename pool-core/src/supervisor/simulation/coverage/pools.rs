//! What can happen to a pool as a whole.

use super::{Rule, Table, Verdict, axis};
use crate::error::BrokenReason;
use crate::supervisor::event::Event;
use crate::supervisor::machine::Machine;
use PoolEvent as On;
use PoolState as Is;
use Verdict::{Ignored, Never, Rare};

axis! {
    /// What a pool is to the machine.
    PoolState {
        /// No worker has ever been ready.
        Fresh,
        Open,
        /// Closed, and there are tasks.
        Closing,
        /// Closed, and the workers are about to go.
        Winding,
        /// Closed, and all are gone.
        Drained,
        /// Ended at once, or broken.
        Over,
    }
}

axis! {
    /// What can happen to a pool.
    PoolEvent {
        Submit,
        Open,
        Pump,
        Tick,
        Cancel,
        CloseGroup,
        Resize,
        Close,
        Terminate,
        Interrupt,
        Fault,
        /// Something that a worker did, or that happened to it.
        Worker,
        /// It breaks: too many workers have died.
        TooManyDeaths,
        /// It breaks: no worker has started in time.
        CannotStart,
        /// It breaks: a worker says that a state cannot be built.
        Unfit,
        /// It breaks: nobody has built a state in time.
        InitTimeout,
        /// It breaks: too many workers have died while they built a state.
        InitDeaths,
        /// It breaks: a worker of another version.
        Unusable,
    }
}

impl PoolState {
    pub(super) fn of<P>(machine: &Machine<P>, over: bool) -> Self {
        match () {
            () if machine.is_drained() && over => Is::Over,
            () if machine.is_drained() => Is::Drained,
            () if !machine.is_open() && machine.pending() > 0 => Is::Closing,
            () if !machine.is_open() => Is::Winding,
            () if machine.was_ever_ready() => Is::Open,
            () => Is::Fresh,
        }
    }
}

impl PoolEvent {
    pub(super) fn of<P>(event: &Event<P>) -> Self {
        match event {
            Event::Pump => On::Pump,
            Event::Tick => On::Tick,
            Event::Cancel(_) => On::Cancel,
            Event::CloseGroup(_) => On::CloseGroup,
            Event::Resize(_) => On::Resize,
            Event::Close => On::Close,
            Event::Terminate => On::Terminate,
            Event::Interrupt(_) => On::Interrupt,
            Event::Fault(_) => On::Fault,
            _ => On::Worker,
        }
    }

    /// How a pool breaks. A fault is an event.
    pub(super) fn of_break(reason: &BrokenReason) -> Option<Self> {
        match reason {
            // As the simulated workers say it.
            BrokenReason::StateFailed { why, .. } if why.is_empty() => Some(On::Unfit),
            BrokenReason::TooManyDeaths { .. } => Some(On::TooManyDeaths),
            BrokenReason::CannotStart { .. } => Some(On::CannotStart),
            BrokenReason::StateFailed { deaths, .. } if deaths.is_empty() => Some(On::InitTimeout),
            BrokenReason::StateFailed { .. } => Some(On::InitDeaths),
            BrokenReason::Incompatible { .. } => Some(On::Unusable),
            _ => None,
        }
    }
}

impl Table for PoolState {
    type Event = PoolEvent;
    const WHAT: &'static str = "pool";
    const RULES: &'static [Rule<Is, On>] = &[
        Rule {
            states: &[Is::Drained, Is::Over],
            events: &[
                On::TooManyDeaths,
                On::CannotStart,
                On::Unfit,
                On::InitTimeout,
                On::InitDeaths,
                On::Unusable,
            ],
            verdict: Never("there is nothing left that could break"),
        },
        Rule {
            states: &[Is::Drained, Is::Over],
            events: &[
                On::Pump,
                On::Tick,
                On::Cancel,
                On::CloseGroup,
                On::Resize,
                On::Close,
                On::Terminate,
                On::Interrupt,
                On::Fault,
                On::Worker,
            ],
            verdict: Ignored("nothing comes of it"),
        },
        Rule {
            states: &[Is::Open],
            events: &[On::CannotStart],
            verdict: Never("workers have started before"),
        },
        Rule {
            states: &[Is::Winding],
            events: &[On::TooManyDeaths, On::CannotStart, On::Unusable],
            verdict: Never("nobody is needed any more, and who starts is killed"),
        },
        Rule {
            states: &[Is::Fresh],
            events: &[On::Fault, On::CannotStart, On::Unfit, On::InitTimeout, On::InitDeaths, On::Unusable],
            verdict: Rare,
        },
        Rule { states: &[Is::Open], events: &[On::Fault, On::InitTimeout], verdict: Rare },
        Rule {
            states: &[Is::Closing],
            events: &[
                On::Close,
                On::Terminate,
                On::Interrupt,
                On::Fault,
                On::TooManyDeaths,
                On::CannotStart,
                On::Unfit,
                On::InitTimeout,
                On::InitDeaths,
                On::Unusable,
            ],
            verdict: Rare,
        },
        Rule {
            states: &[Is::Winding],
            events: &[
                On::Open,
                On::Cancel,
                On::Close,
                On::Interrupt,
                On::Unfit,
                On::InitTimeout,
                On::InitDeaths,
            ],
            verdict: Rare,
        },
    ];
}
