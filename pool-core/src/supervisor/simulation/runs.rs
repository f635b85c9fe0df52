//! Runs one pool after the other, and reports the seed of the first that breaks a promise.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::aims::Aim;
use super::coverage::Coverage;
use super::world::{Sights, Tail, World};
use crate::supervisor::machine::Counters;

/// Events that a run of the test suite feeds; unoptimised, they take ten times as long.
const STEPS: u64 = if cfg!(debug_assertions) { 300_000 } else { LONG };
/// Events and actions that a failure shows, unless it is said.
const TAIL: usize = 60;
/// Events in which everything must have happened that can, except for what is rare.
const LONG: u64 = 1_000_000;
/// Pools that aim at something rare before it is said that it cannot be reached.
const HUNT: u64 = 300;

/// What a pool lived through.
#[derive(Debug, PartialEq, Eq)]
struct Story {
    steps: u64,
    counters: Counters,
    broken: bool,
    sights: Sights,
    coverage: Coverage,
}

/// What the pools of many seeds lived through.
#[derive(Debug, Default)]
struct Total {
    fed: u64,
    pools: u64,
    broken: u64,
    counters: Counters,
    sights: Sights,
    coverage: Coverage,
}

impl Total {
    fn add(&mut self, story: &Story) {
        self.fed += story.steps;
        self.pools += 1;
        self.broken += u64::from(story.broken);
        self.counters = self.counters.plus(&story.counters);
        self.sights = self.sights.plus(&story.sights);
        self.coverage.add(&story.coverage);
    }

    fn join(&mut self, other: &Self) {
        self.fed += other.fed;
        self.pools += other.pools;
        self.broken += other.broken;
        self.counters = self.counters.plus(&other.counters);
        self.sights = self.sights.plus(&other.sights);
        self.coverage.add(&other.coverage);
    }
}

fn live(seed: u64, tail: &mut Tail) -> Result<Story, String> {
    let life = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, tail);
        world.run();
        let counters = world.machine.counters();
        let coverage = std::mem::take(&mut world.coverage);
        Story { steps: world.steps, counters, broken: world.broken, sights: world.sights, coverage }
    }));
    life.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
    })
}

/// Lives the life of a pool; if it breaks a promise, lives it again and tells it.
fn check(seed: u64) -> Story {
    let first = match live(seed, &mut Tail::default()) {
        Ok(story) => return story,
        Err(what) => what,
    };
    let most = number("POOL_SIM_TAIL").map_or(TAIL, |lines| lines.max(2) as usize);
    let mut tail = Tail { wanted: true, most, ..Tail::default() };
    let again = live(seed, &mut tail);
    let tail: Vec<String> = tail.lines.into();
    let same =
        if again.as_ref().err() == Some(&first) { "" } else { "\n(the second run of this seed differs)" };
    panic!(
        "{first}{same}\nthe last events:\n{}\nreproduce with: POOL_SIM_SEED={seed} cargo test -p pool-core simulation",
        tail.join("\n"),
    );
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text} is no number: {error}")))
}

/// Lives the lives of the pools from this seed on, so many at a time, until they have been fed so many events.
fn check_many(first: u64, wanted: u64, jobs: u64) -> Total {
    let (next, fed, failed) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut total = Total::default();
        while fed.load(Ordering::Relaxed) < wanted && !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let story = catch_unwind(|| check(seed)).unwrap_or_else(|panic| {
                failed.store(true, Ordering::Relaxed);
                resume_unwind(panic)
            });
            fed.fetch_add(story.steps, Ordering::Relaxed);
            total.add(&story);
        }
        total
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let mut total = Total::default();
        for worker in workers {
            total.join(&worker.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        total
    })
}

/// Lives the lives of pools that aim at what is rare and was not seen, and returns how many it took for each.
fn hunt(total: &mut Total) -> Vec<String> {
    let mut tries = Vec::new();
    for (place, aim) in Aim::all().into_iter().enumerate() {
        let mut pools = 0;
        while !aim.was_hit(&total.coverage) && pools < HUNT {
            pools += 1;
            total.add(&check(Aim::seed(place, pools)));
        }
        if pools > 0 {
            tries.push(format!("{aim:?}: {pools}"));
        }
    }
    tries
}

#[test]
fn simulation() {
    let (seed, steps) = (number("POOL_SIM_SEED"), number("POOL_SIM_STEPS"));
    // A seed alone is one that failed: that one, and no other.
    let wanted = steps.unwrap_or(if seed.is_some() { 1 } else { STEPS });
    let (first, jobs) = (seed.unwrap_or(1), number("POOL_SIM_JOBS").unwrap_or(1).max(1));
    let since = Instant::now();
    let mut total = check_many(first, wanted, jobs);
    if total.fed >= LONG {
        let tries = hunt(&mut total);
        println!("pools that aimed at what was not seen by then: {tries:?}");
    }
    let Total { fed, pools, broken, counters, sights, coverage } = &total;
    println!(
        "{fed} events in {pools} pools, seeds {first} to {}, {broken} of them broken: {counters:?}, {sights:?}",
        first.wrapping_add(pools - 1)
    );
    println!("{:.0} events a second", *fed as f64 / since.elapsed().as_secs_f64());
    if *fed >= STEPS {
        // The simulation is worth nothing if it does not get into trouble.
        let all = *broken > 0 && counters.least() > 0 && sights.least(*fed >= LONG) > 0;
        assert!(all, "something never happens: {broken} broken, {counters:?}, {sights:?}");
    }
    if *fed >= LONG {
        println!("{coverage}");
        let missing = coverage.missing();
        assert!(missing.is_empty(), "never seen, and not said to be impossible: {missing:#?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_simulation() {
    for seed in [3, 1 << 40] {
        assert_eq!(check(seed), check(seed));
    }
}
