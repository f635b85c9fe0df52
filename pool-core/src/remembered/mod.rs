//! What becomes of a batch's outcomes beyond this program, and what comes of earlier ones.
//!
//! A [`Flight`](crate::flight::Flight) that has a [`Remembered`] asks it twice. Before a call is submitted:
//! [`recall`](Remembered::recall), which has it run, knows its outcome, or refuses the whole batch. And when outcomes have come,
//! before they are handed out: [`keep`](Remembered::keep), once for all that were taken out of the inbox together. Both happen
//! on the thread that drives the flight, without any lock of the pool, and may block for as long as a disk does.
//!
//! A flight without one asks nothing.
//!
//! # Events and races
//! * *The memory fails* (the disk is full). From then on no result is handed out, since it is not kept: results become that
//!   error, and so does what is cancelled because of it. Unless the user has said that the batch may go on without it.
//! * *The input or a decoder panics, or an iterator is dropped.* What has come and was not looked at is not kept, and runs again.
//! * *The program forks.* The child must not touch what belongs to its parent: the flight forgets the memory there.

#[cfg(feature = "durable")]
mod failure;
#[cfg(feature = "durable")]
mod journal;

use crate::batch::Plan;
use crate::error::TaskError;
use crate::inbox::Landed;
use crate::task::TaskEntry;

/// What is to become of a call.
#[derive(Debug)]
#[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "nothing is remembered"))]
pub(crate) enum Recall {
    /// It is to be run.
    Run,
    /// It has run: its encoded result.
    Known(Vec<u8>),
    /// It has failed.
    Failed(TaskError),
    /// The whole batch may not run.
    Refuse(TaskError),
}

/// A call that is about to be submitted.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "nothing is remembered"))]
pub(crate) struct Asked<'a> {
    /// Which item of the batch it is.
    pub(crate) index: usize,
    pub(crate) entry: &'static TaskEntry,
    /// Which of the tasks of the batch it is of.
    pub(crate) kind: u16,
    pub(crate) args: &'a [u8],
}

/// What remembers the outcomes of a batch.
#[derive(Debug)]
pub(crate) struct Remembered {
    #[cfg(feature = "durable")]
    journal: journal::JournalMemory,
    #[cfg(not(feature = "durable"))]
    never: std::convert::Infallible,
}

#[cfg(feature = "durable")]
impl Remembered {
    /// What this batch is to have, if anything.
    pub(crate) fn of(plan: &Plan) -> Option<Box<Self>> {
        let journal = plan.journal.clone()?;
        Some(Box::new(Self { journal: journal::JournalMemory::new(journal) }))
    }

    /// What is to become of a call.
    pub(crate) fn recall(&mut self, asked: Asked<'_>) -> Recall {
        self.journal.recall(asked)
    }

    /// The known result of the call that was asked for last cannot be decoded: it is run after all.
    pub(crate) fn run_after_all(&mut self, asked: Asked<'_>) {
        self.journal.run_after_all(asked);
    }

    /// Keeps what has come of calls that were to be run; changes what may not be handed out.
    pub(crate) fn keep(&mut self, landed: &mut [Landed]) {
        self.journal.keep(landed);
    }

    /// All has been kept. Tells what has gone wrong, unless it has been told before.
    pub(crate) fn finish(&mut self) -> Result<(), TaskError> {
        self.journal.finish()
    }
}

#[cfg(not(feature = "durable"))]
impl Remembered {
    pub(crate) fn of(_: &Plan) -> Option<Box<Self>> {
        None
    }

    pub(crate) fn recall(&mut self, _: Asked<'_>) -> Recall {
        match self.never {}
    }

    pub(crate) fn run_after_all(&mut self, _: Asked<'_>) {
        match self.never {}
    }

    pub(crate) fn keep(&mut self, _: &mut [Landed]) {
        match self.never {}
    }

    pub(crate) fn finish(&mut self) -> Result<(), TaskError> {
        match self.never {}
    }
}
