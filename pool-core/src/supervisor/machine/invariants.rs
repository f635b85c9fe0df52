//! What must be true of the state machine after every event; checked by the tests only.

use std::collections::BTreeMap;
use std::time::Instant;

use super::crew::Standing;
use super::hand::{Hand, Head, Held};
use super::lanes::SINGLES;
use super::unit::{Place, Unit};
use super::{Counters, Life, Machine};
use crate::ids::TaskId;
use crate::stats::RetireCounts;
use crate::supervisor::event::TaskKey;
use crate::supervisor::slot::{Phase, Ready, Slot};

impl<P> Machine<P> {
    /// Items in the queue, the next one first.
    pub(crate) fn waiting(&self) -> Vec<TaskId> {
        let items = |(key, unit): (TaskKey, &Unit)| (unit.done..unit.end).map(move |offset| key.item(offset));
        self.queue.iter(&self.units).flat_map(items).collect()
    }

    /// Where a unit is, unless it has ended.
    pub(crate) fn place_of(&self, key: TaskKey) -> Option<Place> {
        self.units.get(key).map(|unit| unit.place)
    }

    /// The places of those that sit somewhere, by seat.
    pub(crate) fn seating(&self) -> Vec<Option<usize>> {
        (0..self.seats.len()).map(|seat| self.seats.worker(seat)).collect()
    }

    /// Everybody who should sit does, once; nobody sits in a seat that does not count while one is free that does.
    fn check_seats(&self) -> Result<(), String> {
        let mut seated: Vec<usize> = self.seats.workers().collect();
        seated.sort_unstable();
        let should = |slot: &&Slot| Standing::of(slot).seated;
        let expected: Vec<usize> =
            self.slots.iter().filter(should).map(|slot| slot.worker.get() as usize).collect();
        let free = (0..self.sizing.most).any(|seat| self.seats.worker(seat).is_none());
        if seated != expected || free && self.seats.len() > self.sizing.most {
            return Err(format!("{expected:?} should sit, and it is {:?}", self.seats));
        }
        if !self.is_over()
            && let Some(pin) = self.queue.pins().find(|pin| self.server(*pin).is_none())
            && !self.awaits_somebody()
            // Where nobody is left who could stand in, it is waited for whoever comes, however often he has failed.
            && !self.slots.iter().any(|slot| matches!(slot.phase, Phase::Waiting { .. } | Phase::Starting { .. }))
        {
            return Err(format!("nobody serves {pin}, and nobody comes: {:?}", self.seats));
        }
        if self.is_over() {
            return Ok(());
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let Phase::Ready(Ready { hand, .. }) = &slot.phase else { continue };
            // What is asked for will come back, and what somebody serves who is still to come may yet begin here.
            let stays = |(place, held): &(usize, &Held)| held.taking + u32::from(*place == 0) < held.count;
            let units =
                hand.spans().enumerate().filter(stays).filter_map(|(_, held)| self.units.get(held.task?));
            let pins = units.filter_map(|unit| self.queue.pin(unit.lane));
            for (pin, server) in pins.filter_map(|pin| Some((pin, self.server(pin)?))) {
                if server != index {
                    return Err(format!(
                        "{index} keeps what is for {pin}, and {server} serves it: {:?}",
                        self.seats
                    ));
                }
            }
        }
        Ok(())
    }

    /// Compares every counter and cross-reference with what it stands for.
    ///
    /// # Errors
    /// What does not agree.
    pub(crate) fn check_invariants(&self) -> Result<(), String> {
        let mut places: Vec<(TaskKey, Place)> = Vec::new();
        let mut queued = 0;
        for (key, unit) in self.queue.iter(&self.units) {
            queued += unit.left() as usize;
            places.push((key, Place::Queued));
        }
        if queued != self.queued {
            return Err(format!("`queued` is {}, but {queued} items wait", self.queued));
        }
        for (key, unit) in self.suspects.iter(&self.units) {
            if unit.left() != 1 {
                return Err(format!("{} items are one suspect", unit.left()));
            }
            places.push((key, Place::Suspect));
        }
        let mut held = 0;
        for slot in &self.slots {
            held += slot.hand().map_or(0, Hand::items);
            let reserved = match &slot.phase {
                Phase::Ready(ready) => ready.reserved,
                _ => None,
            };
            let keys =
                slot.hand().into_iter().flat_map(Hand::spans).filter_map(|held| held.task).chain(reserved);
            places.extend(keys.map(|key| (key, Place::With(slot.worker))));
            self.check_slot(slot).map_err(|what| format!("worker {}: {what}", slot.worker))?;
        }
        if held != self.held {
            return Err(format!("`held` is {}, but workers hold {held}", self.held));
        }
        self.check_places(&places)?;
        self.check_lanes()?;
        self.check_crew()?;
        self.check_seats()?;
        if matches!(self.life, Life::Over(_)) && !places.is_empty() {
            return Err("the pool is over, but tasks live".to_owned());
        }
        Ok(())
    }

