//! What can happen to a unit.

use super::{Rule, Table, Verdict, axis};
use crate::supervisor::event::TaskKey;
use crate::supervisor::machine::{Machine, Place};
use crate::supervisor::slot::Phase;
use UnitEvent as On;
use UnitState as Is;
use Verdict::{Ignored, Never, Rare};

axis! {
    /// Where a unit is.
    UnitState {
        Queued,
        /// In the queue, for one seat only.
        Pinned,
        /// It failed before, and nobody is found yet to run it alone.
        Suspect,
        /// It failed before, and waits for a worker to become empty.
        Reserved,
        /// Its first item is a head that is not known to be claimed.
        Offered,
        Running,
        /// Its item has been told to stop.
        Stopping,
        /// Its item runs, and the worker is about to be killed for it.
        Condemned,
        /// In a hand behind others.
        Behind,
        /// The same, and some of it is being taken back.
        Taking,
        /// In the hand of a worker that is being killed, as the head.
        DyingHead,
        DyingBehind,
        /// There is nothing left of it.
        Ended,
    }
}

axis! {
    /// What can happen to a unit.
    UnitEvent {
        Finished,
        Failed,
        Unsendable,
        TookBack,
        Claimed,
        Illegible,
        /// Its worker was looked at.
        Observed,
        /// The same, and its limit has passed.
        Overdue,
        /// Its worker is killed for what came out of it, or for its size.
        KillsWorker,
        Lost,
        /// Its worker has died, and had not started it.
        Died,
        DiedInIt,
        /// Its worker is to go.
        Leaves,
        Cancel,
        CloseGroup,
        Deadline,
        /// Another task of its batch has failed and ended the batch.
        Aborted,
        /// The pool ends at once.
        End,
    }
}

impl UnitState {
    pub(super) fn of<P>(machine: &Machine<P>, key: TaskKey, pinned: bool) -> Self {
        match machine.place_of(key) {
            None => Is::Ended,
            Some(Place::Queued) if pinned => Is::Pinned,
            Some(Place::Queued) => Is::Queued,
            Some(Place::Suspect) => Is::Suspect,
            Some(Place::With(worker)) => Self::with(machine, key, worker.get() as usize),
        }
    }

    fn with<P>(machine: &Machine<P>, key: TaskKey, worker: usize) -> Self {
        let slot = &machine.slots()[worker];
        let Some(hand) = slot.hand() else { return Is::Ended };
        let Some(place) = hand.spans().position(|held| held.task == Some(key)) else { return Is::Reserved };
        let Some(head) = hand.head().filter(|_| place == 0) else {
            let taking = hand.spans().nth(place).is_some_and(|held| held.taking > 0);
            return match (&slot.phase, taking) {
                (Phase::Dying { .. }, _) => Is::DyingBehind,
                (_, true) => Is::Taking,
                (_, false) => Is::Behind,
            };
        };
        match &slot.phase {
            Phase::Dying { .. } => Is::DyingHead,
            _ if head.is_condemned() => Is::Condemned,
            _ if head.is_doomed() => Is::Stopping,
            _ if head.is_started() => Is::Running,
            _ => Is::Offered,
        }
    }
}

