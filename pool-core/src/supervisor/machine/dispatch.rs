//! Handing tasks out.
//!
//! A worker is given work for about [`Config::ahead`](super::Config::ahead), as far as its pace is known, or two pieces of
//! the size that the unit asks for; but with `n` items to do and `w` workers none is given more than its share `n / w`. It
//! is refilled when it is half empty, so that items travel many at a time. Of the idle ones, the one that has worked last is
//! the first to be given something.
//!
//! Waking a worker takes [`Config::wake`](super::Config::wake), of our time, too. So a worker that will have done everything
//! it holds by then is given more before an idle one is, and nothing of it is taken back. That is a guess: the next item
//! may take long. Therefore it is looked at again after a few times as long, later while such guesses turn out right
//! (`Machine::look_again`), and if it has reported nothing, what waits behind it is given to the idle ones.

use std::time::Instant;

use super::hand::Held;
use super::pace::LATE;
use super::unit::{self, Place, Unit};
use super::{Hand, Machine};
use crate::supervisor::event::{Action, Incarnation, TaskKey, Ticket};
use crate::supervisor::slot::{Ready, Slot};

/// Workers in a row that turn out to have no room before we stop looking for one that has.
const MISSES: usize = 4;
/// Tasks that are submitted one by one are handed out together, at most so many, while somebody is busy with tasks as short.
const TOGETHER: usize = 256;
/// Of these, after how many it is looked whether somebody will still come for them.
const LOOKS: usize = 8;
/// Tasks are short enough for that if a worker does so many while another could be woken.
const SHORT: usize = 16;

impl<P> Machine<P> {
    /// Gives out what there is to whom there is.
    pub(super) fn dispatch(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        self.collecting = None;
        self.muster();
        self.call_back_astray();
        let joined = self.meet(now);
        if self.crew.reserved > 0 {
            self.place_reserved(now);
        }
        if !self.suspects.is_empty() {
            self.reserve_suspects(now);
        }
        // Idle workers first, so that nothing is queued behind a long task while somebody has nothing to do.
        if self.queued > 0 && !self.crew.idle.is_empty() {
            self.feed_awake(now);
            self.feed_idle(now);
        }
        if self.queued > 0 {
            self.feed_hungry(now);
            // Where tasks kill their workers nobody comes for more.
            self.unload(now);
        }
        if self.is_taken() {
            for _ in 0..self.crew.idle.len() {
                if !self.steal(now) {
                    break;
                }
            }
        }
        if joined {
            self.call_back(now);
        }
    }

    /// A lane may have got work while workers hold as much of another as they should have if there were only that one; whether it has.
    #[inline]
    fn meet(&mut self, now: Instant) -> bool {
        let joined = self.queue.take_joined() && self.crew.hoarders > 0;
        if joined {
            self.level_at.get_or_insert(now + self.config.ahead);
        }
        joined
    }

    /// Whether a worker holds items of other lanes than the one that is next.
    fn mixes(&self, index: usize) -> bool {
        let last = self.slots[index].hand().and_then(|hand| hand.spans().next_back());
        let lane = last.and_then(|held| self.units.get(held.task?)).map(|unit| unit.lane);
        let next = self.queue.first(&self.units).map(|(_, unit)| unit.lane);
        last.is_some() && next.is_some() && lane != next
    }

    /// One worker has finished something: gives it more when it runs low.
    pub(super) fn refill(&mut self, index: usize, now: Instant) {
        self.muster();
        self.call_back_astray();
        let joined = self.meet(now);
        if !self.suspects.is_empty() {
            self.reserve_suspects(now);
        }
        if self.crew.reserved > 0 {
            self.place_reserved(now);
        }
        if self.queued > 0 {
            self.unload(now);
            let Some(ready) = self.slots[index].active() else { return };
            if self.goes_in_turns() || ready.hand.items() <= self.target(ready) / 2 {
                self.fill(index, now, usize::MAX);
            }
            if joined {
                self.call_back(now);
            }
            if !self.queue.is_pinned() {
                return;
            }
        }
        if self.is_taken() {
            self.note_room(index);
            if self.slots[index].standing.idle {
                self.steal(now);
            }
        }
    }

