//! What a unit of tasks is, to the shell around the state machine.

use std::sync::Arc;

use crate::buffer::Args;
use crate::outcome::{Cell, Inbox, Outcome};
use crate::packed::Packed;
use crate::task::TaskEntry;

/// What is to be run, and who wants the outcome. Many may be queued.
#[derive(Debug)]
pub(crate) enum Job {
    /// One task; its handle's cell has all of it.
    Single(Arc<Cell>),
    /// Items of a batch.
    Part(Box<Part>),
}

// Together with a cell and what the state machine keeps, 128 bytes.
const _: () = assert!(size_of::<Option<Job>>() == 16);

/// Items of a batch that are of a kind.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) entry: &'static TaskEntry,
    /// What they are called in messages.
    pub(crate) name: Option<Box<str>>,
    pub(crate) args: PartArgs,
    pub(crate) inbox: Arc<Inbox>,
    /// Index of the first item in its batch.
    pub(crate) index: usize,
    /// The offset behind the last item.
    pub(crate) end: u32,
}

/// The arguments of a part.
#[derive(Debug)]
pub(crate) enum PartArgs {
    One(Args),
    /// Those of the items from this one on.
    Many(Arc<Packed>, u32),
}

/// Who wants an outcome.
#[derive(Debug)]
pub(crate) enum Sink {
    Handle(Arc<Cell>),
    /// The items of a batch from this index on.
    Batch {
        inbox: Arc<Inbox>,
        index: usize,
    },
}

/// What has become of items, for whoever wants to know.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) sink: Sink,
    pub(crate) count: u32,
    pub(crate) outcome: Outcome,
}

impl Job {
    pub(crate) fn entry(&self) -> &'static TaskEntry {
        match self {
            Self::Single(cell) => cell.entry(),
            Self::Part(part) => part.entry,
        }
    }

    /// What it is called in messages.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Single(cell) => cell.name().unwrap_or_else(|| cell.entry().name.to_owned()),
            Self::Part(part) => part.name.as_deref().unwrap_or(part.entry.name).to_owned(),
        }
    }

    /// Who wants the outcome of all of it.
    pub(crate) fn into_sink(self) -> Sink {
        match self {
            Self::Single(cell) => Sink::Handle(cell),
            Self::Part(part) => Sink::Batch { inbox: part.inbox, index: part.index },
        }
    }

    /// Makes the items from `at` on another job.
    pub(crate) fn split(&mut self, at: u32) -> Option<Self> {
        let Self::Part(part) = self else { return None };
        let PartArgs::Many(packed, from) = &part.args else { return None };
        let rest = Part {
            entry: part.entry,
            name: part.name.clone(),
            args: PartArgs::Many(Arc::clone(packed), from + at),
            inbox: Arc::clone(&part.inbox),
            index: part.index + at as usize,
            end: part.end.saturating_sub(at),
        };
        part.end = part.end.min(at);
        Some(Self::Part(Box::new(rest)))
    }
}

/// The jobs of the units that have not ended. The state machine hands the places out, and names none that is empty.
#[derive(Debug, Default)]
pub(crate) struct Jobs(Vec<Option<Job>>);

impl Jobs {
    pub(crate) fn insert(&mut self, place: u32, job: Job) {
        let place = place as usize;
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(job);
    }

    pub(crate) fn get(&self, place: u32) -> Option<&Job> {
        self.0.get(place as usize)?.as_ref()
    }

    pub(crate) fn split(&mut self, from: u32, at: u32, into: u32) {
        let from = self.0.get_mut(from as usize).and_then(Option::as_mut);
        if let Some(rest) = from.and_then(|job| job.split(at)) {
            self.insert(into, rest);
        }
    }

    /// Who wants to know of these items. The job is gone with its last item.
    pub(crate) fn settle(&mut self, place: u32, first: u32, count: u32) -> Option<Sink> {
        let slot = self.0.get_mut(place as usize)?;
        if let Some(Job::Part(part)) = slot {
            let sink = Sink::Batch { inbox: Arc::clone(&part.inbox), index: part.index + first as usize };
            if first + count >= part.end {
                *slot = None;
            }
            return Some(sink);
        }
        slot.take().map(Job::into_sink)
    }
}