    /// Every living unit is in exactly one place, and knows it: none is missing, and none is twice.
    fn check_places(&self, places: &[(TaskKey, Place)]) -> Result<(), String> {
        let mut items = 0;
        for (key, place) in places {
            let Some(unit) = self.units.get(*key) else {
                return Err(format!("{key:?} has ended, but is {place:?}"));
            };
            if unit.place != *place {
                return Err(format!("{key:?} thinks it is {:?}, but is {place:?}", unit.place));
            }
            if unit.done >= unit.end {
                return Err(format!("{key:?} has nothing left, and lives"));
            }
            items += unit.left() as usize;
        }
        if places.len() != self.units.len() {
            return Err(format!("{} units live, {} are somewhere", self.units.len(), places.len()));
        }
        if items != self.pending {
            return Err(format!("`pending` is {}, but {items} items live", self.pending));
        }
        let mut seen = vec![false; places.iter().map(|(key, _)| key.index as usize + 1).max().unwrap_or(0)];
        let again = |(key, _): &&(TaskKey, Place)| std::mem::replace(&mut seen[key.index as usize], true);
        match places.iter().find(again) {
            Some((twice, place)) => Err(format!("{twice:?} is {place:?}, and somewhere else too")),
            None => Ok(()),
        }
    }

    /// Every unit has a lane that is open and is its batch's; nothing is left of a batch that has ended.
    fn check_lanes(&self) -> Result<(), String> {
        self.queue.check(&self.units)?;
        if !self.groups.is_due_right() {
            return Err(format!("not the next deadline: {:?}", self.groups));
        }
        let open: BTreeMap<_, _> =
            self.groups.open().map(|(id, ended, lanes)| (id, (ended, lanes))).collect();
        for key in self.units.keys() {
            let Some(unit) = self.units.get(key) else { continue };
            let Some(group) = unit.group() else {
                if self.queue.priority(unit.lane).is_none() {
                    return Err(format!("{key:?} is in lane {}, which is closed", unit.lane));
                }
                continue;
            };
            match open.get(&group) {
                Some((false, lanes)) if lanes.iter().any(|(_, lane)| *lane == unit.lane) => {}
                other => return Err(format!("{key:?} lives, and its batch {group:?} is {other:?}")),
            }
        }
        let mut left: BTreeMap<u32, usize> = BTreeMap::new();
        for unit in self.units.keys().into_iter().filter_map(|key| self.units.get(key)) {
            *left.entry(unit.lane).or_default() += unit.left() as usize;
        }
        self.queue.check_left(&left)?;
        let mut charged: BTreeMap<u32, u64> = BTreeMap::new();
        for held in self.slots.iter().filter_map(Slot::hand).flat_map(Hand::spans) {
            if let Some(unit) = held.task.and_then(|key| self.units.get(key)) {
                *charged.entry(unit.lane).or_default() += held.charged * u64::from(held.count);
            }
        }
        if !self.is_over() {
            self.queue.check_charged(&charged)?;
        }
        let mut lanes: Vec<u32> = self.groups.open().flat_map(|(.., lanes)| lanes).map(|of| of.1).collect();
        lanes.push(SINGLES);
        lanes.extend(self.queue.singles());
        lanes.sort_unstable();
        let closed = lanes.iter().any(|lane| self.queue.priority(*lane).is_none());
        let twice = lanes.windows(2).any(|two| two[0] == two[1]);
        if closed || twice || lanes.len() != self.queue.open_lanes() {
            return Err(format!("{} lanes are open, and {lanes:?} are in use", self.queue.open_lanes()));
        }
        if self.is_over() {
            return Ok(());
        }
        let contended = self.queue.is_contended();
        let unlooked = |slot: &Slot| match &slot.phase {
            Phase::Ready(ready) if ready.hand.is_taking() => false,
            Phase::Ready(ready) => contended && ready.hand.items() > 2 || self.mixes_lanes(&ready.hand),
            _ => false,
        };
        if self.level_at.is_none() && self.slots.iter().any(unlooked) {
            return Err(format!("lanes compete, and nobody looks at what workers hold: {:?}", self.slots));
        }
        Ok(())
    }

