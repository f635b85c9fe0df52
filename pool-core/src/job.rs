//! What a unit of tasks is, to the shell around the state machine.

use std::sync::Arc;

use crate::buffer::Args;
use crate::inbox::Inbox;
use crate::outcome::{Cell, Outcome};
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

/// As [`Job`], where it is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) enum JobRef<'a> {
    Single(&'a Arc<Cell>),
    Part(&'a Part),
}

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
    /// Which of the tasks of its batch it is of.
    pub(crate) kind: u16,
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
    /// Items of a batch.
    Batch(Arc<Inbox>, Run),
}

/// Consecutive items of a batch that are of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// Index of the first one.
    pub(crate) index: usize,
    /// Bytes of the arguments of all of them.
    pub(crate) bytes: u32,
    /// Which of the tasks of the batch they are of.
    pub(crate) kind: u16,
}

// Every outcome is moved together with it.
const _: () = assert!(size_of::<Sink>() == 24);

/// What has become of items, for whoever wants to know.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) sink: Sink,
    pub(crate) count: u32,
    pub(crate) outcome: Outcome,
}

impl Job {
    fn by_ref(&self) -> JobRef<'_> {
        match self {
            Self::Single(cell) => JobRef::Single(cell),
            Self::Part(part) => JobRef::Part(part),
        }
    }

    /// What it is called in messages.
    pub(crate) fn shown(&self) -> String {
        self.by_ref().shown()
    }

    /// Who wants the outcome of all of it.
    pub(crate) fn into_sink(self) -> Sink {
        match self {
            Self::Single(cell) => Sink::Handle(cell),
            Self::Part(part) => {
                let run = part.run(0, part.end);
                Sink::Batch(part.inbox, run)
            }
        }
    }
}

impl JobRef<'_> {
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
}

impl Part {
    /// The items from the offset `first` on.
    fn run(&self, first: u32, count: u32) -> Run {
        let bytes = match &self.args {
            PartArgs::One(args) => args.len(),
            PartArgs::Many(packed, from) => packed.items(from + first, count).len(),
        };
        Run {
            index: self.index + first as usize,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            kind: self.kind,
        }
    }

    /// Makes the items from `at` on another part.
    fn split(&mut self, at: u32) -> Option<Self> {
        let PartArgs::Many(packed, from) = &self.args else { return None };
        let rest = Self {
            entry: self.entry,
            name: self.name.clone(),
            args: PartArgs::Many(Arc::clone(packed), from + at),
            inbox: Arc::clone(&self.inbox),
            index: self.index + at as usize,
            kind: self.kind,
            end: self.end.saturating_sub(at),
        };
        self.end = self.end.min(at);
        Some(rest)
    }
}

/// The jobs of the units that have not ended. The state machine hands the places out, and names none that is empty.
///
/// A place is used in one of the two tables. There may be very many single tasks, and few parts.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    singles: Vec<Option<Arc<Cell>>>,
    parts: Vec<Option<Box<Part>>>,
}

impl Jobs {
    pub(crate) fn insert(&mut self, place: u32, job: Job) {
        match job {
            Job::Single(cell) => *reach(&mut self.singles, place) = Some(cell),
            Job::Part(part) => *reach(&mut self.parts, place) = Some(part),
        }
    }

    pub(crate) fn get(&self, place: u32) -> Option<JobRef<'_>> {
        match self.singles.get(place as usize) {
            Some(Some(cell)) => Some(JobRef::Single(cell)),
            _ => self.parts.get(place as usize)?.as_deref().map(JobRef::Part),
        }
    }

    pub(crate) fn split(&mut self, from: u32, at: u32, into: u32) {
        let from = self.parts.get_mut(from as usize).and_then(Option::as_mut);
        if let Some(rest) = from.and_then(|part| part.split(at)) {
            *reach(&mut self.parts, into) = Some(Box::new(rest));
        }
    }

    /// Who wants to know of these items. The job is gone with its last item.
    pub(crate) fn settle(&mut self, place: u32, first: u32, count: u32) -> Option<Sink> {
        if let Some(cell) = self.singles.get_mut(place as usize).and_then(Option::take) {
            return Some(Sink::Handle(cell));
        }
        let slot = self.parts.get_mut(place as usize)?;
        let part = slot.as_ref()?;
        let sink = Sink::Batch(Arc::clone(&part.inbox), part.run(first, count));
        if first + count >= part.end {
            *slot = None;
        }
        Some(sink)
    }
}

/// A place in a table that grows as needed.
fn reach<T>(table: &mut Vec<Option<T>>, place: u32) -> &mut Option<T> {
    let place = place as usize;
    if table.len() <= place {
        table.resize_with(place + 1, || None);
    }
    &mut table[place]
}
