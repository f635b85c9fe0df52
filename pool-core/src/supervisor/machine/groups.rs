//! Batches: what their items have in common.
//!
//! A batch is *opened* before its first item is submitted, and *closed* when its caller wants no more of it. Before that it may
//! *end*: when its deadline comes, or when an item fails and the batch is to be aborted then. All its items end with it, and what
//! is submitted to it later is refused with the same error. So nothing of it is left, however its end and a submission cross.
//! Closing it ends whatever is left, frees its lanes, and makes its number one that means nothing any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Machine;
use super::hand::Hand;
use super::lanes::Lanes;
use super::unit::Unit;
use crate::error::TaskError;
use crate::supervisor::event::{GroupId, GroupSpec, TaskKey};
use crate::supervisor::slot::Phase;

/// The batches that are open.
#[derive(Debug, Default)]
pub(super) struct Groups {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Those that have not ended, by their deadlines.
    deadlines: BTreeSet<(Instant, u32)>,
    /// The next deadline.
    due: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    /// How many batches have been here, this one included.
    guard: u32,
    group: Option<Group>,
}

/// What tells the lanes of a batch apart: their priority, and the seat that they are for, if they are for one only.
pub(super) type Way = (i8, Option<u32>);

#[derive(Debug)]
struct Group {
    abort: bool,
    deadline: Option<(Instant, Duration)>,
    /// By priority, and by the seat that they are for.
    lanes: Vec<(Way, u32)>,
    /// How it has ended, if it has.
    ended: Option<TaskError>,
}

impl Groups {
    fn get(&self, id: GroupId) -> Option<&Group> {
        self.places.get(id.index as usize).filter(|place| place.guard == id.guard)?.group.as_ref()
    }

    fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.places.get_mut(id.index as usize).filter(|place| place.guard == id.guard)?.group.as_mut()
    }

    /// When the next batch ends by its deadline.
    #[inline]
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    fn find_due(&mut self) {
        self.due = self.deadlines.first().map(|(at, _)| *at);
    }

    /// Where its items of a priority wait, and, if these are pinned, those for this seat, one of so many.
    ///
    /// # Errors
    /// What they end with instead, when the batch has ended.
    pub(super) fn lane(
        &mut self,
        id: GroupId,
        priority: i8,
        pin: Option<(u32, u32)>,
        lanes: &mut Lanes,
    ) -> Result<u32, TaskError> {
        // One that is closed has been cancelled.
        let Some(group) = self.get_mut(id) else { return Err(TaskError::Cancelled) };
        if let Some(error) = &group.ended {
            return Err(error.clone());
        }
        let way = (priority, pin.map(|(seat, _)| seat));
        match group.lanes.iter().find(|(of, _)| *of == way) {
            Some((_, lane)) => Ok(*lane),
            None => {
                let lane = match pin {
                    None => lanes.open(priority),
                    Some(pin) => lanes.open_pinned(priority, pin),
                };
                group.lanes.push((way, lane));
                Ok(lane)
            }
        }
    }

    /// Those that are open: what has ended them, if anything has, and their lanes.
    #[cfg(test)]
    pub(super) fn open(&self) -> impl Iterator<Item = (GroupId, bool, &[(Way, u32)])> {
        (0..).zip(&self.places).filter_map(|(index, Place { guard, group })| {
            let group = group.as_ref()?;
            Some((GroupId { index, guard: *guard }, group.ended.is_some(), &group.lanes[..]))
        })
    }

    /// Whether the next deadline is what it should be.
    #[cfg(test)]
    pub(super) fn is_due_right(&self) -> bool {
        let open = self.places.iter().filter_map(|place| place.group.as_ref());
        let due = open.filter(|group| group.ended.is_none()).filter_map(|group| group.deadline);
        due.map(|(at, _)| at).min() == self.due
    }
}

impl<P> Machine<P> {
    /// Opens a batch. Each is to be closed in the end.
    pub(crate) fn open(&mut self, spec: GroupSpec) -> GroupId {
        let GroupSpec { abort, deadline } = spec;
        let group = Group { abort, deadline, lanes: Vec::new(), ended: None };
        let groups = &mut self.groups;
        let index = groups.free.pop().unwrap_or_else(|| {
            groups.places.push(Place { guard: 0, group: None });
            u32::try_from(groups.places.len() - 1).expect("fewer than 2^32 batches fit in memory")
        });
        let place = &mut groups.places[index as usize];
        place.guard = place.guard.wrapping_add(1);
        place.group = Some(group);
        let id = GroupId { index, guard: place.guard };
        if let Some((at, _)) = deadline {
            groups.deadlines.insert((at, index));
            groups.find_due();
        }
        id
    }

    /// Nobody wants anything of a batch any more.
    pub(super) fn close_group(&mut self, now: Instant, id: GroupId) {
        self.end_group(now, id, &TaskError::Cancelled);
        let Some(place) = self.groups.places.get_mut(id.index as usize) else { return };
        if place.guard != id.guard {
            return;
        }
        let Some(group) = place.group.take() else { return };
        self.groups.free.push(id.index);
        group.lanes.into_iter().for_each(|(_, lane)| self.queue.close(lane));
    }

    /// An item of a batch has failed.
    pub(super) fn abort_group(&mut self, now: Instant, id: GroupId) {
        if self.groups.get(id).is_some_and(|group| group.abort) {
            self.end_group(now, id, &TaskError::Cancelled);
        }
    }

    /// Ends the batches whose deadlines have come.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        while let Some((_, index)) = self.groups.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            let place = &self.groups.places[index as usize];
            let id = GroupId { index, guard: place.guard };
            let Some((_, limit)) = place.group.as_ref().and_then(|group| group.deadline) else { return };
            self.end_group(now, id, &TaskError::DeadlineExceeded { limit });
        }
    }

    /// Ends a batch, unless it has ended before: everything of it ends with this error, wherever it is.
    fn end_group(&mut self, now: Instant, id: GroupId, error: &TaskError) {
        let Some(group) = self.groups.get_mut(id).filter(|group| group.ended.is_none()) else { return };
        group.ended = Some(error.clone());
        let deadline = group.deadline;
        let is_empty = group.lanes.iter().all(|(_, lane)| self.queue.left(*lane) == 0);
        if let Some((at, _)) = deadline {
            self.groups.deadlines.remove(&(at, id.index));
            self.groups.find_due();
        }
        if is_empty {
            // As most batches end: nobody is asked whether he holds anything of it.
            return;
        }
        let Some(group) = self.groups.get(id) else { return };
        let lanes = group.lanes.iter().map(|(_, lane)| *lane);
        let mut left: Vec<TaskKey> =
            lanes.flat_map(|lane| self.queue.in_lane(lane, &self.units)).map(|(key, _)| key).collect();
        let of_group = |unit: &Unit| unit.group() == Some(id);
        let suspects = self.suspects.iter(&self.units).filter(|(_, unit)| of_group(unit));
        left.extend(suspects.map(|(key, _)| key));
        for slot in &self.slots {
            let reserved = match &slot.phase {
                Phase::Ready(ready) => ready.reserved,
                _ => None,
            };
            let held = slot.hand().into_iter().flat_map(Hand::spans).filter_map(|held| held.task);
            left.extend(held.chain(reserved).filter(|key| self.units.get(*key).is_some_and(of_group)));
        }
        for key in left {
            self.stop(now, key, error.clone());
        }
    }
}