    /// Whether nothing waits that anybody may be given.
    fn is_taken(&self) -> bool {
        self.queued == 0 || self.queue.is_pinned() && self.queue.loose() == 0
    }

    /// Whether it has to be looked which lane is next for whom, and how much of it.
    #[inline]
    fn goes_in_turns(&self) -> bool {
        self.queue.is_contended() || self.queue.is_pinned()
    }

    /// A worker says how many nanoseconds its latest items took each. It is not to be trusted: what depends on it is who is given
    /// how much, and that it is looked at again.
    pub(crate) fn measured(&mut self, who: Incarnation, item: u64) {
        if let Some((_, ready)) = self.working(who) {
            ready.pace.measured(item);
        }
    }

    /// Whether a worker would be woken for what is in the queue, while others are busy that may have done more than we know.
    pub(crate) fn would_wake(&self, now: Instant) -> bool {
        let absorbs = |index: &u32| {
            let ready = self.slots[*index as usize].active();
            ready.is_some_and(|ready| ready.hand.items() < self.soon(ready, now))
        };
        self.queued > 0
            && self.held > 0
            && !self.crew.idle.is_empty()
            && !self.crew.hungry.iter().take(MISSES).any(absorbs)
    }

    /// Whether what has been submitted last may wait for a few more to be handed out together: a worker is busy and will soon come
    /// for more, or we look again.
    pub(crate) fn may_wait(&mut self, now: Instant) -> bool {
        if self.queued >= TOGETHER || self.goes_in_turns() {
            return false;
        }
        if let Some(until) = self.collecting
            && !self.queued.is_multiple_of(LOOKS)
        {
            return now < until;
        }
        let absorbs = |index: &u32| {
            let ready = self.slots[*index as usize].active();
            ready.is_some_and(|ready| {
                self.tempo.soon(false) >= SHORT
                    && ready.hand.items() > 0
                    && ready.hand.items() < self.soon(ready, now)
            })
        };
        let may = self.crew.hungry.iter().take(MISSES).any(absorbs);
        let until = *self.collecting.get_or_insert_with(|| now + self.config.wake);
        let may = may && now < until;
        if may {
            self.look_again(now);
        }
        may
    }

    /// How many items a busy worker will have done by the time another could be woken.
    pub(super) fn soon(&self, ready: &Ready, now: Instant) -> usize {
        let crowded = self.is_crowded();
        let is_late = ready.pace.silence(now) > self.tempo.patience(&self.config, crowded);
        // While lanes compete, nothing waits behind a guess.
        if is_late || self.queue.is_contended() { 0 } else { self.tempo.soon(crowded) }
    }

    /// Whether one more worker would have to share a core with those that are busy.
    pub(super) fn is_crowded(&self) -> bool {
        self.crew.active.saturating_sub(self.crew.idle.len()) >= self.config.cores
    }

    /// Gives busy workers what they will have done before another could be woken for it.
    fn feed_awake(&mut self, now: Instant) {
        let mut misses = 0;
        while self.queued > 0
            && misses < MISSES
            && let Some(index) = self.crew.hungry.pop_front()
        {
            let index = index as usize;
            self.slots[index].hungry = false;
            let Some(ready) = self.slots[index].active() else { continue };
            let (before, soon) = (self.held, self.soon(ready, now));
            if ready.hand.is_empty() {
                // It is an idle one.
                continue;
            }
            if ready.hand.items() < soon {
                self.fill(index, now, soon);
            } else {
                self.note_room(index);
            }
            if self.held > before {
                // So does `steal`, unless something of it is being taken back: then the answer comes by there.
                self.look_again(now);
            } else {
                misses += 1;
            }
        }
    }

    /// Something waits behind a worker that should be done with it soon, while another is idle.
    ///
    /// The first time stays, so that timers need not be set again. A later one would do: whenever something is handed out until then,
    /// `steal` looks at who is late by that time.
    pub(super) fn look_again(&mut self, now: Instant) {
        if self.again.is_none() {
            self.again = Some(self.again_from.max(now + LATE * self.config.wake));
        }
    }

