//! How well the work is divided: workers in virtual time that do their items one after the other, and a supervisor that hears
//! of it a little later. What counts is when the last result is there, compared with the best that is possible.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::*;

/// How late a worker sees what it was sent, and we see what it has done: it sleeps and has to be woken.
const LATE: u64 = 60_000;
pub(super) const MICROS: u64 = 1_000;
pub(super) const MILLIS: u64 = 1_000_000;

#[derive(Debug, Default)]
struct Worker {
    /// What has come to it and was not begun: the time from which on it may be, the ticket, and the item.
    todo: VecDeque<(u64, Ticket, u64)>,
    /// What it does, and when that ends.
    doing: Option<(Ticket, u64)>,
    /// Tickets that it has done and we have not read.
    done: VecDeque<Ticket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// A worker looks what to do.
    Look(usize),
    /// Its results are read.
    Read(usize),
}

pub(super) struct Plant {
    pub(super) bench: Bench,
    start: Instant,
    /// Nanoseconds since the start.
    pub(super) now: u64,
    workers: Vec<Worker>,
    moments: BinaryHeap<Reverse<(u64, Moment)>>,
    /// Nanoseconds of each item, by number.
    work: BTreeMap<u64, u64>,
    /// When each item was begun, by number.
    pub(super) begun: BTreeMap<u64, u64>,
}

impl Plant {
    /// Lets workers do items of these durations, in units of so many, and returns how long it took, and how long it would take
    /// without any waiting for each other, in nanoseconds.
    fn run(workers: u32, unit: usize, work: &[u64]) -> (u64, u64) {
        let mut plant = Self::new(workers);
        // In the order of submission, each by whoever is free first.
        let mut free: BinaryHeap<Reverse<u64>> = (0..workers).map(|_| Reverse(0)).collect();
        for takes in work {
            let Reverse(at) = free.pop().expect("there are workers");
            free.push(Reverse(at + takes));
        }
        let best = free.into_iter().map(|Reverse(at)| at).max().unwrap_or(0) + 2 * LATE;
        for first in (1..=work.len()).step_by(unit) {
            let takes = &work[first - 1..(first - 1 + unit).min(work.len())];
            plant.submit(&plain(), takes);
        }
        plant.on(0, Event::Pump);
        while plant.bench.machine.pending() > 0 {
            plant.step();
        }
        (plant.now, best)
    }

    pub(super) fn new(workers: u32) -> Self {
        let wake = Duration::from_micros(50);
        let config = Config { wake, unpaced: 2, prefetch: 2048, ticket_window: 4096, ..config(workers) };
        let bench = Bench::ready(config);
        Self {
            start: bench.now,
            bench,
            now: 0,
            workers: (0..workers).map(|_| Worker::default()).collect(),
            moments: BinaryHeap::new(),
            work: BTreeMap::new(),
            begun: BTreeMap::new(),
        }
    }

    /// Submits items as one unit, each of which takes so many nanoseconds, and returns the number of the first.
    pub(super) fn submit(&mut self, spec: &TaskSpec, takes: &[u64]) -> u64 {
        let spec = TaskSpec { count: takes.len() as u32, ..spec.clone() };
        let first = self.bench.machine.submit(&spec).expect("the pool is open").id.get();
        self.work.extend((first..).zip(takes.iter().copied()));
        first
    }

    /// As [`submit`](Self::submit), and has it handed out.
    pub(super) fn send(&mut self, spec: &TaskSpec, takes: &[u64]) -> u64 {
        let first = self.submit(spec, takes);
        self.on(self.now, Event::Pump);
        first
    }

