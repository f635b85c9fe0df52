//! A batch and its journal.
//!
//! # States
//! ```text
//!           the first call                          finish
//! New(path) ──────────────▶ Open(log) ──────────────────────────▶ Over
//!                 │             │ it fails, or refuses an item
//!                 ├─────────────┴──▶ Failed(error)      the batch ends
//!                 └─────────────┴──▶ Over               if it may go on without it
//! ```
//! A batch without items opens no journal.

use std::collections::HashMap;
use std::sync::Arc;

use pool_store::journal::{Fingerprint, Journal, JournalError, Log, Outcome, TaskNumber};

use super::{Asked, Recall, failure};
use crate::error::TaskError;
use crate::inbox::Landed;
use crate::outcome::Results;
use crate::task::TaskEntry;

/// The journal of a batch.
#[derive(Debug)]
pub(crate) struct JournalMemory {
    journal: Journal,
    state: State,
    /// The numbers of the tasks, by their kind.
    tasks: Vec<(u16, TaskNumber)>,
    /// The calls that are being run, by item.
    running: HashMap<usize, Running>,
    /// Whether the failure has been told.
    told: bool,
}

#[derive(Debug)]
enum State {
    New,
    Open(Box<Log>),
    Failed(Arc<JournalError>),
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    task: TaskNumber,
    call: Fingerprint,
}

impl JournalMemory {
    pub(crate) fn new(journal: Journal) -> Self {
        Self { journal, state: State::New, tasks: Vec::new(), running: HashMap::new(), told: false }
    }

    pub(crate) fn recall(&mut self, asked: Asked<'_>) -> Recall {
        if matches!(self.state, State::New) {
            self.open();
        }
        let found = match &mut self.state {
            State::Open(log) => look_up(log, &mut self.tasks, asked),
            State::Failed(error) => Err(Arc::clone(error)),
            State::New | State::Over => return Recall::Run,
        };
        let (running, remembered) = match found {
            Ok(found) => found,
            Err(error) => {
                self.fail(error);
                return self.refusal().map_or(Recall::Run, Recall::Refuse);
            }
        };
        match remembered {
            Some(remembered) if !remembered.failed => return Recall::Known(remembered.body),
            Some(remembered) => {
                if let Some(error) = failure::decode(&remembered.body) {
                    return Recall::Failed(error);
                }
            }
            None => {}
        }
        self.running.insert(asked.index, running);
        Recall::Run
    }

    pub(crate) fn run_after_all(&mut self, asked: Asked<'_>) {
        let known = self.tasks.iter().find(|(kind, _)| *kind == asked.kind);
        if let (State::Open(log), Some((_, task))) = (&self.state, known) {
            let call = log.fingerprint(*task, asked.args);
            self.running.insert(asked.index, Running { task: *task, call });
        }
    }

    fn open(&mut self) {
        match self.journal.open_and_tell() {
            Ok((log, opened)) => {
                let path = log.path().display();
                tracing::debug!(%path, items = opened.items, cut = opened.cut, "journal opened");
                if opened.damaged > 0 {
                    tracing::warn!(%path, bytes = opened.damaged, "the journal is damaged: what was noted there runs again");
                }
                self.state = State::Open(Box::new(log));
            }
            Err(error) => self.fail(Arc::new(error)),
        }
    }

    fn fail(&mut self, error: Arc<JournalError>) {
        if matches!(self.state, State::Failed(_)) {
            return;
        }
        self.running.clear();
        if self.journal.is_optional() && error.is_io() {
            tracing::warn!(%error, "the batch goes on without its journal");
            self.state = State::Over;
        } else {
            tracing::warn!(%error, "the batch ends because of its journal");
            self.state = State::Failed(error);
        }
    }

    /// The error that the batch ends with.
    fn refusal(&mut self) -> Option<TaskError> {
        let State::Failed(error) = &self.state else { return None };
        self.told = true;
        Some(TaskError::Journal(Arc::clone(error)))
    }

    pub(crate) fn keep(&mut self, landed: &mut [Landed]) {
        if let State::Open(log) = &mut self.state {
            let keeps_failures = self.journal.keeps_failures();
            let mut kept =
                landed.iter_mut().try_for_each(|landed| note(log, &mut self.running, keeps_failures, landed));
            if kept.is_ok() {
                kept = log.commit();
            }
            if let Err(error) = kept {
                self.fail(error);
            }
        }
        if let State::Failed(_) = self.state {
            for landed in landed {
                if matches!(landed.outcome, Ok(_) | Err(TaskError::Cancelled))
                    && let Some(error) = self.refusal()
                {
                    landed.outcome = Err(error);
                }
            }
        }
    }

    pub(crate) fn finish(&mut self) -> Result<(), TaskError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Open(log) => {
                if let Err(error) = log.close() {
                    self.fail(error);
                }
            }
            other => self.state = other,
        }
        match self.told {
            true => Ok(()),
            false => self.refusal().map_or(Ok(()), Err),
        }
    }
}

/// What is noted of a call.
fn look_up(
    log: &mut Log,
    tasks: &mut Vec<(u16, TaskNumber)>,
    asked: Asked<'_>,
) -> Result<(Running, Option<pool_store::journal::Remembered>), Arc<JournalError>> {
    let task = match tasks.iter().find(|(kind, _)| *kind == asked.kind) {
        Some((_, task)) => *task,
        None => {
            let TaskEntry { name, version, .. } = asked.entry;
            let task = log.task(name, *version, asked.entry.types()).map_err(Arc::new)?;
            tasks.push((asked.kind, task));
            task
        }
    };
    let call = log.fingerprint(task, asked.args);
    let remembered = log.recall(asked.index as u64, task, &call)?;
    Ok((Running { task, call }, remembered))
}

/// Notes what has come of some items.
fn note(
    log: &mut Log,
    running: &mut HashMap<usize, Running>,
    keeps_failures: bool,
    landed: &mut Landed,
) -> Result<(), Arc<JournalError>> {
    let (first, items) = (landed.run.index, landed.count as usize);
    let mut append = |index: usize, failed, body: &[&[u8]]| {
        // What could not be encoded has not been asked for.
        let Some(Running { task, call }) = running.remove(&index) else { return Ok(()) };
        log.append(Outcome { index: index as u64, task, call, failed }, body)
    };
    match &mut landed.outcome {
        Ok(Results::One(reply)) => {
            // What is noted has to be what is handed out.
            reply.detach();
            reply.with_pieces(|pieces| append(first, false, pieces))
        }
        Ok(Results::Run(frames)) => (first..first + items)
            .zip(pool_ipc::frames(frames))
            .try_for_each(|(index, result)| append(index, false, &[result])),
        Err(error) => match failure::encode(error).filter(|_| keeps_failures) {
            Some(body) => (first..first + items).try_for_each(|index| append(index, true, &[&body])),
            None => {
                for index in first..first + items {
                    running.remove(&index);
                }
                Ok(())
            }
        },
    }
}