    /// Whether items of several lanes wait in a hand.
    fn mixes_lanes(&self, hand: &Hand) -> bool {
        let units = hand.spans().filter_map(|held| self.units.get(held.task?));
        let lanes: Vec<u32> = units.map(|unit| unit.lane).collect();
        lanes.windows(2).any(|two| two[0] != two[1])
    }

    fn check_crew(&self) -> Result<(), String> {
        let standings = || self.slots.iter().map(Standing::of);
        if let Some(slot) = self.slots.iter().find(|slot| slot.standing != Standing::of(slot)) {
            return Err(format!("it is {:?} that {slot:?} is {:?}", slot.standing, Standing::of(slot)));
        }
        let count = |is: fn(&Standing) -> bool| standings().filter(is).count();
        let found = [
            count(|it| it.staffed),
            count(|it| it.active),
            count(|it| it.hoards),
            count(|it| it.reserved),
            count(|it| it.idle),
            count(|it| it.spare),
        ];
        let crew = &self.crew;
        let known =
            [crew.staffed, crew.active, crew.hoarders, crew.reserved, crew.idle.len(), crew.spare.len()];
        if found != known
            || crew.idle.iter().any(|idle| !self.slots[*idle as usize].standing.idle)
            || crew.spare.iter().any(|spare| !self.slots[*spare as usize].standing.spare)
        {
            return Err(format!("the crew is {crew:?}, but counts {found:?}"));
        }
        let workers = self.sizing.most;
        let needed = matches!(self.life, Life::Open) || self.pending > 0;
        // After a shrink, those that are busy may still be more.
        let begins = !crew.idle.is_empty() || crew.reserved > 0;
        if crew.active > workers && begins || crew.active < workers && !crew.spare.is_empty() && needed {
            return Err(format!("{workers} should be active: {crew:?}"));
        }
        let least = if self.is_winding_up() { 0 } else { self.sizing.at_rest() };
        let missing = least.saturating_sub(crew.staffed);
        if self.may_grow()
            && !self.config.start_up.is_zero()
            && self.grow_at.is_none()
            && needed
            && !self.is_over()
        {
            return Err(format!("somebody may be missing, and nobody looks again: {crew:?}"));
        }
        let vacant = self.sizing.places().saturating_sub(self.places_taken());
        if missing > 0 && vacant > 0 && !self.is_over() && !self.drained {
            return Err(format!("{missing} are missing: {crew:?}, {:?}", self.slots));
        }
        let listed = |index: usize| crew.hungry.iter().filter(|hungry| **hungry as usize == index).count();
        match self.slots.iter().enumerate().find(|(index, slot)| usize::from(slot.hungry) != listed(*index)) {
            Some((index, _)) => Err(format!("worker {index} is not once among the hungry: {crew:?}")),
            None => Ok(()),
        }
    }