    fn feed_idle(&mut self, now: Instant) {
        if self.queue.is_pinned() {
            return self.feed_idle_in_seats(now);
        }
        while self.queued > 0
            && let Some(&idle) = self.crew.idle.last()
        {
            let each = (self.queued / self.crew.idle.len()).max(1).max(self.tempo.soon(self.is_crowded()));
            self.fill(idle as usize, now, each);
            if self.crew.idle.last() == Some(&idle) {
                debug_assert!(false, "an idle worker takes nothing: {:?}", self.slots[idle as usize]);
                return;
            }
        }
    }

    fn feed_hungry(&mut self, now: Instant) {
        let mut misses = 0;
        while self.queued > 0
            && misses < MISSES
            && let Some(index) = self.crew.hungry.pop_front()
        {
            let index = index as usize;
            self.slots[index].hungry = false;
            let before = self.held;
            // Not too much behind an item that may take long, and nothing behind one that does.
            let Some(ready) = self.slots[index].active().filter(|ready| !ready.pace.is_long(now)) else {
                continue;
            };
            let bound = if ready.pace.is_silent(now, self.config.ahead) { 2 } else { usize::MAX };
            self.fill(index, now, bound);
            misses = if self.held > before { 0 } else { misses + 1 };
        }
    }

    /// Remembers a worker that would take more if there were more.
    fn note_room(&mut self, index: usize) {
        let Some(ready) = self.slots[index].active() else { return };
        let load = ready.hand.items();
        if load > 0 && 2 * load <= ready.pace.window() && ready.is_open() {
            self.note_hungry(index);
        }
    }

    /// How many items a worker should hold now.
    fn target(&self, ready: &Ready) -> usize {
        match self.queue.first(&self.units) {
            Some((_, unit)) if unit.chunk() > 0 => self.two_pieces(unit),
            _ => self.share(ready),
        }
    }

    /// How many items of units that do not ask for pieces of a size a worker should hold now; the same, however many of these it is
    /// given.
    fn share(&self, ready: &Ready) -> usize {
        let share = (self.queued + self.held).div_ceil(self.crew.active.max(1));
        ready.pace.window().min(share.max(self.tempo.soon(self.is_crowded())))
    }

    fn two_pieces(&self, unit: &Unit) -> usize {
        (2 * self.piece(unit)).min(self.config.prefetch)
    }

    /// Size of the pieces that a unit is to be handed out in. A worker must be able to hold two.
    fn piece(&self, unit: &Unit) -> usize {
        (unit.chunk() as usize).min((self.config.prefetch / 2).max(1))
    }

    /// Gives one worker as much as it should hold, or `bound` items if that is less.
    pub(super) fn fill(&mut self, index: usize, now: Instant, bound: usize) {
        let Some(ready) = self.slots[index].ready() else { return };
        if let (Some(task), true) = (ready.reserved, ready.hand.is_empty()) {
            ready.reserved = None;
            self.send(index, now, task, 0);
            if let Some(head) = self.slots[index].hand_mut().and_then(Hand::head_mut) {
                head.alone = true;
            }
            return self.touch(index);
        }
        if self.goes_in_turns() {
            self.fill_in_turns(index, now, bound);
            return self.note_room(index);
        }
        if self.queue.is_shared() && self.mixes(index) {
            self.level_at.get_or_insert(now + 2 * self.config.ahead);
        }
        let mut share = None;
        while let Some((key, unit)) = self.queue.first(&self.units) {
            let Some(ready) = self.slots[index].active() else { return };
            let level = match unit.chunk() {
                0 => *share.get_or_insert_with(|| self.share(ready)),
                _ => self.two_pieces(unit),
            };
            let count = self.portion(ready, unit, level.min(bound));
            if count == 0 {
                break;
            }
            let (whole, lane) = (count >= unit.left() as usize, unit.lane);
            self.take_from_queue(key, count, whole);
            let charged = self.queue.charge(lane, count);
            self.send(index, now, key, charged);
        }
        self.note_room(index);
    }

