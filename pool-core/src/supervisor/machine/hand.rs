//! What a worker holds: spans of consecutive tickets in the order in which it will run them, each a unit.
//!
//! The first item of the first span is the *head*: what the worker runs, if it runs anything. What is special about a head is
//! kept once, and forgotten when the next item becomes the head.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use super::unit::Limit;
use crate::supervisor::event::{KillReason, Span, TaskKey, Ticket};

/// The items that a worker holds.
#[derive(Debug)]
pub(crate) struct Hand {
    spans: VecDeque<Held>,
    /// Items in all spans.
    items: usize,
    /// Of these, how many are being taken back.
    taking: usize,
    /// Bytes of the arguments of all items.
    bytes: usize,
    /// About the first item of the first span.
    head: Head,
    /// The lowest ticket that the worker may still build a state for.
    unprepared: Ticket,
}

/// A unit that a worker holds; what has ended of it has left.
#[derive(Debug)]
pub(crate) struct Held {
    /// Nanoseconds that its [lane](super::lanes) was charged for each item.
    pub(super) charged: u64,
    /// Of the first item.
    pub(crate) ticket: Ticket,
    pub(crate) count: u32,
    /// How many of the last items are being taken back.
    pub(crate) taking: u32,
    /// Bytes of the arguments of one item.
    pub(super) size: u32,
    pub(super) limit: Limit,
    /// `None` once the unit has been settled without the worker: its results will be dropped.
    pub(crate) task: Option<TaskKey>,
}

/// What is known of the oldest item that a worker holds.
#[derive(Debug)]
pub(crate) struct Head {
    /// When it became the head.
    pub(super) since: Instant,
    /// When it was started, once known.
    pub(super) started: Option<Instant>,
    /// It was running when garbage came out of the worker, so its result does not count.
    pub(super) spoiled: bool,
    /// It is a suspect, and nothing else may be given to its worker.
    pub(super) alone: bool,
    /// It has been told to stop, at this time and for this reason.
    pub(super) doomed: Option<(Instant, KillReason)>,
    /// The worker is about to be killed for it. First everything else is taken back, so that no innocent can start; then the
    /// worker is inspected once more, because the condemned item may have finished meanwhile.
    pub(super) condemned: bool,
}

impl Held {
    pub(crate) fn end(&self) -> Ticket {
        self.ticket + u64::from(self.count)
    }

    pub(super) fn span(&self) -> Span {
        Span { first: self.ticket, count: self.count }
    }

    fn bytes(&self) -> usize {
        self.size as usize * self.count as usize
    }

    /// Those of these tickets that are being taken back.
    pub(super) fn taking_in(&self, tickets: Range<Ticket>) -> Range<Ticket> {
        let first = self.end() - u64::from(self.taking);
        first.max(tickets.start)..self.end().min(tickets.end)
    }
}

impl Head {
    fn new(now: Instant) -> Self {
        Self { since: now, started: None, spoiled: false, alone: false, doomed: None, condemned: false }
    }

    /// Whether other items may be queued behind it.
    pub(crate) fn lets_others_wait(&self) -> bool {
        !self.alone && !self.condemned && self.doomed.is_none()
    }
}

