//! What a seed decides once for its pool: configuration, temper of the workers, habits of the callers.

use std::time::Duration;

use super::aims::Aim;
use super::random::Random;
use crate::policy::RestartPolicy;
use crate::supervisor::machine::{Config, Staffing};

/// How often workers do what, in a thousand opportunities.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Temper {
    pub(super) spawn_fails: u32,
    pub(super) spawns_slowly: u32,
    pub(super) dies_booting: u32,
    pub(super) never_hello: u32,
    pub(super) unusable: u32,
    pub(super) garbage_boot: u32,
    pub(super) dies_idle: u32,
    /// Build a state before they claim a task.
    pub(super) prepares: u32,
    pub(super) dies_preparing: u32,
    pub(super) unfit: u32,
    pub(super) dies_at_claim: u32,
    /// Have more memory than they may have.
    pub(super) grows: u32,
    pub(super) dies_running: u32,
    pub(super) dies_before_writing: u32,
    pub(super) dies_after_writing: u32,
    pub(super) dies_retiring: u32,
    pub(super) ignores_retire: u32,
    pub(super) stalls: u32,
    pub(super) hangs: u32,
    pub(super) panics: u32,
    pub(super) fails: u32,
    pub(super) garbage: u32,
    pub(super) scribbles: u32,
    /// Tasks that close the result pipe of their worker.
    pub(super) mutes: u32,
    pub(super) unsendable: u32,
    /// Results of which the supervisor is not told.
    pub(super) silent: u32,
    /// Tasks that misbehave wherever they run.
    pub(super) poison: u32,
    /// Workers that have grown too large after a task.
    pub(super) heavy: u32,
    /// Late events of incarnations that are gone.
    pub(super) ghosts: u32,
    /// Processes that take their time to die of a signal.
    pub(super) lingers: u32,
}

/// What a pool has more of than others, so that what happens seldom happens together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Theme {
    None,
    /// States that are built.
    Building,
    /// Workers that are killed for what they do.
    Killing,
    /// Workers that go.
    Going,
    /// Tasks that are told to stop.
    Stopping,
}

#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) config: Config,
    /// Workers that stand by.
    pub(super) spares: u32,
    pub(super) temper: Temper,
    /// What callers do before they are done.
    pub(super) operations: u32,
    /// Longest pause between two of them.
    pub(super) pause: Duration,
    /// Longest task.
    pub(super) work: Duration,
    /// Take-backs and inspections are answered late, as by a worker on another machine.
    pub(super) remote: bool,
    /// The supervisor itself is held up from time to time.
    pub(super) sluggish: bool,
    /// Callers change the number of workers.
    pub(super) resizes: bool,
    /// Several things happen before anything is done about them.
    pub(super) hectic: bool,
    /// Tasks have limits, and run again whatever becomes of them.
    pub(super) insists: bool,
    /// Batches have deadlines.
    pub(super) hurries: bool,
    /// What is to happen in which states.
    pub(super) aims: Vec<Aim>,
    /// Nanoseconds that workers claim to have needed for each of their latest items, true or not.
    pub(super) measured: Option<u64>,
}

/// When healthy workers come and go.
fn staffing(random: &mut Random) -> Staffing {
    let least = random.pick(&[None, None, None, Some(0), Some(1), Some(3)]);
    let idle = Duration::from_micros(random.pick(&[0, 500, 20_000, 300_000]));
    Staffing {
        least,
        idle: least.map(|_| idle),
        quota: random.pick(&[None, None, None, Some(1), Some(3), Some(20)]),
        jitter: random.pick(&[0, 0, 2, 30]),
        weighs: random.chance(250),
        overlap: random.chance(700),
    }
}

