//! What the state machine costs: `cargo test --release -p pool-core costs -- --ignored --nocapture`.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Machine;
use super::tests::{config, death, plain};
use crate::supervisor::event::{Action, Autopsy, Event, GroupSpec, Incarnation, TaskSpec, Ticket};

const TASKS: u32 = 1_000_000;

/// Workers that finish what they are given, a run of one unit at a time, in turns.
struct Shop {
    machine: Machine<()>,
    buffer: VecDeque<Action<()>>,
    now: Instant,
    /// What was sent and has not been reported, by worker: the first ticket and how many.
    sent: Vec<VecDeque<(Ticket, u32)>>,
    ended: u64,
    actions: u64,
}

impl Shop {
    fn new(workers: u32) -> Self {
        let now = Instant::now();
        let config = super::Config { prefetch: 2048, ticket_window: 4096, unpaced: 2, ..config(workers) };
        let mut shop = Self {
            machine: Machine::new(config, now),
            buffer: VecDeque::new(),
            now,
            sent: (0..workers).map(|_| VecDeque::new()).collect(),
            ended: 0,
            actions: 0,
        };
        for worker in 0..workers {
            shop.on(Event::Ready(shop.who(worker)));
        }
        shop
    }

    fn who(&self, worker: u32) -> Incarnation {
        self.machine.slots()[worker as usize].incarnation()
    }

    fn on(&mut self, event: Event<()>) {
        self.machine.on(self.now, event);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        loop {
            let mut actions = std::mem::take(&mut self.buffer);
            self.machine.exchange(&mut actions);
            if actions.is_empty() {
                self.buffer = actions;
                return;
            }
            while let Some(action) = actions.pop_front() {
                self.actions += 1;
                match black_box(action) {
                    Action::Send { to, ticket, count, .. } => {
                        self.sent[to.index()].push_back((ticket, count))
                    }
                    Action::Resolve { count, .. } => self.ended += u64::from(count),
                    Action::TakeBack(who, spans) => {
                        // Nothing has been started yet.
                        for span in &spans {
                            let sent = &mut self.sent[who.index()];
                            while let Some((ticket, count)) = sent.pop_back() {
                                let kept = span.first.saturating_sub(ticket).min(u64::from(count)) as u32;
                                if kept > 0 {
                                    sent.push_back((ticket, kept));
                                }
                                if ticket <= span.first {
                                    break;
                                }
                            }
                        }
                        let answers = spans.into_iter().map(|span| (span, true)).collect();
                        self.machine.on(self.now, Event::TookBack(who, answers));
                    }
                    _ => {}
                }
            }
            self.buffer = actions;
        }
    }

    /// A worker finishes what it holds of its head's unit, `most` items at most.
    fn finish(&mut self, worker: u32, most: u32) -> bool {
        let who = self.who(worker);
        let Some((ticket, count)) = self.sent[worker as usize].front_mut() else { return false };
        let done = most.min(*count);
        let first = *ticket;
        *ticket += u64::from(done);
        *count -= done;
        if *count == 0 {
            self.sent[worker as usize].pop_front();
        }
        self.now += Duration::from_nanos(200) * done;
        self.on(Event::Finished(who, first, done, ()));
        true
    }

    /// A worker finishes everything that it holds, and all of it is read at once.
    fn finish_all(&mut self, worker: u32) {
        let who = self.who(worker);
        let mut sent = std::mem::take(&mut self.sent[worker as usize]);
        let items: u32 = sent.iter().map(|(_, count)| count).sum();
        self.now += Duration::from_nanos(200) * items;
        for (first, count) in sent.drain(..) {
            self.machine.report(self.now, who, first, count, ());
        }
        self.machine.reported(self.now);
        self.sent[worker as usize] = sent;
        self.carry_out();
    }
}

/// Nanoseconds of processor time that this thread has used: a busy machine disturbs them less than the clock.
fn used() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|used| used.parse().ok()).unwrap_or_default()
}

fn report(what: &str, workers: u32, began: u64, shop: &Shop) {
    let each = (used() - began) as f64 / shop.ended as f64;
    println!(
        "{what}, {workers:>2} workers: {each:6.1} ns a task, {:.2} actions",
        shop.actions as f64 / shop.ended as f64
    );
}

