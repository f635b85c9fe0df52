//! Batches: what their items have in common.
//!
//! A batch is opened before its first item is submitted, and closed when its caller wants no more of it. It *ends* before
//! that when its deadline comes, or when an item fails and the batch is to be aborted then: its items end with it, and those
//! that are submitted later are refused with the same error. So nothing of it is left, however its end and a submission cross.

use std::time::{Duration, Instant};

use super::Machine;
use crate::error::TaskError;
use crate::supervisor::event::{GroupId, GroupSpec};

/// The batches that are open. There are few: each has a thread that runs it.
#[derive(Debug, Default)]
pub(super) struct Groups {
    last: u64,
    open: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    id: GroupId,
    abort: bool,
    deadline: Option<(Instant, Duration)>,
    ended: Option<TaskError>,
}

impl Group {
    /// When it ends by itself.
    fn due(&self) -> Option<Instant> {
        self.deadline.filter(|_| self.ended.is_none()).map(|(at, _)| at)
    }
}

impl Groups {
    /// When the next deadline is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.open.iter().filter_map(Group::due).min()
    }

    /// Why a batch takes no more items.
    pub(super) fn refusal(&self, group: Option<GroupId>) -> Option<TaskError> {
        let group = group?;
        self.open.iter().find(|open| open.id == group)?.ended.clone()
    }
}

impl<P> Machine<P> {
    /// Opens a batch.
    pub(crate) fn open(&mut self, spec: GroupSpec) -> GroupId {
        self.groups.last += 1;
        let id = GroupId(self.groups.last);
        self.groups.open.push(Group { id, abort: spec.abort, deadline: spec.deadline, ended: None });
        id
    }

    /// Nothing more comes of a batch.
    pub(super) fn close_group(&mut self, now: Instant, group: GroupId) {
        self.groups.open.retain(|open| open.id != group);
        self.end_group(now, group, &TaskError::Cancelled);
    }

    /// An item of a batch that is to be aborted has failed.
    pub(super) fn abort_group(&mut self, now: Instant, group: GroupId) {
        let open = self.groups.open.iter_mut().find(|open| open.id == group && open.abort);
        if let Some(open) = open {
            open.ended.get_or_insert(TaskError::Cancelled);
        }
        self.end_group(now, group, &TaskError::Cancelled);
    }

    /// Ends the batches whose deadlines have come.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        let mut overdue = Vec::new();
        for open in &mut self.groups.open {
            if open.due().is_some_and(|due| due <= now)
                && let Some((_, limit)) = open.deadline
            {
                let error = TaskError::DeadlineExceeded { limit };
                open.ended = Some(error.clone());
                overdue.push((open.id, error));
            }
        }
        for (group, error) in overdue {
            self.end_group(now, group, &error);
        }
    }
}
