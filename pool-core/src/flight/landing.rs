//! How outcomes leave a flight: what has come, and what was known, is reported item by item; one that failed may end it.

use std::ops::ControlFlow;

use super::{Flight, Kind, Source};
use crate::error::TaskError;
use crate::handle::decode;
use crate::inbox::Landed;
use crate::outcome::Results;
use crate::reply::Encoded;

impl<F, I, R> Flight<F, I, R> {
    /// Reports what has come, until `report` breaks off; then only results that had come by then.
    pub(crate) fn take(
        &mut self,
        report: &mut impl FnMut(usize, Result<R, TaskError>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let before = self.landed;
        let mut flow = self.land_known(report);
        let spare = std::mem::take(&mut self.spare);
        let mut landed = self.collect(spare);
        let mut outcomes = landed.drain(..);
        if flow.is_continue() {
            flow = outcomes.try_for_each(|outcome| self.land(outcome, report));
        }
        if flow.is_break() {
            let late = self.collect(Vec::new());
            for outcome in outcomes.chain(late).filter(|landed| landed.outcome.is_ok()) {
                let _ = self.land(outcome, report);
            }
        } else {
            drop(outcomes);
            self.spare = landed;
        }
        self.brought = self.landed - before;
        if let Some(feed) = &mut self.feed {
            feed.landed(self.brought);
        }
        flow
    }

    /// What has come, after it has been kept where that is wanted.
    fn collect(&mut self, buffer: Vec<Landed>) -> Vec<Landed> {
        let mut landed = self.inbox.take(buffer);
        self.screen(&mut landed);
        if let Some(memory) = &mut self.memory {
            memory.keep(&mut landed);
        }
        landed
    }

    /// Reports what was known, until `report` breaks off; then only results.
    fn land_known(
        &mut self,
        report: &mut impl FnMut(usize, Result<R, TaskError>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if self.known.is_empty() {
            return ControlFlow::Continue(());
        }
        let known = std::mem::take(&mut self.known);
        self.known_bytes = 0;
        self.flying = self.flying.saturating_sub(known.len());
        self.landed += known.len();
        if !self.lazy {
            self.done += known.len();
        }
        if let Some(feed) = &mut self.feed {
            feed.known(known.len());
        }
        let mut flow = ControlFlow::Continue(());
        for (index, result) in known {
            if let Err(error) = &result {
                if let Some(feed) = &mut self.feed {
                    feed.failed(error);
                }
                if let Some(refusal) = refusal_after(error, self.abort) {
                    self.end_with(refusal);
                }
            }
            if flow.is_continue() {
                flow = report(index, result);
            } else if result.is_ok() {
                let _ = report(index, result);
            }
        }
        flow
    }

    /// Nothing more is pulled; what is in flight is cancelled, unless it is to go on.
    pub(super) fn end_with(&mut self, refusal: TaskError) {
        let in_vain = self.abort || refusal.is_of_memory();
        if self.is_open() {
            self.source = Source::Refused(refusal);
        }
        if in_vain {
            self.close();
        }
    }

    fn land(
        &mut self,
        landed: Landed,
        report: &mut impl FnMut(usize, Result<R, TaskError>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Landed { run, count, outcome } = landed;
        let (index, items) = (run.index, count as usize);
        self.flying = self.flying.saturating_sub(items);
        self.bytes = self.bytes.saturating_sub(run.bytes as usize);
        self.landed += items;
        if !self.lazy {
            self.done += items;
        }
        let Some(Kind { entry, decode: convert }) = self.kinds.get(usize::from(run.kind)) else {
            return ControlFlow::Continue(());
        };
        let (task, convert) = (entry.name, *convert);
        let mut refusal = None;
        let (feed, abort) = (&mut self.feed, self.abort);
        let mut report = |index, result: Result<R, TaskError>| {
            if let Err(error) = &result {
                if let Some(feed) = feed {
                    feed.failed(error);
                }
                if refusal.is_none() {
                    refusal = refusal_after(error, abort);
                }
            }
            report(index, result)
        };
        let flow = match outcome {
            Ok(Results::One(reply)) => {
                self.result_bytes += reply.size();
                report(index, decode(task, convert, reply.encoded()))
            }
            Ok(Results::Run(frames)) => {
                self.result_bytes += frames.len();
                (index..index + items)
                    .zip(pool_ipc::frames(&frames))
                    .try_for_each(|(index, bytes)| report(index, decode(task, convert, Encoded::from(bytes))))
            }
            Err(error) => (index..index + items).try_for_each(|index| report(index, Err(error.clone()))),
        };
        if let Some(refusal) = refusal {
            self.end_with(refusal);
        }
        flow
    }
}

/// What becomes of the items that have not been pulled when one has failed like this, if they are not to go on.
fn refusal_after(error: &TaskError, abort: bool) -> Option<TaskError> {
    match error.is_of_one_task() {
        false => Some(error.clone()),
        true => abort.then_some(TaskError::Cancelled),
    }
}
