//! Who waits for whom, in virtual time: a single task beside a long batch, batches beside each other, and priorities.

use super::super::lanes::SINGLES;
use super::schedules::{MICROS, MILLIS, Plant};
use super::*;

impl Plant {
    fn open(&mut self) -> TaskSpec {
        of(self.bench.machine.open(GroupSpec::default()))
    }

    /// Submits many items, in units of so many as a map submits together.
    fn batch(&mut self, spec: &TaskSpec, count: usize, takes: u64) -> u64 {
        let first = self.submit(spec, &[takes]);
        let rest = vec![takes; count - 1];
        rest.chunks(10_000).for_each(|items| _ = self.submit(spec, items));
        self.on(self.now, Event::Pump);
        first
    }

    /// How long a single task waits that is submitted now.
    fn wait_of_a_single(&mut self) -> u64 {
        let submitted = self.now;
        let single = self.send(&plain(), &[MICROS]);
        while !self.begun.contains_key(&single) {
            self.run_until(self.now + 100 * MICROS);
        }
        self.begun[&single] - submitted
    }
}

#[test]
fn a_single_task_beside_a_long_batch_waits_for_what_runs_and_little_more() {
    for workers in [1, 2, 8] {
        for (takes, most) in [
            (2 * MICROS, 3 * MILLIS),
            (100 * MICROS, 3 * MILLIS),
            (5 * MILLIS, 11 * MILLIS),
            (40 * MILLIS, 81 * MILLIS),
            (1_000 * MILLIS, 1_001 * MILLIS),
        ] {
            let mut plant = Plant::new(workers);
            let batch = plant.open();
            let count = (20 * MILLIS / takes).max(40) as usize * workers as usize * 3;
            plant.batch(&batch, count, takes);
            for _ in 0..3 {
                let later = plant.now + 10 * MILLIS;
                plant.run_until(later);
                let waited = plant.wait_of_a_single();
                assert!(waited <= most, "{workers} workers, items of {takes} ns: {waited} ns");
            }
        }
    }
}

#[test]
fn what_was_handed_out_while_it_looked_short_is_taken_back_when_somebody_else_comes() {
    for workers in [1, 2] {
        let mut plant = Plant::new(workers);
        let batch = plant.open();
        plant.batch(&batch, 20_000, 2 * MICROS);
        let long = plant.now + 30 * MILLIS;
        plant.batch(&batch, 2_000, 20 * MILLIS);
        plant.run_until(long + 10 * MILLIS);
        let held: Vec<usize> = (0..workers).map(|worker| plant.bench.machine.load(worker as usize)).collect();
        assert!(held.iter().any(|items| *items > 50), "there is nothing to take back: {held:?}");
        let waited = plant.wait_of_a_single();
        assert!(waited <= 45 * MILLIS, "{workers} workers: {waited} ns behind {held:?}");
    }
}

#[test]
fn batches_share_the_time_of_the_workers_whatever_their_items_take() {
    for workers in [1, 2, 4] {
        for times in [[50 * MICROS, 10 * MILLIS], [500 * MICROS, 300 * MILLIS], [3 * MILLIS, 7 * MILLIS]] {
            let mut plant = Plant::new(workers);
            let end = 40 * times[1];
            let firsts = times.map(|takes| {
                let batch = plant.open();
                // So many that one of them alone would keep all busy.
                let count = u64::from(workers) * end / takes;
                (plant.batch(&batch, count as usize, takes), takes)
            });
            plant.run_until(end);
            let time = |(first, takes): (u64, u64), next: u64| {
                plant.begun.range(first..next).map(|(_, at)| takes.min(end - at)).sum::<u64>()
            };
            let shares = [time(firsts[0], firsts[1].0), time(firsts[1], u64::MAX)];
            let fair = shares.iter().sum::<u64>() / 2;
            // An item that is under way counts for one more or less.
            let grain = times[1] * u64::from(workers);
            let off = shares[0].abs_diff(fair);
            assert!(off <= fair / 10 + grain, "{workers} workers, {times:?}: {shares:?}");
        }
    }
}

#[test]
fn items_of_a_higher_priority_overtake_what_waits() {
    let mut plant = Plant::new(2);
    let batch = plant.open();
    plant.batch(&batch, 3_000, MILLIS);
    plant.run_until(20 * MILLIS);
    let urgent = TaskSpec { priority: 1, ..plant.open() };
    let submitted = plant.now;
    let first = plant.batch(&urgent, 100, MILLIS);
    plant.run_until(submitted + 100 * MILLIS);
    let of_batch = plant.begun.range(..first).filter(|(_, at)| **at > submitted).count();
    let until = plant.begun.range(first..first + 100).map(|(_, at)| *at).max().expect("they were begun");
    assert_eq!(plant.begun.range(first..first + 100).count(), 100);
    assert!(until - submitted <= 60 * MILLIS, "the last one began after {} ns", until - submitted);
    let before = plant.begun.range(..first).filter(|(_, at)| (submitted..until).contains(at)).count();
    assert!(before <= 6, "{before} of {of_batch} of the other batch were begun before them");
}