    /// As [`fill`](Self::fill), while lanes compete: items for about as long as a worker is to be busy without us, by what those of
    /// each lane take, and not too many of one lane at a time.
    fn fill_in_turns(&mut self, index: usize, now: Instant, bound: usize) {
        let Some(ready) = self.slots[index].active() else { return };
        let ahead = u64::try_from(self.config.ahead.as_nanos()).unwrap_or(u64::MAX);
        let least = if ready.pace.is_silent(now, self.config.ahead) { 1 } else { ready.pace.least() };
        let holds = ready.pace.item(now, self.config.ahead).saturating_mul(ready.hand.items() as u64);
        let mut room = ahead.saturating_sub(holds);
        while let Some((key, unit)) = self.next_for(index) {
            let Some(ready) = self.slots[index].active().filter(|ready| ready.is_open()) else { break };
            let (load, each, lane) = (ready.hand.items(), self.queue.item(unit.lane), unit.lane);
            if load >= least && room < each {
                break;
            }
            let turn = room.min(ahead / self.turns() as u64);
            let wanted = match unit.chunk() {
                0 => usize::try_from(turn / each).unwrap_or(usize::MAX).max(1),
                _ if load > self.piece(unit) => 0,
                _ => self.piece(unit),
            };
            let pin = self.queue.pin(lane);
            let bound = if pin.is_some_and(|pin| self.is_stopgap(index, pin)) { 1 } else { bound };
            let most = self.config.prefetch.min(bound).saturating_sub(load);
            let count = self.fitting(ready, unit, wanted.min(most));
            if count == 0 {
                break;
            }
            let whole = count >= unit.left() as usize;
            if pin.is_some_and(|pin| self.stands_in(index, pin)) {
                self.seats.note_stray();
            }
            self.take_from_queue(key, count, whole);
            let charged = self.queue.charge(lane, count);
            self.send(index, now, key, charged);
            room = room.saturating_sub(each.saturating_mul(count as u64));
        }
        self.watch_hand(index, now);
    }

    /// How many items of the first unit in the queue a worker is to be given, which should hold so many.
    fn portion(&self, ready: &Ready, unit: &Unit, level: usize) -> usize {
        let load = ready.hand.items();
        if load >= level || !ready.is_open() {
            return 0;
        }
        let wanted = match unit.chunk() {
            0 => level - load,
            _ if load > self.piece(unit) => 0,
            _ => self.piece(unit),
        };
        self.fitting(ready, unit, wanted)
    }

    /// How many of so many items of a unit a worker has room for.
    fn fitting(&self, ready: &Ready, unit: &Unit, wanted: usize) -> usize {
        let (hand, load) = (&ready.hand, ready.hand.items());
        let oldest = hand.front().map_or(ready.next_ticket, |held| held.ticket);
        let tickets = self.config.ticket_window.saturating_sub(ready.next_ticket - oldest);
        let room = self.config.prefetch_bytes.saturating_sub(hand.bytes());
        let fitting = match wanted.saturating_mul(unit.size as usize) > room {
            false => wanted,
            // A single one is never too large.
            true => (room / unit.size as usize).max(usize::from(load == 0)),
        };
        let quota = usize::try_from(ready.quota).unwrap_or(usize::MAX);
        fitting.min(unit.left() as usize).min(tickets as usize).min(quota)
    }

    /// Takes the first items of the first unit out of the queue, with its key.
    fn take_from_queue(&mut self, key: TaskKey, count: usize, whole: bool) {
        let rest = if whole { None } else { unit::split(&mut self.units, &mut self.out, key, count as u32) };
        if let Some(rest) = rest {
            // Before the other one leaves, so that the lane is never without work.
            self.queue.push_front(&mut self.units, rest);
        }
        self.queue.remove(&mut self.units, key);
        self.queued -= count;
        if self.queued == 0 {
            self.collecting = None;
        }
    }

    /// Gives what is left of a unit to a worker; its lane has been charged so much for each item.
    fn send(&mut self, index: usize, now: Instant, key: TaskKey, charged: u64) {
        let to = self.slots[index].incarnation();
        let Some(unit) = self.units.get_mut(key) else { return };
        unit.place = Place::With(to.worker);
        let (first, count, attempt) = (unit.done, unit.left(), unit.attempts() + 1);
        let (limit, size) = (unit.limit(), unit.size);
        let Some(ready) = self.slots[index].ready() else { return };
        let ticket = ready.next_ticket;
        ready.next_ticket += Ticket::from(count);
        ready.quota -= u64::from(count);
        let idle = ready.hand.is_empty();
        if idle {
            ready.pace.start(now);
        }
        ready.hand.push(Held { ticket, count, taking: 0, size, limit, charged, task: Some(key) }, now);
        self.held += count as usize;
        self.out.push_back(Action::Send { to, ticket, task: key, first, count, attempt, limit: limit.get() });
        if idle {
            self.arm(index, now);
        }
        self.touch_hand(index);
    }

