//! The table of units that have not ended: constant-time access by key, places reused.

use crate::ids::TaskId;
use crate::supervisor::event::TaskKey;

/// A slab whose keys carry a task's number, so that a stale key finds nothing.
#[derive(Debug)]
pub(crate) struct TaskTable<T> {
    places: Vec<Option<(TaskId, T)>>,
    free: Vec<u32>,
}

impl<T> TaskTable<T> {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, id: TaskId, value: T) -> TaskKey {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(None);
                u32::try_from(self.places.len() - 1).expect("fewer than 2^32 units fit in memory")
            }
        };
        self.places[index as usize] = Some((id, value));
        TaskKey { index, id }
    }

    pub(crate) fn get(&self, key: TaskKey) -> Option<&T> {
        match self.places.get(key.index as usize) {
            Some(Some((id, value))) if *id == key.id => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: TaskKey) -> Option<&mut T> {
        match self.places.get_mut(key.index as usize) {
            Some(Some((id, value))) if *id == key.id => Some(value),
            _ => None,
        }
    }

    /// What is at a place, and its key.
    pub(crate) fn at(&self, index: u32) -> Option<(TaskKey, &T)> {
        let (id, value) = self.places.get(index as usize)?.as_ref()?;
        Some((TaskKey { index, id: *id }, value))
    }

    /// What is at a place.
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places.get_mut(index as usize)?.as_mut().map(|(_, value)| value)
    }

    pub(crate) fn remove(&mut self, key: TaskKey) -> Option<T> {
        let place = self.places.get_mut(key.index as usize)?;
        match place {
            Some((id, _)) if *id == key.id => {
                self.free.push(key.index);
                place.take().map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub(crate) fn keys(&self) -> Vec<TaskKey> {
        let named = |(index, place): (usize, &Option<(TaskId, T)>)| {
            place.as_ref().map(|(id, _)| TaskKey { index: index as u32, id: *id })
        };
        self.places.iter().enumerate().filter_map(named).collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}