/// If nothing were called back, it would be two items, whatever the number of workers: 79 ms instead of 40 ms for items of 40 ms.
#[test]
fn an_urgent_task_waits_for_what_runs_and_for_no_other_item() {
    for workers in [1, 2, 8] {
        for takes in [100 * MICROS, 3 * MILLIS, 10 * MILLIS, 20 * MILLIS, 40 * MILLIS] {
            let mut plant = Plant::new(workers);
            let batch = plant.open();
            let pause = 3 * takes + takes / 13 + MILLIS;
            plant.batch(&batch, (15 * pause / takes) as usize * workers as usize, takes);
            let mut longest = 0;
            for at in 1..=12 {
                plant.run_until(at * pause);
                let submitted = plant.now;
                let urgent = plant.send(&TaskSpec { priority: 1, ..plain() }, &[MICROS]);
                while !plant.begun.contains_key(&urgent) {
                    plant.run_until(plant.now + 50 * MICROS);
                }
                longest = longest.max(plant.begun[&urgent] - submitted);
            }
            println!("{workers} workers, items of {takes} ns: {longest} ns");
            assert!(longest <= takes + 2 * MILLIS, "{workers} workers, items of {takes} ns: {longest} ns");
        }
    }
}

#[test]
fn what_has_a_low_priority_is_done_when_nothing_else_is_left() {
    let mut plant = Plant::new(2);
    let low = TaskSpec { priority: -5, ..plant.open() };
    let high = TaskSpec { priority: 5, ..plant.open() };
    plant.batch(&low, 200, MILLIS);
    plant.batch(&high, 200, MILLIS);
    plant.run_until(2_000 * MILLIS);
    assert_eq!(plant.bench.machine.pending(), 0);
}

/// What the lane of single tasks has had.
fn had(bench: &Bench) -> u64 {
    bench.machine.queue.pass(SINGLES)
}

#[test]
fn who_cancels_what_runs_has_had_the_time_that_it_ran() {
    let mut pool = Bench::ready(Config { prefetch: 1, ..config(1) });
    let batch = of(pool.machine.open(GroupSpec::default()));
    pool.submit(40, &batch);
    pool.submit(40, &plain());
    let mut turns = [0, 0];
    for _ in 0..20 {
        let holding = pool.machine.head(pool.who(0)).expect("it has something to do");
        let (task, _) = holding.unit.expect("nobody has cancelled it");
        let of_batch = task.id.get() <= 40;
        turns[usize::from(of_batch)] += 1;
        pool.show_claim(0);
        let who = pool.who(0);
        pool.pass(100 * MILLI);
        if of_batch {
            pool.finish(0);
            continue;
        }
        pool.on(Event::Cancel(task));
        pool.pass(GRACE);
        let ticket = Some(holding.span.first);
        pool.on(Event::Observed(who, Observation { ticket, started: Some(pool.now), moving: false }));
        assert_eq!(pool.who(0).generation.get(), who.generation.get() + 1, "it was killed");
        pool.on(Event::Ready(pool.who(0)));
    }
    assert!(turns.iter().all(|turns| (8..=12).contains(turns)), "singles and items: {turns:?}");
}

#[test]
fn what_is_cancelled_before_it_is_begun_costs_nothing() {
    let mut pool = Bench::ready(config(1));
    pool.machine.queue.single(-1);
    let tasks = pool.submit(20, &plain());
    pool.show_claim(0);
    pool.pass(MILLI);
    let all = had(&pool);
    for task in &tasks[1..] {
        pool.on(Event::Cancel(*task));
    }
    let taken: Vec<Ticket> = pool.taken().into_iter().flat_map(|(_, tickets)| tickets).collect();
    assert_eq!(taken.len(), 19);
    for ticket in taken {
        pool.on(Event::TookBack(pool.who(0), answers(&[(ticket, true)])));
    }
    assert_eq!(had(&pool), all / 20, "the one that runs is charged for");
    pool.finish(0);
    assert_eq!(had(&pool), MILLIS, "and then for what it took");
}

#[test]
fn what_goes_on_beyond_its_limit_is_billed_once() {
    let limited = |retry_on| TaskSpec { limit: Some(MILLI), retries: 1, retry_on, ..plain() };
    for retry_on in [RetryOn::DEATH, RetryOn::TIMEOUT] {
        // It ends in the grace period, or is killed after it.
        for ends in [true, false] {
            let mut pool = Bench::ready(Config { prefetch: 1, ..config(1) });
            pool.machine.queue.single(-1);
            pool.submit(1, &limited(retry_on));
            pool.show_claim(0);
            let started = pool.now;
            let who = pool.who(0);
            pool.pass(10 * MILLI);
            let ticket = pool.machine.head(who).map(|head| head.span.first);
            let seen = Observation { ticket, started: Some(started), moving: false };
            pool.on(Event::Observed(who, seen));
            pool.pass(GRACE);
            match ends {
                true => pool.finish(0),
                false => pool.on(Event::Observed(who, seen)),
            }
            assert_eq!(pool.kills().len(), usize::from(!ends));
            let fair = if retry_on == RetryOn::TIMEOUT { 60 * MILLIS } else { 10 * MILLIS };
            assert_eq!(had(&pool), fair, "{retry_on:?}, it ends: {ends}");
        }
    }
}