    fn check_slot(&self, slot: &Slot) -> Result<(), String> {
        let due = match &slot.phase {
            Phase::Waiting { until } => Some(*until),
            Phase::Starting { since } => Some(match &slot.preparing {
                Some(preparing) => preparing.since + self.config.init_timeout,
                None => *since + self.config.start_timeout,
            }),
            Phase::Retiring { .. } => self.exit_due(slot.worker.get() as usize),
            Phase::Ready(ready) => {
                self.check_hand(&ready.hand)?;
                self.check_ready(ready)?;
                self.head_is_due(slot)
            }
            Phase::Dying { hand, .. } => {
                self.check_hand(hand)?;
                None
            }
            Phase::Stopped => None,
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

    fn check_hand(&self, hand: &Hand) -> Result<(), String> {
        hand.check()?;
        for held in hand.spans() {
            let Some(key) = held.task else { continue };
            let left = self.units.get(key).map(Unit::left);
            if left != Some(held.count) {
                return Err(format!("{left:?} of {key:?} are left, and it holds {held:?}"));
            }
        }
        Ok(())
    }

    fn check_ready(&self, ready: &Ready) -> Result<(), String> {
        let hand = &ready.hand;
        if hand.is_empty() && ready.is_going() {
            return Err(format!("it should have retired: {ready:?}"));
        }
        let most = self.config.staffing.quota.map_or(u64::MAX, |quota| quota.max(1));
        if ready.quota > most {
            return Err(format!("it may run {} more tasks, over {most}", ready.quota));
        }
        let (first, end) =
            (hand.front().map(|held| held.ticket), hand.spans().next_back().map(|held| held.end()));
        if end.is_some_and(|end| end > ready.next_ticket) {
            return Err(format!("it holds tickets up to {end:?}, over {}", ready.next_ticket));
        }
        if first.is_some_and(|first| ready.next_ticket - first > self.config.ticket_window) {
            return Err(format!("{hand:?} up to {} exceeds the window", ready.next_ticket));
        }
        let Some(head) = hand.head() else { return Ok(()) };
        let [items, taking, _] = hand.sums();
        if (ready.leaving.is_some() || head.condemned) && items - taking > 1 {
            return Err(format!("it is about to go, and keeps more than it runs: {ready:?}"));
        }
        if head.alone && hand.items() != 1 {
            return Err(format!("a suspect runs alone among {}", hand.items()));
        }
        let whole = hand.front().is_none_or(|front| front.count == 1);
        if (head.doomed.is_some() || head.condemned || head.spoiled) && !whole {
            return Err(format!(
                "something is wrong with the head, and it is not alone in its unit: {hand:?}"
            ));
        }
        if hand.items() > self.config.prefetch {
            return Err(format!("it holds {}, over the limit", hand.items()));
        }
        Ok(())
    }

    /// When the head of a ready worker must be looked at, by its own state. A condemned head needs no timer, and one
    /// that is being inspected is looked at soon; both are answered by the shell.
    fn head_is_due(&self, slot: &Slot) -> Option<Instant> {
        let Phase::Ready(ready) = &slot.phase else { return None };
        let (head, front) = (ready.hand.head()?, ready.hand.front()?);
        if head.condemned || slot.timer.is_none() {
            return None;
        }
        match (&head.doomed, head.started, front.limit.get()) {
            (Some((since, _)), _, _) => Some(*since + self.config.cancel_grace),
            (None, Some(started), Some(limit)) => Some(started + limit),
            (None, Some(_), None) => None,
            (None, None, _) => None,
        }
    }
}

/// What is known of a head, for those who look at it from outside.
impl Head {
    pub(crate) fn is_started(&self) -> bool {
        self.started.is_some()
    }

    pub(crate) fn is_spoiled(&self) -> bool {
        self.spoiled
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.is_some()
    }

    pub(crate) fn is_condemned(&self) -> bool {
        self.condemned
    }
}

impl Hand {
    /// Compares the sums with the spans, and the spans with each other.
    fn check(&self) -> Result<(), String> {
        let sum = |of: fn(&super::Held) -> usize| self.spans().map(of).sum::<usize>();
        let sums = [
            sum(|held| held.count as usize),
            sum(|held| held.taking as usize),
            sum(|held| held.size as usize * held.count as usize),
        ];
        if sums != self.sums() {
            return Err(format!("{:?} are not the sums {sums:?} of what it holds", self.sums()));
        }
        let mut behind = 0;
        for held in self.spans() {
            if held.ticket < behind || held.count == 0 || held.taking > held.count {
                return Err(format!("{held:?} is out of order: {self:?}"));
            }
            behind = held.end();
        }
        Ok(())
    }
}

impl Counters {
    fn each(&mut self) -> [&mut u64; 19] {
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
            overdue,
            retired,
        } = self;
        let RetireCounts { tasks, memory, resized, idle, closed } = retired;
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
            overdue,
            tasks,
            memory,
            resized,
            idle,
            closed,
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