impl Scenario {
    pub(super) fn new(random: &mut Random) -> Self {
        let millis = |random: &mut Random, choices: &[u64]| Duration::from_millis(random.pick(choices));
        let first_delay = millis(random, &[0, 1, 5, 20]);
        let restart = RestartPolicy {
            max_restarts: random.pick(&[0, 1, 2, 5, 50]),
            window: millis(random, &[20, 500, 60_000, 3_600_000]),
            first_delay,
            max_delay: millis(random, &[20, 200, 1000]).max(first_delay),
        };
        let config = Config {
            workers: random.pick(&[1, 1, 2, 2, 3, 4, 8]),
            staffing: staffing(random),
            executable: "simulated".to_owned(),
            restart,
            start_timeout: millis(random, &[60, 500]),
            init_timeout: millis(random, &[40, 400]),
            start_up: Duration::from_micros(random.pick(&[0, 0, 500, 5_000, 30_000])),
            states: random.pick(&[0, 0, 1, 3]),
            exit_timeout: millis(random, &[10, 300]),
            cancel_grace: millis(random, &[0, 0, 10, 50]),
            claim_timeout: millis(random, &[40, 300]),
            ahead: Duration::from_micros(random.pick(&[20, 1_000, 50_000])),
            wake: Duration::from_micros(random.pick(&[0, 0, 10, 50, 500])),
            cores: random.pick(&[1, 2, 100]),
            unpaced: random.pick(&[2, 2, 64]),
            prefetch: random.pick(&[1, 2, 3, 8, 64]),
            prefetch_bytes: random.pick(&[1, 100, 1 << 20]),
            ticket_window: random.pick(&[64, 64, 100, 256]),
            seed: random.next(),
        };
        let calm = random.chance(150);
        let mut rate = |most: u32| {
            let rate = random.pick(&[0, 0, most / 8, most]);
            if calm { 0 } else { rate }
        };
        let temper = Temper {
            spawn_fails: rate(200),
            spawns_slowly: 20,
            dies_booting: rate(300),
            never_hello: rate(100),
            unusable: rate(16),
            garbage_boot: rate(60),
            dies_idle: rate(40),
            prepares: rate(200),
            dies_preparing: rate(300),
            unfit: rate(16),
            dies_at_claim: rate(60),
            grows: rate(40),
            dies_running: rate(60),
            dies_before_writing: rate(60),
            dies_after_writing: rate(60),
            dies_retiring: rate(300),
            ignores_retire: rate(300),
            stalls: rate(40),
            hangs: rate(40),
            panics: rate(80),
            fails: rate(80),
            garbage: rate(40),
            scribbles: rate(20),
            mutes: rate(20),
            unsendable: rate(30),
            silent: rate(60),
            poison: rate(80),
            heavy: rate(100),
            ghosts: rate(100),
            lingers: 100,
        };
        let mut scenario = Self {
            config,
            spares: random.pick(&[0, 0, 0, 1, 3]),
            temper,
            operations: random.within(5, 120) as u32,
            pause: Duration::from_micros(random.pick(&[20, 500, 5_000, 60_000])),
            work: Duration::from_micros(random.pick(&[3, 50, 2_000, 30_000, 200_000])),
            remote: random.chance(250),
            sluggish: random.chance(250),
            resizes: random.chance(250),
            hectic: false,
            insists: false,
            hurries: false,
            aims: Vec::new(),
            measured: random.pick(&[None, None, None, Some(100), Some(4_000), Some(u64::MAX)]),
        };
        let none = Theme::None;
        let themes = [none, none, none, Theme::Building, Theme::Killing, Theme::Going, Theme::Stopping];
        scenario.follow(random.pick(&themes), random);
        scenario
    }

    /// Whether workers far away take very long to answer.
    pub(super) fn is_slow(&self) -> bool {
        self.hectic && self.sluggish
    }

    fn follow(&mut self, theme: Theme, random: &mut Random) {
        let (temper, config) = (&mut self.temper, &mut self.config);
        self.resizes |= theme != Theme::None && random.chance(500);
        match theme {
            Theme::None => {}
            Theme::Building => {
                config.states = 3;
                (temper.prepares, temper.dies_preparing, temper.unfit) = (600, 60, 8);
                (temper.garbage, temper.hangs, temper.panics) = (100, 20, 100);
                (temper.garbage_boot, temper.never_hello) = (100, 50);
            }
            Theme::Killing => {
                (temper.garbage, temper.scribbles, temper.mutes) = (120, 60, 60);
                (temper.grows, temper.lingers, temper.heavy) = (150, 700, 100);
                config.staffing.weighs = true;
            }
            Theme::Going => {
                config.staffing.quota = random.pick(&[None, Some(3), Some(6)]);
                config.staffing.weighs = true;
                (temper.heavy, temper.ignores_retire, temper.dies_retiring) = (200, 100, 100);
                (temper.prepares, temper.garbage, temper.grows, temper.lingers) = (300, 60, 60, 500);
            }
            Theme::Stopping => {
                (temper.hangs, temper.stalls, temper.grows) = (150, 60, 40);
                (temper.heavy, temper.garbage, temper.lingers) = (40, 30, 500);
                config.staffing.weighs = true;
                config.cancel_grace = Duration::from_millis(30);
            }
        }
    }
}
