//! A line of units, linked through the table: joining and leaving cost the same everywhere in it, and nothing is allocated.

use super::unit::Unit;
use crate::supervisor::event::TaskKey;
use crate::supervisor::table::TaskTable;

/// The place of no unit.
pub(super) const NOBODY: u32 = u32::MAX;

/// Units that stand in a line. A unit stands in one line at most.
#[derive(Debug)]
pub(super) struct Line {
    first: u32,
    last: u32,
}

impl Line {
    pub(super) fn new() -> Self {
        Self { first: NOBODY, last: NOBODY }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first == NOBODY
    }

    pub(super) fn first<'a>(&self, units: &'a TaskTable<Unit>) -> Option<(TaskKey, &'a Unit)> {
        units.at(self.first)
    }

    #[inline]
    pub(super) fn push_back(&mut self, units: &mut TaskTable<Unit>, key: TaskKey) {
        self.join(units, self.last, key.index, NOBODY);
    }

    #[inline]
    pub(super) fn push_front(&mut self, units: &mut TaskTable<Unit>, key: TaskKey) {
        self.join(units, NOBODY, key.index, self.first);
    }

    fn join(&mut self, units: &mut TaskTable<Unit>, before: u32, index: u32, behind: u32) {
        match units.at_mut(before) {
            Some(unit) => unit.behind = index,
            None => self.first = index,
        }
        match units.at_mut(behind) {
            Some(unit) => unit.before = index,
            None => self.last = index,
        }
        if let Some(unit) = units.at_mut(index) {
            (unit.before, unit.behind) = (before, behind);
        }
    }

    /// Takes a unit out of the line that it stands in.
    pub(super) fn remove(&mut self, units: &mut TaskTable<Unit>, key: TaskKey) {
        let Some(unit) = units.get_mut(key) else { return };
        let before = std::mem::replace(&mut unit.before, NOBODY);
        let behind = std::mem::replace(&mut unit.behind, NOBODY);
        match units.at_mut(before) {
            Some(unit) => unit.behind = behind,
            None => self.first = behind,
        }
        match units.at_mut(behind) {
            Some(unit) => unit.before = before,
            None => self.last = before,
        }
    }

    /// The units in the line, the first one first.
    pub(super) fn iter<'a>(
        &self,
        units: &'a TaskTable<Unit>,
    ) -> impl Iterator<Item = (TaskKey, &'a Unit)> + use<'a> {
        std::iter::successors(units.at(self.first), |(_, unit)| units.at(unit.behind))
    }
}
