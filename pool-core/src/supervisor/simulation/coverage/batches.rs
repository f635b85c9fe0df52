//! What can happen to a batch.

use super::{Rule, Table, Verdict, axis};
use crate::supervisor::simulation::fact::Batch;
use BatchEvent as On;
use BatchState as Is;
use Verdict::{Ignored, Never, Rare};

axis! {
    /// How it is with a batch, by what is known of it outside of the machine.
    BatchState {
        /// Nothing has been submitted to it.
        Empty,
        Busy,
        /// Everything of it has ended, and there may be more.
        Idle,
        /// It has ended with a failure.
        Aborted,
        /// It has ended by its deadline.
        Overdue,
        Closed,
    }
}

axis! {
    /// What can happen to a batch.
    BatchEvent {
        Submit,
        Success,
        /// A task of it has failed, and it goes on.
        Failure,
        /// A task of it has failed, which ends it.
        FatalFailure,
        /// A task of it was cancelled.
        Cancelled,
        Deadline,
        Close,
        /// The pool ends at once.
        End,
    }
}

impl BatchState {
    pub(super) fn of(batch: &Batch) -> Self {
        match batch {
            _ if batch.cancelled => Is::Closed,
            _ if batch.overdue => Is::Overdue,
            _ if batch.failed => Is::Aborted,
            _ if batch.members.is_empty() => Is::Empty,
            _ if batch.open > 0 => Is::Busy,
            _ => Is::Idle,
        }
    }
}

impl Table for BatchState {
    type Event = BatchEvent;
    const WHAT: &'static str = "batch";
    const RULES: &'static [Rule<Is, On>] = &[
        Rule {
            states: &[Is::Closed],
            events: &[On::Close],
            verdict: Ignored("its number means nothing any more"),
        },
        Rule {
            states: &[Is::Aborted, Is::Closed],
            events: &[On::Deadline],
            verdict: Ignored("it has ended"),
        },
        Rule { states: &[Is::Overdue], events: &[On::Deadline], verdict: Never("it comes once") },
        Rule {
            states: &[Is::Aborted],
            events: &[On::FatalFailure],
            // What cannot be sent together fails together.
            verdict: Rare,
        },
        Rule {
            states: &[Is::Empty, Is::Idle, Is::Aborted, Is::Overdue, Is::Closed],
            events: &[On::Success, On::Failure, On::FatalFailure, On::Cancelled],
            verdict: Never("nothing of it is left"),
        },
    ];
}
