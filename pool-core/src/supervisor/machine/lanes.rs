//! What waits to be given out, in *lanes*: one for all single tasks of a priority, and one for the items that a batch has of a
//! priority. Within a lane the order is that of submission.
//!
//! # Who is next
//! Lanes of a higher priority come first. Lanes of the same priority share the workers' time, whatever their items take: the
//! next one is that which has had least of it, and the measure is its *pass*, in nanoseconds. What is handed out is charged at
//! once, with what the lane's items take on average; what is reported later corrects that, and what comes back undone, or is
//! cancelled undone, is paid back. What is cancelled while it runs has had its time so far. This is start-time fair queueing:
//! * A lane that gets work again starts at the pass of the lane that was served last, unless its own is higher. So nobody saves up
//!   time by having nothing to do, and somebody who is new neither overtakes for ever nor waits for the others' past.
//! * Once no lane of a priority has work, all that they owe is forgotten.
//!
//! # Pins
//! A batch may want its pieces to go to the workers in turns. Then it has a lane for each [seat](super::seats) as well, which is
//! *pinned*: only the worker in that seat is given what waits there. Such a batch has many lanes of one priority, so what each of
//! them is given counts as many times as there are seats: together they have the share of one.
//!
//! Each span that a worker holds remembers what was charged for it, because the average changes meanwhile.
//!
//! # With one lane
//! Most pools have single tasks only, or one batch at a time. Then nothing is compared, and where no other lane even exists,
//! nothing is charged or measured.

use std::cmp::Reverse;
#[cfg(test)]
use std::collections::BTreeMap;

use super::line::Line;
use super::unit::Unit;
use crate::supervisor::event::TaskKey;
use crate::supervisor::table::TaskTable;

/// The lane of single tasks of the priority 0, which is always there.
pub(super) const SINGLES: u32 = 0;
/// The average of a lane is that of about so many items.
const MEMORY: u64 = 32;

/// All lanes.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// Places of lanes that are closed.
    free: Vec<u32>,
    /// By priority, in the order in which these were first used.
    levels: Vec<Level>,
    /// Lanes of single tasks besides the one that is always there; they stay.
    singles: Vec<u32>,
    /// Lanes with work: a heap, the first of which is next.
    busy: Vec<u32>,
    /// There is more than one lane, with or without work.
    shared: bool,
    /// How many lanes are pinned, with or without work.
    pinned: u32,
    /// One of several lanes has got work.
    joined: bool,
    /// Nanoseconds that an item is taken to need before one has been measured.
    guess: u64,
}

#[derive(Debug)]
struct Lane {
    line: Line,
    priority: i8,
    /// The seat that it is for, if it is for one only.
    pin: Option<u32>,
    /// How many times what it is given counts.
    weight: u64,
    level: u32,
    /// Its place among those with work.
    at: u32,
    /// Items of it that have not ended, wherever they are.
    left: usize,
    /// Nanoseconds of the workers' time that it has been given.
    pass: u64,
    /// Of that, what it was charged for what has not been corrected yet.
    #[cfg(test)]
    charged: u64,
    /// Nanoseconds an item.
    item: u64,
    /// Nanoseconds of the latest items, and how many these are.
    measured: (u64, u64),
}

/// What lanes of one priority have in common.
#[derive(Debug)]
struct Level {
    priority: i8,
    /// The pass of the lane that was served last.
    now: u64,
    /// The highest pass that any lane has had.
    latest: u64,
    /// How many lanes have work.
    busy: u32,
}

impl Lanes {
    /// `guess`: nanoseconds that an item is taken to need as long as nothing is known.
    pub(super) fn new(guess: u64) -> Self {
        let mut lanes = Self {
            lanes: Vec::new(),
            free: Vec::new(),
            levels: Vec::new(),
            singles: Vec::new(),
            busy: Vec::new(),
            shared: false,
            pinned: 0,
            joined: false,
            guess: guess.max(1),
        };
        lanes.open(0);
        lanes
    }

