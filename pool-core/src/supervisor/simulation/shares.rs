//! How much of the workers' time each lane has had, as somebody sees it who watches the workers, and that lanes of one priority have
//! had the same, whatever their tasks take.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::fact::{Batch, Lane};
use super::random::Random;
use super::scenario::{Scenario, Temper};
use super::world::{Tail, World};
use crate::call::RetryOn;
use crate::supervisor::event::{Event, GroupSpec, TaskSpec};
use crate::supervisor::machine::Staffing;

/// What the lanes have had.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// By generation: since when a worker has been busy with what it will end next.
    since: BTreeMap<u64, Instant>,
    had: BTreeMap<Lane, Duration>,
}

impl Shares {
    /// A worker that had nothing is given something.
    pub(super) fn begin(&mut self, generation: u64, now: Instant) {
        self.since.insert(generation, now);
    }

    /// A worker has ended a task of a lane.
    pub(super) fn spend(&mut self, generation: u64, lane: Lane, now: Instant) {
        if let Some(since) = self.since.insert(generation, now) {
            *self.had.entry(lane).or_default() += now.saturating_duration_since(since);
        }
    }
}

/// Pools that are looked at.
const POOLS: u64 = if cfg!(debug_assertions) { 4 } else { 40 };
/// How long the workers are busy with what each lane has.
const ENOUGH: Duration = Duration::from_millis(250);
/// How far two shares may be apart.
const TOLERANCE: f64 = 0.2;

/// A pool in which nothing goes wrong.
fn calm(random: &mut Random) -> Scenario {
    let mut scenario = Scenario::new(random);
    let config = &mut scenario.config;
    (config.staffing, config.start_up) = (Staffing::default(), Duration::ZERO);
    config.workers = random.pick(&[1, 2, 3]);
    config.prefetch = random.pick(&[8, 64]);
    config.prefetch_bytes = 1 << 20;
    config.ahead = Duration::from_micros(random.pick(&[200, 1_000, 5_000]));
    (config.start_timeout, config.claim_timeout) = (Duration::from_secs(10), Duration::from_secs(10));
    (scenario.temper, scenario.spares) = (Temper::default(), 0);
    (scenario.remote, scenario.sluggish, scenario.measured) = (false, false, None);
    scenario
}

impl World<'_> {
    /// Gives a lane of its own so many tasks that take so long at most.
    fn submit_lane(&mut self, singles: bool, count: u32, work: Duration) -> Lane {
        let group = (!singles).then(|| {
            let id = self.machine.open(GroupSpec { abort: false, deadline: None });
            self.batches.push(Batch::new(id, false, false, None));
            self.batches.len() - 1
        });
        let piece = self.random.pick(&[1, 20, 10_000]);
        let mut left = count;
        while left > 0 {
            let count = left.min(piece);
            let spec = TaskSpec {
                count,
                chunk: 0,
                limit: None,
                retries: 0,
                retry_on: RetryOn::DEATH,
                group: group.map(|index| self.batches[index].id),
                priority: 0,
                piece: None,
                size: 1,
            };
            let key = self.machine.submit(&spec).expect("the pool is open");
            self.admit(key, &spec, group, None, Some(work));
            left -= count;
        }
        Lane { priority: 0, group, pin: None }
    }

    /// Whether every lane has more left than workers may hold.
    fn all_wait(&self, lanes: &[Lane]) -> bool {
        let hands = self.scenario.config.prefetch * self.most as usize;
        let fresh = |lane: &Lane| {
            self.facts.iter().filter(|fact| fact.lane() == *lane && fact.claims.is_empty()).count()
        };
        lanes.iter().all(|lane| fresh(lane) > hands)
    }
}

fn contest(seed: u64) {
    let mut random = Random::new(seed);
    let scenario = calm(&mut random);
    let (workers, lanes) = (scenario.config.workers, random.within(2, 4));
    let (config, mut tail) = (scenario.config.clone(), Tail::default());
    let mut world = World::with(random.clone(), scenario, &mut tail);
    let mut longest = Duration::ZERO;
    let mut all = Vec::new();
    for number in 0..lanes {
        let work = Duration::from_micros(random.pick(&[600, 2_400, 8_000]));
        longest = longest.max(work);
        let count = 2 * ENOUGH.as_micros() * u128::from(workers) / work.as_micros();
        all.push((world.submit_lane(number == 0, count as u32, work), work));
    }
    world.feed(Event::Pump, &[]);
    let names: Vec<Lane> = all.iter().map(|(lane, _)| *lane).collect();
    while world.all_wait(&names) {
        for _ in 0..200 {
            assert!(world.turn(), "tasks wait, and nothing is going to happen");
        }
    }
    let had = |lane: &Lane| world.shares.had.get(lane).copied().unwrap_or_default().as_secs_f64();
    let found: Vec<(f64, Duration)> = all.iter().map(|(lane, work)| (had(lane), *work)).collect();
    let fair = found.iter().map(|(had, _)| had).sum::<f64>() / found.len() as f64;
    // What each worker has in hand when it begins and when it is looked at.
    let slack = (2 * longest + 2 * config.ahead).as_secs_f64() * f64::from(workers);
    for (had, _) in &found {
        assert!(
            (had - fair).abs() <= TOLERANCE * fair + slack,
            "pool {seed}: a lane has had {had:.3} s, and {fair:.3} s are fair: {found:?}, {config:?}"
        );
    }
}

#[test]
fn lanes_of_one_priority_share_the_time_of_the_workers() {
    (1..=POOLS).for_each(contest);
}
