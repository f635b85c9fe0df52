//! How well the work is divided: workers in virtual time that do their items one after the other, and a supervisor that hears
//! of it a little later. What counts is when the last result is there, compared with the best that is possible.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::*;

/// How late a worker sees what it was sent, and we see what it has done: it sleeps and has to be woken.
const LATE: u64 = 60_000;

#[derive(Debug, Default)]
struct Worker {
    /// What has come to it and was not begun, with the time from which on it may be.
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

struct Plant {
    bench: Bench,
    start: Instant,
    workers: Vec<Worker>,
    moments: BinaryHeap<Reverse<(u64, Moment)>>,
    /// Nanoseconds of each item, by number.
    work: BTreeMap<u64, u64>,
}

impl Plant {
    /// Lets workers do items of these durations, in units of so many, and returns how long it took, and how long it would take
    /// without any waiting for each other, in nanoseconds.
    fn run(workers: u32, unit: usize, work: &[u64]) -> (u64, u64) {
        let wake = Duration::from_micros(50);
        let config = Config { wake, unpaced: 2, prefetch: 2048, ticket_window: 4096, ..config(workers) };
        let mut bench = Bench::ready(config);
        let work: BTreeMap<u64, u64> = (1..).zip(work.iter().copied()).collect();
        // In the order of submission, each by whoever is free first.
        let mut free: BinaryHeap<Reverse<u64>> = (0..workers).map(|_| Reverse(0)).collect();
        for takes in work.values() {
            let Reverse(at) = free.pop().expect("there are workers");
            free.push(Reverse(at + takes));
        }
        let best = free.into_iter().map(|Reverse(at)| at).max().unwrap_or(0) + 2 * LATE;
        for first in (1..=work.len()).step_by(unit) {
            let count = (work.len() + 1 - first).min(unit) as u32;
            bench.machine.submit(&TaskSpec { count, ..plain() }).expect("the pool is open");
        }
        let start = bench.now;
        let mut plant = Self {
            bench,
            start,
            workers: (0..workers).map(|_| Worker::default()).collect(),
            moments: BinaryHeap::new(),
            work,
        };
        plant.on(0, Event::Pump);
        let mut now = 0;
        while plant.bench.machine.pending() > 0 {
            let Reverse((at, moment)) = plant.moments.pop().expect("something goes on");
            now = at;
            match moment {
                Moment::Look(index) => plant.look(now, index),
                Moment::Read(index) => plant.read(now, index),
            }
        }
        (now, best)
    }

    fn on(&mut self, now: u64, event: Event<&'static str>) {
        self.bench.now = self.start + Duration::from_nanos(now);
        self.bench.machine.on(self.bench.now, event);
        let mut events = Vec::new();
        for action in self.bench.machine.actions() {
            match action {
                Action::Send { to, ticket, task, first, count, .. } => {
                    let worker = &mut self.workers[to.index()];
                    for at in 0..count {
                        let item = task.item(first + at).get();
                        worker.todo.push_back((now + LATE, ticket + u64::from(at), self.work[&item]));
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
        if let Some((_, ticket, takes)) = worker.todo.front().copied().filter(|(from, ..)| *from <= now) {
            worker.todo.pop_front();
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

const MICROS: u64 = 1_000;
const MILLIS: u64 = 1_000_000;

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