impl Hand {
    pub(crate) fn new(now: Instant) -> Self {
        Self { spans: VecDeque::new(), items: 0, taking: 0, bytes: 0, head: Head::new(now), unprepared: 1 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items == 0
    }

    pub(crate) fn items(&self) -> usize {
        self.items
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when it has been empty, or its head has been the head.
    pub(super) fn since(&self) -> Instant {
        self.head.since
    }

    /// Whether tasks are being taken back.
    pub(super) fn is_taking(&self) -> bool {
        self.taking > 0
    }

    /// The span that the head belongs to.
    pub(crate) fn front(&self) -> Option<&Held> {
        self.spans.front()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Held> {
        self.spans.front_mut()
    }

    pub(crate) fn head(&self) -> Option<&Head> {
        (!self.is_empty()).then_some(&self.head)
    }

    pub(super) fn head_mut(&mut self) -> Option<&mut Head> {
        if self.is_empty() { None } else { Some(&mut self.head) }
    }

    pub(crate) fn spans(&self) -> impl DoubleEndedIterator<Item = &Held> {
        self.spans.iter()
    }

    /// Items, those that are being taken, and bytes.
    #[cfg(test)]
    pub(super) fn sums(&self) -> [usize; 3] {
        [self.items, self.taking, self.bytes]
    }

    pub(super) fn get(&self, place: usize) -> Option<&Held> {
        self.spans.get(place)
    }

    /// The place of the span with this ticket, or of the first one behind it.
    pub(super) fn place(&self, ticket: Ticket) -> usize {
        match self.spans.front() {
            Some(front) if ticket < front.end() => 0,
            _ => self.spans.partition_point(|held| held.end() <= ticket),
        }
    }

    pub(super) fn push(&mut self, held: Held, now: Instant) {
        if self.is_empty() {
            self.head = Head::new(now);
        }
        self.items += held.count as usize;
        self.bytes += held.bytes();
        self.spans.push_back(held);
    }

    /// The first items of the first span are done.
    pub(super) fn advance(&mut self, count: u32, now: Instant) {
        let Some(front) = self.spans.front_mut() else { return };
        debug_assert!(count <= front.count);
        front.ticket += u64::from(count);
        self.unprepared = self.unprepared.max(front.ticket);
        front.count -= count;
        self.items -= count as usize;
        self.bytes -= front.size as usize * count as usize;
        if front.taking > front.count {
            // The worker was faster.
            self.taking -= (front.taking - front.count) as usize;
            front.taking = front.count;
        }
        if front.count == 0 {
            self.spans.pop_front();
        }
        self.head = Head::new(now);
    }

    /// The worker has answered this ticket, so it builds no state for it any more.
    pub(super) fn note_answer(&mut self, ticket: Ticket) {
        self.unprepared = self.unprepared.max(ticket + 1);
    }

    /// How many states the worker may still build for tickets below `end`.
    pub(super) fn unprepared(&self, end: Ticket) -> u64 {
        end.saturating_sub(self.unprepared)
    }

    /// The worker builds a state, for a ticket below `end`: whether it may. It builds one for a ticket at most, in their order, and
    /// for none behind one that it has neither answered nor lost.
    pub(super) fn prepare(&mut self, end: Ticket) -> bool {
        // What is being taken back may be gone already.
        let behind = if self.is_taking() { None } else { self.front().map(|front| front.ticket + 1) };
        let may = self.unprepared < behind.unwrap_or(end);
        if may {
            self.unprepared += 1;
        }
        may
    }

    /// Divides a span before this ticket, which is one of its own but not the first. The second part is another unit.
    pub(super) fn divide(&mut self, place: usize, ticket: Ticket, second: Option<TaskKey>) {
        let Some(held) = self.spans.get_mut(place) else { return };
        debug_assert!(held.ticket < ticket && ticket < held.end());
        let count = (held.end() - ticket) as u32;
        let taking = held.taking.min(count);
        held.count -= count;
        held.taking -= taking;
        let rest = Held { ticket, count, taking, task: second, ..*held };
        self.spans.insert(place + 1, rest);
    }

    /// Takes spans out.
    pub(super) fn remove(&mut self, places: Range<usize>, now: Instant) -> Vec<Held> {
        if places.is_empty() {
            return Vec::new();
        }
        let first = places.start == 0;
        let removed: Vec<Held> = self.spans.drain(places).collect();
        for held in &removed {
            self.items -= held.count as usize;
            self.taking -= held.taking as usize;
            self.bytes -= held.bytes();
        }
        if first {
            self.head = Head::new(now);
        }
        removed
    }

    /// Everything in it.
    pub(super) fn into_spans(self) -> impl Iterator<Item = Held> {
        self.spans.into_iter()
    }

    /// Marks the last `most` items that are not being taken back yet, of the spans that may be, as being taken back, and returns
    /// them, the oldest first. The head stays.
    pub(super) fn ask(&mut self, most: usize, may: impl Fn(&Held) -> bool) -> Vec<Span> {
        let mut asked: Vec<Span> = Vec::new();
        let mut wanted = most;
        for place in (0..self.spans.len()).rev() {
            let held = &mut self.spans[place];
            if !may(held) {
                continue;
            }
            let free = held.count - held.taking;
            let free = if place == 0 { free.saturating_sub(1) } else { free };
            let count = free.min(u32::try_from(wanted).unwrap_or(u32::MAX));
            if count > 0 {
                let first = held.end() - u64::from(held.taking + count);
                held.taking += count;
                self.taking += count as usize;
                wanted -= count as usize;
                match asked.last_mut() {
                    Some(last) if first + u64::from(count) == last.first => {
                        *last = Span { first, count: last.count + count };
                    }
                    _ => asked.push(Span { first, count }),
                }
            }
            if wanted == 0 {
                break;
            }
        }
        asked.reverse();
        asked
    }

    /// The unit has been settled without the worker; returns the place of its span, and what its lane has not got back for
    /// each of its items.
    pub(super) fn disown(&mut self, key: TaskKey) -> Option<(usize, u64)> {
        let place = self.spans.iter().position(|held| held.task == Some(key))?;
        let held = &mut self.spans[place];
        held.task = None;
        Some((place, std::mem::take(&mut held.charged)))
    }

    /// Marks everything in a span, the head included unless `but_head`, as being taken back, and returns what was not before.
    pub(super) fn ask_for(&mut self, place: usize, but_head: bool) -> Option<Span> {
        let held = self.spans.get_mut(place)?;
        let kept = u32::from(but_head);
        let count = (held.count - held.taking).saturating_sub(kept);
        let span = Span { first: held.ticket + u64::from(kept), count };
        held.taking += count;
        self.taking += count as usize;
        (count > 0).then_some(span)
    }

    /// The first run of consecutive tickets in `first..end` that are being taken back.
    pub(super) fn taking_from(&self, first: Ticket, end: Ticket) -> Option<Span> {
        let mut run: Option<Range<Ticket>> = None;
        for held in self.spans.range(self.place(first)..) {
            let taking = held.taking_in(first..end);
            match &mut run {
                _ if taking.is_empty() => {
                    if run.is_some() || held.ticket >= end {
                        break;
                    }
                }
                None => run = Some(taking),
                Some(run) if run.end == taking.start => run.end = taking.end,
                Some(_) => break,
            }
        }
        run.map(|run| Span { first: run.start, count: (run.end - run.start) as u32 })
    }

    /// The worker has claimed everything in a span before this ticket, so that is not being taken back any more.
    pub(super) fn keep(&mut self, place: usize, before: Ticket) {
        let Some(held) = self.spans.get_mut(place) else { return };
        let taking = held.taking.min(held.end().saturating_sub(before) as u32);
        self.taking -= (held.taking - taking) as usize;
        held.taking = taking;
    }
}