#[test]
#[ignore = "measures; run it alone, in release"]
fn costs() {
    for workers in [1, 2, 8, 64] {
        let mut shop = Shop::new(workers);
        let began = used();
        for _ in 0..TASKS {
            shop.machine.submit(&plain()).unwrap();
            shop.on(Event::Pump);
            let busy = (0..workers).find(|worker| !shop.sent[*worker as usize].is_empty()).unwrap();
            shop.finish(busy, 1);
        }
        report("one after the other    ", workers, began, &shop);
    }
    for workers in [1, 2, 8, 64] {
        let mut shop = Shop::new(workers);
        let began = used();
        for round in 0..TASKS {
            shop.machine.submit(&plain()).unwrap();
            shop.on(Event::Pump);
            if round > 10_000 {
                for worker in 0..workers {
                    if shop.finish((round + worker) % workers, 1) {
                        break;
                    }
                }
            }
        }
        report("singles, 10,000 waiting", workers, began, &shop);
    }
    for workers in [1, 2, 8, 64] {
        let mut shop = Shop::new(workers);
        let began = used();
        for _ in 0..TASKS {
            shop.machine.submit(&plain()).unwrap();
            shop.on(Event::Pump);
        }
        let submitted = used() - began;
        let mut worker = 0;
        while shop.ended < u64::from(TASKS) {
            shop.finish(worker, 1);
            worker = (worker + 1) % workers;
        }
        println!("  submitting: {:.1} ns", submitted as f64 / f64::from(TASKS));
        report("singles, all at first  ", workers, began, &shop);
    }
    for workers in [1, 2, 8, 64] {
        let mut shop = Shop::new(workers);
        let began = used();
        for _ in 0..100 {
            for _ in 0..10 {
                shop.machine.submit(&TaskSpec { count: TASKS / 100, size: 1_000_000, ..plain() }).unwrap();
            }
            shop.on(Event::Pump);
            let mut worker = 0;
            while shop.machine.pending() > 0 {
                shop.finish(worker, 64);
                worker = (worker + 1) % workers;
            }
        }
        report("units, runs of 64      ", workers, began, &shop);
    }
}

#[test]
#[ignore = "measures; run it alone, in release"]
fn costs_together() {
    for workers in [1, 2, 8] {
        let mut shop = Shop::new(workers);
        let began = used();
        while shop.ended < u64::from(TASKS) {
            for _ in 0..64 {
                shop.machine.submit(&plain()).unwrap();
                if !shop.machine.may_wait(shop.now) {
                    shop.on(Event::Pump);
                }
            }
            shop.on(Event::Pump);
            (0..workers).for_each(|worker| shop.finish_all(worker));
        }
        report("singles, by the 64     ", workers, began, &shop);
    }
}

/// A death, and the hello of the next one, while the pieces of a batch go to the workers in turns and all have their hands full.
#[test]
#[ignore = "measures; run it alone, in release"]
fn costs_of_deaths() {
    for workers in [8, 100, 1000] {
        let mut shop = Shop::new(workers);
        let group = shop.machine.open(GroupSpec::default());
        for piece in 0..1000 * u64::from(workers) {
            let piece = Some(piece);
            shop.machine.submit(&TaskSpec { group: Some(group), piece, ..plain() }).unwrap();
        }
        shop.on(Event::Pump);
        for _ in 0..20 {
            (0..workers).for_each(|worker| _ = shop.finish(worker, 1));
        }
        let held = shop.sent.iter().flatten().map(|(_, count)| u64::from(*count)).sum::<u64>();
        let deaths = 200;
        let began = used();
        for worker in (0..deaths).map(|death| death % workers) {
            let who = shop.who(worker);
            shop.sent[worker as usize].clear();
            shop.on(Event::Died(who, Autopsy { death: death(who), started: true }));
            shop.on(Event::Ready(shop.who(worker)));
        }
        let each = (used() - began) / u64::from(deaths);
        println!(
            "deaths, {workers:>4} workers with {:>3} items each: {each:>9} ns",
            held / u64::from(workers)
        );
    }
}

/// Much of everything: what one event costs must not grow with what there is.
#[test]
#[ignore = "measures; run it alone, in release"]
fn crowds() {
    for batches in [2, 100, 10_000] {
        let mut shop = Shop::new(8);
        let limit = Duration::from_secs(3600);
        let deadline = Some((shop.now + limit, limit));
        let specs: Vec<GroupSpec> = (0..batches).map(|_| GroupSpec { abort: true, deadline }).collect();
        let began = used();
        let groups: Vec<_> = specs.into_iter().map(|spec| shop.machine.open(spec)).collect();
        let each = TASKS / 10 / batches;
        for group in &groups {
            for _ in 0..each {
                shop.machine.submit(&TaskSpec { group: Some(*group), ..plain() }).unwrap();
            }
            shop.on(Event::Pump);
        }
        let mut worker = 0;
        while shop.machine.pending() > 0 {
            shop.finish(worker, 1);
            worker = (worker + 1) % 8;
        }
        groups.into_iter().for_each(|group| shop.on(Event::CloseGroup(group)));
        report(&format!("{batches:>6} batches at once"), 8, began, &shop);
    }
    for workers in [8, 1000] {
        let mut shop = Shop::new(workers);
        let keys: Vec<_> = (0..TASKS).map(|_| shop.machine.submit(&plain()).unwrap()).collect();
        shop.on(Event::Pump);
        let began = used();
        keys.into_iter().for_each(|key| shop.on(Event::Cancel(key)));
        report("singles, all cancelled ", workers, began, &shop);
        let mut shop = Shop::new(workers);
        (0..TASKS).for_each(|_| _ = shop.machine.submit(&plain()).unwrap());
        shop.on(Event::Pump);
        (0..3 * workers).for_each(|turn| _ = shop.finish(turn % workers, 1));
        let began = used();
        for _ in 0..10_000 {
            let group = shop.machine.open(GroupSpec::default());
            shop.machine.submit(&TaskSpec { group: Some(group), ..plain() }).unwrap();
            shop.on(Event::Pump);
            shop.on(Event::CloseGroup(group));
            shop.ended += 1;
        }
        report("batches beside singles ", workers, began, &shop);
    }
}