    /// The lane of single tasks of a priority.
    pub(super) fn single(&mut self, priority: i8) -> u32 {
        if priority == 0 {
            return SINGLES;
        }
        let known = self.singles.iter().find(|lane| self.lanes[**lane as usize].priority == priority);
        if let Some(lane) = known {
            return *lane;
        }
        let lane = self.open(priority);
        self.singles.push(lane);
        lane
    }

    /// Opens a lane.
    pub(super) fn open(&mut self, priority: i8) -> u32 {
        self.add(priority, None)
    }

    /// Opens a lane for a seat, which is one of so many.
    pub(super) fn open_pinned(&mut self, priority: i8, (pin, seats): (u32, u32)) -> u32 {
        self.pinned += 1;
        self.add(priority, Some((pin, seats)))
    }

    fn add(&mut self, priority: i8, pin: Option<(u32, u32)>) -> u32 {
        let known = self.levels.iter().position(|level| level.priority == priority);
        let level = known.unwrap_or_else(|| {
            self.levels.push(Level { priority, now: 0, latest: 0, busy: 0 });
            self.levels.len() - 1
        }) as u32;
        let (line, item) = (Line::new(), self.guess);
        let lane = Lane {
            line,
            priority,
            pin: pin.map(|(pin, _)| pin),
            weight: pin.map_or(1, |(_, seats)| u64::from(seats.max(1))),
            level,
            at: 0,
            left: 0,
            pass: 0,
            #[cfg(test)]
            charged: 0,
            item,
            measured: (0, 0),
        };
        let index = match self.free.pop() {
            Some(index) => {
                self.lanes[index as usize] = lane;
                index
            }
            None => {
                self.lanes.push(lane);
                u32::try_from(self.lanes.len() - 1).expect("fewer than 2^32 lanes fit in memory")
            }
        };
        self.shared = index != SINGLES;
        index
    }

    /// Closes a lane in which nothing waits, and of which nobody holds anything.
    pub(super) fn close(&mut self, lane: u32) {
        debug_assert_eq!(self.lanes[lane as usize].left, 0, "lane {lane} has work");
        self.free.push(lane);
        self.pinned -= u32::from(self.lanes[lane as usize].pin.take().is_some());
        self.shared = self.lanes.len() - self.free.len() > 1;
        if !self.shared {
            // The only one that is left owes nobody anything.
            self.levels.iter_mut().for_each(|level| (level.now, level.latest) = (0, 0));
            let (sole, guess) = (&mut self.lanes[SINGLES as usize], self.guess);
            (sole.pass, sole.item, sole.measured) = (0, guess, (0, 0));
        }
    }

    /// Whether there is more than one lane, with or without work.
    #[inline]
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether there have been lanes of several priorities.
    pub(super) fn has_priorities(&self) -> bool {
        self.levels.len() > 1
    }

    /// The priority of a lane.
    pub(super) fn level(&self, lane: u32) -> i8 {
        self.lanes[lane as usize].priority
    }

    /// Whether any lane is pinned, with or without work.
    #[inline]
    pub(super) fn is_pinned(&self) -> bool {
        self.pinned > 0
    }

    /// The seat that a lane is for, if it is for one only.
    pub(super) fn pin(&self, lane: u32) -> Option<u32> {
        self.lanes[lane as usize].pin
    }

    /// The pins of the lanes that have work, as far as they are pinned.
    pub(super) fn pins(&self) -> impl Iterator<Item = u32> {
        self.busy.iter().filter_map(|lane| self.pin(*lane))
    }

    /// How many lanes have work that anybody may be given.
    pub(super) fn loose(&self) -> usize {
        self.busy.len() - self.pins().count()
    }

    /// Whether several lanes have work.
    #[inline]
    pub(super) fn is_contended(&self) -> bool {
        self.busy.len() > 1
    }