    /// Sends the suspects whose workers have become empty. One whose worker is still busy is given to a worker that has
    /// become idle meanwhile: what it waits for may take for ever. If it seems to, it is left to one that comes for more.
    fn place_reserved(&mut self, now: Instant) {
        let mut others_are_long = false;
        for index in 0..self.slots.len() {
            let Some(ready) = self.slots[index].ready() else { continue };
            let Some(task) = ready.reserved else { continue };
            if self.queue.is_pinned() && self.stays_or_moves(index, task) {
                continue;
            }
            let Some(ready) = self.slots[index].ready() else { continue };
            if ready.hand.is_empty() {
                self.fill(index, now, 1);
                continue;
            }
            let is_long = ready.pace.is_long(now);
            let mut other = self.crew.idle.last().map(|idle| *idle as usize);
            if other.is_none() && is_long && !others_are_long {
                other = self.emptiest_of(|ready| !ready.pace.is_long(now));
                others_are_long = other.is_none();
            }
            let Some(other) = other else { continue };
            if let Some(ready) = self.slots[index].ready() {
                ready.reserved = None;
            }
            self.touch(index);
            self.reserve(other, task);
            self.fill(other, now, 1);
        }
    }

    pub(super) fn reserve(&mut self, index: usize, task: TaskKey) {
        let worker = self.slots[index].worker;
        let Some(ready) = self.slots[index].ready() else { return };
        ready.reserved = Some(task);
        if let Some(waiting) = self.units.get_mut(task) {
            waiting.place = Place::With(worker);
        }
        self.touch(index);
    }

    /// The worker that a suspect waited for is gone: it waits for another one.
    pub(super) fn release_reserved(&mut self, reserved: Option<TaskKey>) {
        let Some(task) = reserved else { return };
        if let Some(waiting) = self.units.get_mut(task) {
            waiting.place = Place::Suspect;
            self.suspects.push_front(&mut self.units, task);
        }
    }

    /// Finds every suspect a worker of its own: the emptiest one gets nothing else until it has run the suspect.
    fn reserve_suspects(&mut self, now: Instant) {
        if self.crew.active > self.sizing.most {
            return;
        }
        if self.queue.is_pinned() {
            return self.reserve_for_seats(now);
        }
        while let Some((task, _)) = self.suspects.first(&self.units) {
            let Some(index) = self.emptiest() else { return };
            self.suspects.remove(&mut self.units, task);
            self.reserve(index, task);
            self.fill(index, now, 1);
        }
    }

    /// The open worker with the least to do.
    pub(super) fn emptiest(&self) -> Option<usize> {
        self.emptiest_of(|_| true)
    }

    fn emptiest_of(&self, may: impl Fn(&Ready) -> bool) -> Option<usize> {
        let fits = |slot: &Slot| {
            slot.active().filter(|ready| ready.is_open() && may(ready)).map(|ready| ready.hand.items())
        };
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(index, slot)| fits(slot).map(|load| (load, index))).min().map(|(_, index)| index)
    }

    /// What was charged for units that come back undone is paid back.
    pub(super) fn refund(&mut self, held: &[Held]) {
        for held in held.iter().filter(|held| held.charged > 0) {
            if let Some(unit) = held.task.and_then(|key| self.units.get(key)) {
                self.queue.refund(unit.lane, held.charged.saturating_mul(u64::from(held.count)));
            }
        }
    }

    /// Puts units that were never started back to the front of the queue, in their old order.
    pub(super) fn requeue(&mut self, tasks: Vec<TaskKey>) {
        for key in tasks.into_iter().rev() {
            let Some(unit) = self.units.get_mut(key) else { continue };
            if unit.attempts() > 0 {
                unit.place = Place::Suspect;
                self.suspects.push_front(&mut self.units, key);
            } else {
                unit.place = Place::Queued;
                self.queued += unit.left() as usize;
                self.queue.push_front(&mut self.units, key);
            }
        }
    }
}
