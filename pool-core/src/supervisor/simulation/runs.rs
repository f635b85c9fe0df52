//! Runs one pool after the other, and reports the seed of the first that breaks a promise.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::world::{Sights, Tail, World};
use crate::supervisor::machine::Counters;

/// Events that a run of the test suite feeds; unoptimised, they take ten times as long.
const STEPS: u64 = if cfg!(debug_assertions) { 300_000 } else { LONG };
/// Events in which everything must have happened that can.
const LONG: u64 = 1_000_000;

/// What a pool lived through.
#[derive(Debug, PartialEq, Eq)]
struct Story {
    steps: u64,
    counters: Counters,
    broken: bool,
    sights: Sights,
}

fn live(seed: u64, tail: &mut Tail) -> Result<Story, String> {
    let life = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, tail);
        world.run();
        let counters = world.machine.counters();
        Story { steps: world.steps, counters, broken: world.broken, sights: world.sights }
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
    let mut tail = Tail { wanted: true, ..Tail::default() };
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

#[test]
fn simulation() {
    let (seed, steps) = (number("POOL_SIM_SEED"), number("POOL_SIM_STEPS"));
    // A seed alone is one that failed: that one, and no other.
    let wanted = steps.unwrap_or(if seed.is_some() { 1 } else { STEPS });
    let (mut fed, mut pools, mut broken) = (0, 0, 0);
    let mut total = Counters::default();
    let mut seen = Sights::default();
    let mut seed = seed.unwrap_or(1);
    while fed < wanted {
        let story = check(seed);
        fed += story.steps;
        pools += 1;
        broken += u64::from(story.broken);
        total = total.plus(&story.counters);
        seen = seen.plus(&story.sights);
        seed = seed.wrapping_add(1);
    }
    println!("{fed} events in {pools} pools, {broken} of them broken: {total:?}, {seen:?}");
    if fed >= STEPS {
        // The simulation is worth nothing if it does not get into trouble.
        let all = broken > 0 && total.least() > 0 && seen.least(fed >= LONG) > 0;
        assert!(all, "something never happens: {broken} broken, {total:?}, {seen:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_simulation() {
    for seed in [3, 1 << 40] {
        assert_eq!(check(seed), check(seed));
    }
}