    /// Lets things happen until so many nanoseconds after the start.
    pub(super) fn run_until(&mut self, end: u64) {
        while self.next().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    fn next(&mut self) -> Option<u64> {
        let due = self.bench.machine.deadline();
        let due = due.map(|due| due.saturating_duration_since(self.start).as_nanos() as u64);
        let moment = self.moments.peek().map(|Reverse((at, _))| *at);
        moment.into_iter().chain(due).min()
    }

    fn step(&mut self) {
        let at = self.next().expect("something goes on");
        self.now = self.now.max(at);
        let Some(Reverse((_, moment))) = self.moments.peek().copied().filter(|Reverse((due, _))| *due == at)
        else {
            // As the shell does, which looks at what has been done first.
            (0..self.workers.len()).for_each(|index| self.read(self.now, index));
            return self.on(self.now, Event::Tick);
        };
        self.moments.pop();
        match moment {
            Moment::Look(index) => self.look(self.now, index),
            Moment::Read(index) => self.read(self.now, index),
        }
    }

    pub(super) fn on(&mut self, now: u64, event: Event<&'static str>) {
        self.bench.now = self.start + Duration::from_nanos(now);
        self.bench.machine.on(self.bench.now, event);
        let mut events = Vec::new();
        for action in self.bench.machine.actions() {
            match action {
                Action::Send { to, ticket, task, first, count, .. } => {
                    let worker = &mut self.workers[to.index()];
                    for at in 0..count {
                        let item = task.item(first + at).get();
                        worker.todo.push_back((now + LATE, ticket + u64::from(at), item));
                    }
                    self.moments.push(Reverse((now + LATE, Moment::Look(to.index()))));
                }
                Action::TakeBack(who, spans) => {
                    let worker = &mut self.workers[who.index()];
                    let begun = worker.todo.front().map_or(Ticket::MAX, |(_, ticket, _)| *ticket);
                    let mut answers = Vec::new();
                    for Span { first, count } in spans {
                        let (end, middle) =
                            (first + u64::from(count), begun.clamp(first, first + u64::from(count)));
                        worker.todo.retain(|(_, ticket, _)| !(middle..end).contains(ticket));
                        for (from, to, taken) in [(first, middle, false), (middle, end, true)] {
                            if from < to {
                                answers.push((Span { first: from, count: (to - from) as u32 }, taken));
                            }
                        }
                    }
                    events.push((who.index(), Event::TookBack(who, answers)));
                }
                Action::Resolve { .. } | Action::Split { .. } => {}
                other => panic!("an unexpected action: {other:?}"),
            }
        }
        for (index, event) in events {
            // As the shell does: what has been claimed may have been finished.
            self.read(now, index);
            self.on(now, event);
        }
    }

    fn look(&mut self, now: u64, index: usize) {
        let worker = &mut self.workers[index];
        if let Some((ticket, end)) = worker.doing {
            if end > now {
                return;
            }
            worker.doing = None;
            worker.done.push_back(ticket);
            self.moments.push(Reverse((now + LATE, Moment::Read(index))));
        }
        if let Some((_, ticket, item)) = worker.todo.front().copied().filter(|(from, ..)| *from <= now) {
            worker.todo.pop_front();
            let takes = self.work[&item];
            self.begun.insert(item, now);
            worker.doing = Some((ticket, now + takes));
            self.moments.push(Reverse((now + takes, Moment::Look(index))));
        }
    }

    fn read(&mut self, now: u64, index: usize) {
        let who = self.bench.who(index as u32);
        while let Some(head) = self.bench.machine.head(who).map(|head| head.span) {
            let done = &mut self.workers[index].done;
            let run = head.tickets().zip(done.iter()).take_while(|(due, done)| due == *done).count();
            if run == 0 {
                break;
            }
            done.drain(..run);
            self.on(now, Event::Finished(who, head.first, run as u32, "done"));
        }
    }
}

/// It may take a hundredth more than the best, and the time that some ways of the news between us and the workers take.
#[track_caller]
fn within(workers: u32, work: &[u64]) {
    for unit in [1, 1000] {
        let (took, best) = Plant::run(workers, unit, work);
        let over = took.saturating_sub(best + best / 100) as f64 / LATE as f64;
        println!(
            "{workers:>2} workers, {} items in units of {unit}: {took} ns, {best} at best, over {over:.1}",
            work.len()
        );
        assert!(over <= 12.0, "{workers} workers, units of {unit}: {took} ns, {best} at best");
    }
}

/// Durations that are `least` mostly, and sometimes a thousand times as long.
fn heavy_tailed(count: usize, least: u64) -> Vec<u64> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    };
    (0..count).map(|_| (least as f64 / next().max(1e-3)) as u64).collect()
}

#[test]
fn items_of_one_kind() {
    for workers in [1, 2, 8, 64] {
        within(workers, &vec![2 * MICROS; 100_000]);
        within(workers, &vec![100 * MICROS; 10_000]);
        within(workers, &vec![MILLIS; 64 * 20]);
    }
}

#[test]
fn one_long_item_among_short_ones() {
    for workers in [2, 8] {
        for place in [0, 1, 500, 4_999, 9_999] {
            let mut work = vec![100 * MICROS; 10_000];
            work[place] = 200 * MILLIS;
            within(workers, &work);
        }
    }
}

#[test]
fn items_that_become_long_or_short() {
    let short = vec![2 * MICROS; 50_000];
    let long = vec![MILLIS; 200];
    for workers in [2, 8] {
        within(workers, &[&short[..], &long].concat());
        within(workers, &[&long[..], &short].concat());
        within(workers, &[&short[..], &long, &short, &long].concat());
    }
}

#[test]
fn heavy_tails() {
    for workers in [2, 8] {
        within(workers, &heavy_tailed(10_000, 50 * MICROS));
        within(workers, &heavy_tailed(30_000, 2 * MICROS));
    }
}