impl Table for UnitState {
    type Event = UnitEvent;
    const WHAT: &'static str = "unit";
    const RULES: &'static [Rule<Is, On>] = &[
        Rule { states: &[Is::Ended], events: &[On::Cancel], verdict: Ignored("it has ended") },
        Rule { states: &[Is::Ended], events: &[], verdict: Never("nobody holds it") },
        Rule {
            states: &[Is::Queued, Is::Pinned, Is::Suspect, Is::Reserved],
            events: &[
                On::Finished,
                On::Failed,
                On::Unsendable,
                On::TookBack,
                On::Claimed,
                On::Illegible,
                On::Observed,
                On::Overdue,
                On::Lost,
                On::DiedInIt,
            ],
            verdict: Never("no worker has it"),
        },
        Rule {
            states: &[Is::Queued, Is::Pinned, Is::Suspect],
            events: &[On::KillsWorker, On::Died, On::Leaves],
            verdict: Never("it is with no worker"),
        },
        Rule {
            states: &[Is::Behind, Is::Taking, Is::DyingBehind],
            events: &[On::Observed, On::Overdue, On::DiedInIt],
            verdict: Never("this is about the head"),
        },
        Rule {
            states: &[Is::Running, Is::Stopping, Is::Condemned],
            events: &[On::Unsendable],
            verdict: Never("it has been sent"),
        },
        Rule {
            states: &[Is::Running, Is::Stopping, Is::Condemned],
            events: &[On::Died],
            verdict: Never("its worker has started it"),
        },
        Rule {
            states: &[Is::Stopping, Is::Condemned],
            events: &[On::TookBack, On::Lost],
            verdict: Never("it is one item, and runs"),
        },
        Rule {
            states: &[Is::Behind],
            events: &[On::TookBack, On::Claimed, On::Illegible],
            verdict: Never("what was asked for is being taken until there is an answer, and only then"),
        },
        // It is still somebody's because it may run again, and its limit has passed; this is seen unless the board is overwritten.
        Rule { states: &[Is::Stopping, Is::Condemned], events: &[On::Observed], verdict: Rare },
        Rule {
            states: &[Is::Suspect],
            events: &[On::Cancel, On::CloseGroup, On::Deadline, On::Aborted, On::End],
            verdict: Rare,
        },
        Rule {
            states: &[Is::Reserved],
            events: &[
                On::KillsWorker,
                On::Leaves,
                On::Cancel,
                On::CloseGroup,
                On::Deadline,
                On::Aborted,
                On::End,
            ],
            verdict: Rare,
        },
        Rule { states: &[Is::Offered], events: &[On::Illegible, On::Lost], verdict: Rare },
        Rule {
            states: &[Is::Running],
            events: &[
                On::Claimed,
                On::Illegible,
                On::KillsWorker,
                On::Lost,
                On::Leaves,
                On::Deadline,
                On::Aborted,
            ],
            verdict: Rare,
        },
        Rule {
            states: &[Is::Stopping],
            events: &[
                On::Claimed,
                On::Illegible,
                On::KillsWorker,
                On::DiedInIt,
                On::Leaves,
                On::Cancel,
                On::CloseGroup,
                On::Deadline,
                On::Aborted,
                On::End,
            ],
            verdict: Rare,
        },
        Rule {
            states: &[Is::Condemned],
            events: &[
                On::Claimed,
                On::Illegible,
                On::KillsWorker,
                On::DiedInIt,
                On::Leaves,
                On::Cancel,
                On::CloseGroup,
                On::Deadline,
                On::Aborted,
                On::End,
            ],
            verdict: Rare,
        },
        Rule {
            states: &[Is::Behind],
            events: &[On::Finished, On::Failed, On::Lost, On::Cancel],
            verdict: Rare,
        },
        Rule {
            states: &[Is::Taking],
            events: &[
                On::Finished,
                On::Failed,
                On::Unsendable,
                On::Claimed,
                On::Illegible,
                On::KillsWorker,
                On::Lost,
                On::Died,
                On::Leaves,
                On::Cancel,
                On::CloseGroup,
                On::Deadline,
                On::Aborted,
                On::End,
            ],
            verdict: Rare,
        },
        Rule {
            states: &[Is::DyingHead],
            events: &[
                On::Unsendable,
                On::TookBack,
                On::Claimed,
                On::Illegible,
                On::Observed,
                On::Overdue,
                On::Cancel,
                On::CloseGroup,
                On::Deadline,
                On::Aborted,
                On::End,
            ],
            verdict: Rare,
        },
        Rule {
            states: &[Is::DyingBehind],
            events: &[
                On::Failed,
                On::Unsendable,
                On::TookBack,
                On::Claimed,
                On::Illegible,
                On::Leaves,
                On::Cancel,
                On::CloseGroup,
                On::Deadline,
                On::Aborted,
                On::End,
            ],
            verdict: Rare,
        },
    ];
}
