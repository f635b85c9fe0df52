//! What must be true of the state machine after every event; checked by the tests only.

use std::time::Instant;

use super::{Counters, Life, Machine, Place};
use crate::supervisor::event::TaskKey;
use crate::supervisor::slot::{Phase, Slot};

impl<P> Machine<P> {
    /// Living tasks of the queue, the next one first.
    pub(crate) fn waiting(&self) -> Vec<TaskKey> {
        let living = |key: &TaskKey| self.tasks.get(*key).is_some();
        self.queue.iter().copied().filter(living).collect()
    }

    /// Compares every counter and cross-reference with what it stands for.
    ///
    /// # Errors
    /// What does not agree.
    pub(crate) fn check_invariants(&self) -> Result<(), String> {
        let mut places: Vec<(TaskKey, Place)> = Vec::new();
        let waiting = self.waiting();
        if waiting.len() != self.queued {
            return Err(format!("`queued` is {}, but {} tasks wait", self.queued, waiting.len()));
        }
        places.extend(waiting.into_iter().map(|key| (key, Place::Queued)));
        let suspects = self.suspects.iter().filter(|key| self.tasks.get(**key).is_some());
        places.extend(suspects.map(|key| (*key, Place::Suspect)));
        let mut total = 0;
        for slot in &self.slots {
            let (held, reserved) = match &slot.phase {
                Phase::Ready(ready) => (Some(&ready.held), ready.reserved),
                Phase::Dying { held, .. } => (Some(held), None),
                _ => (None, None),
            };
            total += held.map_or(0, |held| held.len());
            let keys = held.into_iter().flatten().filter_map(|held| held.task).chain(reserved);
            places.extend(keys.map(|key| (key, Place::With(slot.worker))));
            self.check_slot(slot).map_err(|what| format!("worker {}: {what}", slot.worker))?;
        }
        if total != self.held {
            return Err(format!("`held` is {}, but workers hold {total}", self.held));
        }
        for (key, place) in &places {
            match self.tasks.get(*key) {
                Some(task) if task.place == *place => {}
                Some(task) => return Err(format!("{key:?} thinks it is {:?}, but is {place:?}", task.place)),
                None => return Err(format!("{key:?} has ended, but is {place:?}")),
            }
        }
        // Every living task is in exactly one place: none is missing, and none is twice.
        if places.len() != self.tasks.len() {
            return Err(format!("{} tasks live, {} are somewhere", self.tasks.len(), places.len()));
        }
        let mut seen = vec![false; places.iter().map(|(key, _)| key.index as usize + 1).max().unwrap_or(0)];
        let again = |(key, _): &&(TaskKey, Place)| std::mem::replace(&mut seen[key.index as usize], true);
        if let Some((twice, place)) = places.iter().find(again) {
            return Err(format!("{twice:?} is {place:?}, and somewhere else too"));
        }
        if matches!(self.life, Life::Over(_)) && !places.is_empty() {
            return Err("the pool is over, but tasks live".to_owned());
        }
        Ok(())
    }

    fn check_slot(&self, slot: &Slot) -> Result<(), String> {
        let due = match &slot.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Starting { since } => Some(*since + self.config.start_timeout),
            Phase::Retiring { since, .. } => Some(*since + self.config.exit_timeout),
            Phase::Ready(ready) => {
                if ready.bytes != ready.held.iter().map(|held| held.size).sum::<usize>() {
                    return Err(format!("`bytes` is {}, which is not what it holds", ready.bytes));
                }
                let tickets: Vec<_> = ready.held.iter().map(|held| held.ticket).collect();
                if tickets.windows(2).any(|pair| pair[0] >= pair[1])
                    || tickets.last().is_some_and(|last| *last >= ready.next_ticket)
                {
                    return Err(format!("tickets {tickets:?} before {} are out of order", ready.next_ticket));
                }
                let head = ready.held.front();
                if head.is_some_and(|head| ready.next_ticket - head.ticket > self.config.ticket_window) {
                    return Err(format!("tickets {tickets:?} exceed the window"));
                }
                if let Some(condemned) = &ready.condemned
                    && head.is_none_or(|head| head.ticket != condemned.ticket)
                {
                    return Err(format!("ticket {} is condemned, but not the head", condemned.ticket));
                }
                if ready.alone && ready.held.len() != 1 {
                    return Err(format!("a suspect runs alone among {}", ready.held.len()));
                }
                if ready.held.len() > self.config.prefetch {
                    return Err(format!("it holds {}, over the limit", ready.held.len()));
                }
                self.head_is_due(slot)
            }
            Phase::Dying { .. } | Phase::Stopped => None,
        };
        let Some(due) = due else { return Ok(()) };
        match slot.timer {
            Some(timer) if timer <= due => {}
            timer => return Err(format!("its timer is {timer:?}, but {:?} is due at {due:?}", slot.phase)),
        }
        let set =
            self.timers.iter().any(|entry| Some(entry.0.0) == slot.timer && entry.0.1 == slot.worker.get());
        if set { Ok(()) } else { Err("its timer is not in the heap".to_owned()) }
    }

    /// When the head of a ready worker must be looked at, by its own state. A condemned head needs no timer, and one
    /// that is being inspected is looked at soon; both are answered by the shell.
    fn head_is_due(&self, slot: &Slot) -> Option<Instant> {
        let Phase::Ready(ready) = &slot.phase else { return None };
        let head = ready.held.front()?;
        if ready.condemned.is_some() || slot.timer.is_none() {
            return None;
        }
        match (&head.doomed, head.started, head.limit) {
            (Some((since, _)), _, _) => Some(*since + self.config.cancel_grace),
            (None, Some(started), Some(limit)) => Some(started + limit),
            (None, Some(_), None) => None,
            (None, None, _) => None,
        }
    }
}

impl Counters {
    fn each(&mut self) -> [&mut u64; 13] {
        let Self {
            submitted,
            succeeded,
            failed,
            cancelled,
            timed_out,
            retried,
            requeued,
            taken_back,
            spawned,
            task_deaths,
            idle_deaths,
            start_deaths,
            kills,
        } = self;
        [
            submitted,
            succeeded,
            failed,
            cancelled,
            timed_out,
            retried,
            requeued,
            taken_back,
            spawned,
            task_deaths,
            idle_deaths,
            start_deaths,
            kills,
        ]
    }

    /// The sum of two pools.
    pub(crate) fn plus(mut self, other: &Self) -> Self {
        let mut other = *other;
        self.each().into_iter().zip(other.each()).for_each(|(sum, more)| *sum += *more);
        self
    }

    /// The counter that counted least.
    pub(crate) fn least(mut self) -> u64 {
        self.each().into_iter().map(|count| *count).min().unwrap_or(0)
    }
}