    /// The lanes that have work.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u32> {
        self.busy.iter().copied()
    }

    /// How many lanes have work.
    pub(super) fn busy(&self) -> usize {
        self.busy.len()
    }

    /// Whether one of several lanes has got work since this was last asked.
    #[inline]
    pub(super) fn take_joined(&mut self) -> bool {
        std::mem::take(&mut self.joined)
    }

    /// Nanoseconds that an item of a lane takes on average, one at least.
    pub(super) fn item(&self, lane: u32) -> u64 {
        self.lanes[lane as usize].item
    }

    /// The unit that is next.
    #[inline]
    pub(super) fn first<'a>(&self, units: &'a TaskTable<Unit>) -> Option<(TaskKey, &'a Unit)> {
        self.lanes[*self.busy.first()? as usize].line.first(units)
    }

    /// The unit that is next for somebody who serves these pins.
    pub(super) fn first_of<'a>(
        &self,
        units: &'a TaskTable<Unit>,
        serves: impl Fn(u32) -> bool,
    ) -> Option<(TaskKey, &'a Unit)> {
        let served = |at: &usize| self.pin(self.busy[*at]).is_none_or(&serves);
        let at = (0..self.busy.len()).filter(served).min_by_key(|at| self.rank(*at))?;
        self.lanes[self.busy[at] as usize].line.first(units)
    }

    /// Items of a lane have been submitted.
    #[inline]
    pub(super) fn came(&mut self, lane: u32, items: usize) {
        self.lanes[lane as usize].left += items;
    }

    /// Items of a lane have ended.
    #[inline]
    pub(super) fn ended(&mut self, lane: u32, items: usize) {
        self.lanes[lane as usize].left -= items;
    }

    /// Items of a lane that have not ended.
    pub(super) fn left(&self, lane: u32) -> usize {
        self.lanes[lane as usize].left
    }

    fn rank(&self, at: usize) -> (Reverse<i8>, u64, u32) {
        let index = self.busy[at];
        let lane = &self.lanes[index as usize];
        (Reverse(lane.priority), lane.pass, index)
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.busy.swap(one, other);
        for at in [one, other] {
            self.lanes[self.busy[at] as usize].at = at as u32;
        }
    }

    /// The lane in a place of the heap may come earlier or later than it did.
    fn sift(&mut self, mut at: usize) {
        while at > 0 && self.rank(at) < self.rank((at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        while let Some(least) =
            (2 * at + 1..self.busy.len().min(2 * at + 3)).min_by_key(|below| self.rank(*below))
            && self.rank(least) < self.rank(at)
        {
            self.swap(at, least);
            at = least;
        }
    }

    /// What a lane has had has changed.
    fn has_moved(&mut self, lane: u32) {
        let at = self.lanes[lane as usize].at as usize;
        if self.busy.len() > 1 && self.busy.get(at) == Some(&lane) {
            self.sift(at);
        }
    }

    #[inline]
    pub(super) fn push_back(&mut self, units: &mut TaskTable<Unit>, key: TaskKey) {
        if let Some(index) = self.lane_for(units, key) {
            self.lanes[index as usize].line.push_back(units, key);
        }
    }

    #[inline]
    pub(super) fn push_front(&mut self, units: &mut TaskTable<Unit>, key: TaskKey) {
        if let Some(index) = self.lane_for(units, key) {
            self.lanes[index as usize].line.push_front(units, key);
        }
    }

    /// The lane of a unit, which is about to have work.
    #[inline]
    fn lane_for(&mut self, units: &TaskTable<Unit>, key: TaskKey) -> Option<u32> {
        let index = units.get(key)?.lane;
        if self.lanes[index as usize].line.is_empty() {
            if self.shared {
                self.rejoin(index);
            }
            let lane = &mut self.lanes[index as usize];
            lane.at = self.busy.len() as u32;
            self.levels[lane.level as usize].busy += 1;
            self.busy.push(index);
            self.has_moved(index);
        }
        Some(index)
    }

    /// One of several lanes is about to get work again.
    #[cold]
    fn rejoin(&mut self, index: u32) {
        let lane = &self.lanes[index as usize];
        let level = &mut self.levels[lane.level as usize];
        if level.busy == 0 {
            level.now = level.latest;
        }
        let lane = &mut self.lanes[index as usize];
        lane.pass = lane.pass.max(level.now);
        self.joined = true;
    }

    /// Takes a unit out of the lane in which it waits.
    #[inline]
    pub(super) fn remove(&mut self, units: &mut TaskTable<Unit>, key: TaskKey) {
        let Some(index) = units.get(key).map(|unit| unit.lane) else { return };
        let lane = &mut self.lanes[index as usize];
        lane.line.remove(units, key);
        if !lane.line.is_empty() {
            return;
        }
        let at = lane.at as usize;
        self.levels[lane.level as usize].busy -= 1;
        self.busy.swap_remove(at);
        if let Some(moved) = self.busy.get(at).copied() {
            self.lanes[moved as usize].at = at as u32;
            self.sift(at);
        }
    }

    /// Items of a lane are handed out: what each is charged.
    #[inline]
    pub(super) fn charge(&mut self, lane: u32, items: usize) -> u64 {
        if !self.is_shared() {
            return 0;
        }
        let index = lane;
        let lane = &mut self.lanes[lane as usize];
        let level = &mut self.levels[lane.level as usize];
        level.now = level.now.max(lane.pass);
        let time = lane.item.saturating_mul(items as u64).saturating_mul(lane.weight);
        lane.pass = lane.pass.saturating_add(time);
        level.latest = level.latest.max(lane.pass);
        let each = lane.item;
        #[cfg(test)]
        {
            lane.charged += each * items as u64;
        }
        self.has_moved(index);
        each
    }

    /// Items of a lane for which so many nanoseconds were charged come back undone; before they join it.
    pub(super) fn refund(&mut self, lane: u32, charged: u64) {
        self.correct(lane, charged, 0);
    }

    /// An item of a lane is given up for which so much was charged, after so much of a worker's time. It takes that long at least.
    pub(super) fn give_up(&mut self, lane: u32, charged: u64, spent: u64) {
        if spent > self.item(lane) {
            self.note(lane, 1, charged, spent);
        } else {
            self.correct(lane, charged, spent);
        }
    }

    fn correct(&mut self, index: u32, charged: u64, spent: u64) {
        let lane = &mut self.lanes[index as usize];
        let level = &mut self.levels[lane.level as usize];
        let [more, less] = [spent, charged].map(|time| time.saturating_mul(lane.weight));
        lane.pass = lane.pass.saturating_add(more).saturating_sub(less);
        #[cfg(test)]
        {
            lane.charged = lane.charged.wrapping_sub(charged);
        }
        level.latest = level.latest.max(lane.pass);
        self.has_moved(index);
    }

    /// Items of a lane are done, for which so many nanoseconds were charged, and have taken so many of a worker's time since that last
    /// reported anything.
    ///
    /// Several reports at one moment come with no time but the first; on average it is right.
    pub(super) fn note(&mut self, lane: u32, items: u32, charged: u64, spent: u64) {
        self.correct(lane, charged, spent);
        let lane = &mut self.lanes[lane as usize];
        let (time, count) = &mut lane.measured;
        *time = time.saturating_add(spent);
        *count += u64::from(items);
        lane.item = (*time / (*count).max(1)).max(1);
        if *count > MEMORY {
            (*time, *count) = (lane.item.saturating_mul(MEMORY), MEMORY);
        }
    }

    /// All units that wait: those of a lane in their order.
    #[cfg(test)]
    pub(super) fn iter<'a>(
        &'a self,
        units: &'a TaskTable<Unit>,
    ) -> impl Iterator<Item = (TaskKey, &'a Unit)> + 'a {
        self.busy.iter().flat_map(|lane| self.in_lane(*lane, units))
    }

    /// The units that wait in a lane, in their order.
    pub(super) fn in_lane<'a>(
        &self,
        lane: u32,
        units: &'a TaskTable<Unit>,
    ) -> impl Iterator<Item = (TaskKey, &'a Unit)> + use<'a> {
        self.lanes[lane as usize].line.iter(units)
    }

    /// Compares what is kept with what it stands for.
    ///
    /// # Errors
    /// What does not agree.
    #[cfg(test)]
    pub(super) fn check(&self, units: &TaskTable<Unit>) -> Result<(), String> {
        if let Some(at) = (1..self.busy.len()).find(|at| self.rank(*at) < self.rank((*at - 1) / 2)) {
            return Err(format!("lane {} comes before its time: {self:?}", self.busy[(at - 1) / 2]));
        }
        for (number, level) in (0..).zip(&self.levels) {
            let busy = self.busy.iter().filter(|lane| self.lanes[**lane as usize].level == number).count();
            if busy != level.busy as usize {
                return Err(format!("{busy} lanes have work: {level:?}"));
            }
        }
        for (index, lane) in (0..).zip(&self.lanes) {
            let listed = self.busy.iter().filter(|busy| **busy == index).count();
            if listed != usize::from(!lane.line.is_empty()) {
                return Err(format!("lane {index} is listed {listed} times: {lane:?}"));
            }
            if listed > 0 && self.busy.get(lane.at as usize) != Some(&index) {
                return Err(format!("lane {index} is not where it thinks among {:?}: {lane:?}", self.busy));
            }
            if listed > 0 && self.free.contains(&index) {
                return Err(format!("lane {index} is closed, and has work: {lane:?}"));
            }
            if let Some((key, unit)) = lane.line.iter(units).find(|(_, unit)| unit.lane != index) {
                return Err(format!("{key:?} of lane {} waits in lane {index}", unit.lane));
            }
            let level = &self.levels[lane.level as usize];
            let open = !self.free.contains(&index);
            if level.priority != lane.priority || open && lane.pass > level.latest || lane.item == 0 {
                return Err(format!("lane {index} does not fit {level:?}: {lane:?}"));
            }
            if self.shared != (self.lanes.len() - self.free.len() > 1) {
                return Err(format!("{} lanes are open: {self:?}", self.lanes.len() - self.free.len()));
            }
            let pins = (0..).zip(&self.lanes).filter(|(at, it)| it.pin.is_some() && !self.free.contains(at));
            if pins.count() != self.pinned as usize {
                return Err(format!("not {} lanes are pinned: {self:?}", self.pinned));
            }
            if level.now > level.latest {
                return Err(format!("time goes backwards: {level:?}"));
            }
        }
        Ok(())
    }

    /// Compares how many items of each lane have not ended with what it should be.
    ///
    /// # Errors
    /// The lanes of which it is another number.
    #[cfg(test)]
    pub(super) fn check_left(&self, left: &BTreeMap<u32, usize>) -> Result<(), String> {
        let is_wrong = |(lane, it): &(u32, &Lane)| it.left != left.get(lane).copied().unwrap_or(0);
        let wrong: Vec<_> = (0..).zip(&self.lanes).filter(is_wrong).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{left:?} are left, not {wrong:?}")) }
    }

    /// Compares what lanes were charged for what workers hold with what is to be corrected for that later. What the lane that is
    /// always there was charged is forgotten when the last other one is closed.
    ///
    /// # Errors
    /// The lanes of which it is something else.
    #[cfg(test)]
    pub(super) fn check_charged(&self, held: &BTreeMap<u32, u64>) -> Result<(), String> {
        let is_wrong = |(lane, it): &(u32, &Lane)| it.charged != held.get(lane).copied().unwrap_or(0);
        let open = (0..).zip(&self.lanes).filter(|(lane, _)| *lane != SINGLES && !self.free.contains(lane));
        let wrong: Vec<_> = open.filter(is_wrong).collect();
        if wrong.is_empty() { Ok(()) } else { Err(format!("{held:?} are to be corrected, not {wrong:?}")) }
    }

    /// What a lane has had.
    #[cfg(test)]
    pub(super) fn pass(&self, lane: u32) -> u64 {
        self.lanes[lane as usize].pass
    }

    /// Whether a lane is open, and of which priority.
    #[cfg(test)]
    pub(super) fn priority(&self, lane: u32) -> Option<i8> {
        let open = (lane as usize) < self.lanes.len() && !self.free.contains(&lane);
        open.then(|| self.lanes[lane as usize].priority)
    }

    /// Lanes of single tasks besides the one that is always there.
    #[cfg(test)]
    pub(super) fn singles(&self) -> &[u32] {
        &self.singles
    }

    /// How many lanes are open.
    #[cfg(test)]
    pub(super) fn open_lanes(&self) -> usize {
        self.lanes.len() - self.free.len()
    }
}
