//! How somebody is brought closer to a state, and what a pool is like in which that is easy.

use std::time::Duration;

use super::Aim;
use crate::supervisor::event::{Event, Incarnation, TaskKey};
use crate::supervisor::simulation::coverage::{
    PoolEvent, PoolState, UnitEvent, UnitState, WorkerEvent, WorkerState as Is,
};
use crate::supervisor::simulation::process::Out;
use crate::supervisor::simulation::random::Random;
use crate::supervisor::simulation::scenario::Scenario;
use crate::supervisor::simulation::world::World;

impl World<'_> {
    /// Does something with a worker after which it may come to be in a state.
    pub(super) fn approach(&mut self, who: Incarnation, to: Is) {
        let (from, generation) = (Is::of(&self.machine, who), who.generation.get());
        let holds = matches!(
            from,
            Is::Unclaimed
                | Is::Building
                | Is::Running
                | Is::Alone
                | Is::Reserved
                | Is::Leaving
                | Is::Stopping
        );
        let runs = self.process(generation).current.is_some();
        let rests = matches!(from, Is::Spare | Is::Idle | Is::IdleBuilding);
        match (from, to) {
            // Nothing is left that it could be given instead.
            (Is::Building, Is::IdleBuilding | Is::RetiringBuilding) | (Is::Unclaimed, Is::Idle) => {
                self.cancel_held(who, usize::MAX);
                self.cancel_all();
            }
            (Is::Idle | Is::Running | Is::Alone, Is::Spare) => self.resize_to(self.most.max(2) - 1),
            (Is::Unclaimed | Is::Running | Is::Alone, Is::Stopping | Is::Condemned) => {
                self.cancel_held(who, 1);
            }
            (Is::Stopping, Is::Condemned) => self.feed(Event::Tick, &[]),
            // As it says; in truth it runs its head.
            (Is::Unclaimed | Is::Running, Is::Building) if runs => self.say(generation, Out::Preparing),
            (Is::Starting, Is::KilledStarting) => self.say(generation, Out::Prepared),
            (Is::StartBuilding, Is::KilledStarting) => self.say(generation, Out::Preparing),
            (Is::Starting, Is::BackingOff) => self.fell(generation, false),
            (Is::Retiring, Is::RetiringKilled) => self.say(generation, Out::Prepared),
            (Is::RetiringBuilding, Is::RetiringKilled) => self.say(generation, Out::Preparing),
            (_, Is::KilledHolding) if holds => self.bloat(generation, WorkerEvent::OverLimit),
            (_, Is::KilledEmpty) if rests => self.bloat(generation, WorkerEvent::OverLimit),
            (_, Is::Spoiled) if holds || from == Is::KilledHolding => self.say(generation, Out::Garbage),
            (_, Is::Leaving) if holds => self.swell(generation),
            (_, Is::Retiring | Is::RetiringKilled) if rests => self.swell(generation),
            (Is::IdleBuilding, Is::RetiringBuilding) => self.swell(generation),
            _ => {}
        }
    }

    /// Cancels what a worker holds, the oldest first, so many units at most.
    fn cancel_held(&mut self, who: Incarnation, most: usize) {
        let hand = self.machine.slots()[who.index()].hand();
        let held = hand.into_iter().flat_map(|hand| hand.spans());
        let held: Vec<TaskKey> = held.filter_map(|held| held.task).take(most).collect();
        for key in held {
            self.feed_cancel(key.id.get() as usize - 1);
        }
    }

    /// Has a worker asked for what it holds last, if it has not been asked for anything.
    pub(super) fn provoke(&mut self, who: Incarnation) {
        if self.is_to_be_asked(who) || !self.processes[who.generation.get() as usize - 1].asked.is_empty() {
            return;
        }
        let hand = self.machine.slots()[who.index()].hand();
        let held: Vec<_> = hand.into_iter().flat_map(|hand| hand.spans()).map(|held| held.task).collect();
        // Not the head, unless it is alone.
        let is_alone = Is::of(&self.machine, who) == Is::Alone;
        if let Some(Some(key)) = held.last().filter(|_| held.len() > 1 || is_alone) {
            self.feed_cancel(key.id.get() as usize - 1);
        }
    }

    pub(super) fn approach_unit(&mut self, state: UnitState, event: UnitEvent) {
        let to = match state {
            UnitState::DyingBehind if event == UnitEvent::Failed => Is::Spoiled,
            UnitState::DyingHead | UnitState::DyingBehind => Is::KilledHolding,
            UnitState::Taking => Is::Leaving,
            UnitState::Stopping | UnitState::Condemned if event == UnitEvent::Illegible => Is::Leaving,
            UnitState::Stopping if event == UnitEvent::Observed => {
                // After the answer it is looked at again, while it has not answered the last time.
                let runs = |who: &Incarnation| Is::of(&self.machine, *who) == Is::Running;
                let busy = self.everybody().find(runs);
                return busy.into_iter().for_each(|who| self.provoke(who));
            }
            _ => return,
        };
        if let Some(who) = self.anybody() {
            if matches!(event, UnitEvent::TookBack | UnitEvent::Claimed | UnitEvent::Illegible) {
                // It is asked for all but its head.
                self.approach(who, Is::Leaving);
            }
            self.approach(who, to);
        }
    }

    /// Something is on its way to a worker, which is to be in this state when it turns out that it cannot be sent.
    pub(super) fn obstruct(&mut self, state: Is) {
        let stops = matches!(state, Is::Stopping | Is::Condemned);
        let suits = |world: &Self, who, _| {
            !stops || matches!(Is::of(&world.machine, who), Is::Running | Is::Stopping)
        };
        let Some((who, _)) = self.addressee(suits) else { return };
        for _ in 0..3 {
            if Is::of(&self.machine, who) != state {
                self.approach(who, state);
            }
        }
    }

    /// The same for the unit that is on its way.
    pub(super) fn obstruct_unit(&mut self, state: UnitState) {
        let suits = |world: &Self, _, key| world.unit_state(key) != state;
        let Some((who, key)) = self.addressee(suits) else { return };
        match (state, self.unit_state(key)) {
            (UnitState::Taking, UnitState::Behind) => self.approach(who, Is::Leaving),
            (UnitState::DyingHead, UnitState::Offered) | (UnitState::DyingBehind, UnitState::Behind) => {
                self.approach(who, Is::KilledHolding);
            }
            _ => {}
        }
    }

    /// Something is on its way to a worker, and all that it holds is cancelled; so it is asked to give back what cannot even be sent,
    /// and has nothing any more when it answers.
    pub(super) fn entangle(&mut self, state: Is) -> bool {
        let builds = matches!(state, Is::IdleBuilding | Is::RetiringBuilding);
        let before = if builds { Is::Building } else { Is::Unclaimed };
        let suits =
            |world: &Self, who, _| Is::of(&world.machine, who) == before && !world.is_to_be_asked(who);
        let Some((who, _)) = self.addressee(suits) else { return false };
        self.cancel_held(who, usize::MAX);
        self.cancel_all();
        if state == Is::Spare {
            self.resize_to(self.most.max(2) - 1);
        }
        match state {
            Is::KilledEmpty => self.bloat(who.generation.get(), WorkerEvent::OverLimit),
            Is::Retiring | Is::RetiringKilled => self.swell(who.generation.get()),
            _ => {}
        }
        true
    }

    pub(super) fn approach_pool(&mut self, state: PoolState, event: PoolEvent) {
        let is_open = self.machine.is_open();
        if event == PoolEvent::InitTimeout && !self.is_about_to_build_for_too_long() {
            return;
        }
        match state {
            PoolState::Closing if is_open && self.unresolved > 0 => self.close(),
            PoolState::Winding if is_open && self.machine.holds_any() => {
                self.cancel_all();
                self.close();
            }
            _ => {}
        }
    }
}

impl World<'_> {
    /// Whether a worker builds a state, and has not much time left for it.
    fn is_about_to_build_for_too_long(&self) -> bool {
        let soon = self.now + self.scenario.config.init_timeout / 2;
        let most = self.scenario.config.init_timeout;
        self.living().filter_map(|process| process.preparing).any(|since| since + most <= soon)
    }
}

impl Scenario {
    /// Makes it more likely that the aims are reached.
    pub(in crate::supervisor::simulation) fn favour(&mut self, random: &mut Random) {
        let Some(aim) = self.aims.first().copied() else { return };
        self.operations = self.operations.max(40);
        self.pause = self.pause.min(Duration::from_millis(5));
        self.config.restart.max_restarts = 50;
        self.config.staffing.weighs = true;
        (self.temper.unfit, self.temper.unusable) = (0, 0);
        (self.resizes, self.measured, self.hectic) = (true, None, true);
        match aim {
            Aim::Worker(state, event) => {
                self.favour_worker(state, random);
                self.favour_event(event, random);
                if event == WorkerEvent::Unsendable
                    && matches!(state, Is::Running | Is::Stopping | Is::Condemned)
                {
                    // It is given more while it runs something.
                    (self.config.workers, self.config.unpaced, self.config.prefetch) = (1, 64, 64);
                    (self.config.ahead, self.config.cancel_grace) =
                        (Duration::from_millis(50), Duration::ZERO);
                    (self.config.prefetch_bytes, self.config.staffing.quota) = (1 << 20, None);
                    self.work = Duration::from_micros(random.pick(&[50, 2_000, 30_000]));
                    self.remote = false;
                }
            }
            Aim::Unit(state, event) => self.favour_unit(state, event, random),
            Aim::Batch(..) => self.temper.garbage = 0,
            Aim::Pool(state, event) => self.favour_pool(state, event, random),
        }
    }

    fn favour_worker(&mut self, state: Is, random: &mut Random) {
        let (temper, config) = (&mut self.temper, &mut self.config);
        match state {
            Is::StartBuilding | Is::KilledStarting => {
                config.states = 3;
                temper.prepares = 600;
                temper.lingers = 1000;
            }
            Is::Building | Is::IdleBuilding | Is::RetiringBuilding => {
                (temper.prepares, temper.dies_preparing, temper.hangs) = (600, 20, 50);
                (temper.garbage, temper.mutes, temper.scribbles) = (10, 0, 0);
                temper.ignores_retire = 300;
            }
            Is::Running | Is::Stopping | Is::Condemned => self.drag(random),
            Is::Alone | Is::Reserved => {
                self.insists = true;
                (temper.dies_running, temper.panics) = (150, 150);
            }
            Is::BackingOff => {
                (temper.dies_booting, config.restart.first_delay) = (500, Duration::from_millis(20))
            }
            Is::Idle => {
                (config.workers, config.staffing.least, config.staffing.quota) = (4, None, None);
                (self.work, self.pause) = (Duration::from_micros(50), Duration::from_millis(5));
                (temper.spawn_fails, temper.dies_booting, temper.never_hello) = (0, 0, 0);
            }
            Is::Spare => self.spares = self.spares.max(1),
            Is::KilledEmpty | Is::KilledHolding | Is::Spoiled => temper.lingers = 1000,
            Is::Retiring | Is::RetiringKilled => {
                (temper.lingers, temper.ignores_retire) = (1000, 600);
                config.exit_timeout = Duration::from_millis(300);
            }
            _ => {}
        }
        if state == Is::Condemned {
            // There is a while between the two steps of the kill only if the answer takes its time.
            (self.remote, self.config.cancel_grace) = (true, Duration::from_millis(random.pick(&[0, 10])));
        }
    }

    fn favour_event(&mut self, event: WorkerEvent, random: &mut Random) {
        match event {
            WorkerEvent::SpawnFailed => {
                (self.temper.spawn_fails, self.temper.spawns_slowly) = (500, 300);
                (self.temper.dies_idle, self.temper.dies_booting, self.temper.never_hello) = (200, 0, 0);
                (self.config.workers, self.config.staffing.least) = (4, None);
                self.config.start_timeout = Duration::from_millis(60);
                self.pause = Duration::from_millis(60);
            }
            WorkerEvent::Lost => (self.temper.garbage, self.temper.scribbles, self.temper.mutes) = (0, 0, 0),
            WorkerEvent::TookBack | WorkerEvent::Claimed | WorkerEvent::Illegible => {
                self.remote = event == WorkerEvent::Claimed || random.chance(500);
                (self.temper.garbage, self.temper.scribbles) = (0, 0);
            }
            WorkerEvent::Observed => {
                (self.remote, self.sluggish, self.insists) = (true, true, true);
                self.pause = Duration::from_millis(20);
            }
            _ => {}
        }
        if matches!(event, WorkerEvent::Lost | WorkerEvent::Illegible | WorkerEvent::Claimed) {
            (self.config.prefetch, self.config.prefetch_bytes) = (64, 1 << 20);
            self.config.staffing.quota = None;
        }
    }

    /// Tasks take long, and some are told to stop.
    fn drag(&mut self, random: &mut Random) {
        self.work = Duration::from_micros(random.pick(&[30_000, 200_000]));
        self.temper.hangs = 100;
        self.config.claim_timeout = Duration::from_millis(40);
        self.config.cancel_grace = Duration::from_millis(random.pick(&[0, 10, 30]));
        self.pause = self.pause.max(Duration::from_millis(5));
    }

    fn favour_unit(&mut self, state: UnitState, event: UnitEvent, random: &mut Random) {
        match state {
            UnitState::Running => self.drag(random),
            UnitState::Stopping | UnitState::Condemned => {
                self.drag(random);
                self.insists = true;
            }
            UnitState::Suspect | UnitState::Reserved => self.favour_worker(Is::Reserved, random),
            UnitState::Taking => self.remote = random.chance(700),
            UnitState::DyingHead | UnitState::DyingBehind => {
                self.temper.lingers = 1000;
                self.remote |= random.chance(500);
            }
            _ => {}
        }
        if state == UnitState::Condemned || event == UnitEvent::Observed {
            self.remote = true;
        }
        if matches!(state, UnitState::Stopping | UnitState::Condemned)
            && matches!(event, UnitEvent::Illegible | UnitEvent::Observed)
        {
            (self.remote, self.sluggish) = (true, true);
        }
        match event {
            UnitEvent::Deadline => (self.sluggish, self.hurries) = (true, true),
            UnitEvent::Lost => self.favour_event(WorkerEvent::Lost, random),
            UnitEvent::Claimed | UnitEvent::Illegible => self.favour_event(WorkerEvent::Illegible, random),
            _ => {}
        }
    }

    fn favour_pool(&mut self, state: PoolState, event: PoolEvent, random: &mut Random) {
        let (temper, config) = (&mut self.temper, &mut self.config);
        match event {
            PoolEvent::CannotStart => {
                (temper.never_hello, temper.prepares, temper.dies_booting, temper.spawn_fails) =
                    (1000, 0, 0, 0);
            }
            PoolEvent::InitTimeout | PoolEvent::InitDeaths => {
                config.init_timeout = Duration::from_millis(40);
                config.states = if matches!(state, PoolState::Fresh | PoolState::Closing) { 1 } else { 0 };
                config.restart.max_restarts = random.pick(&[0, 1]);
                (temper.prepares, temper.never_hello, temper.garbage_boot) = (1000, 0, 0);
                (temper.dies_preparing, temper.hangs) =
                    if event == PoolEvent::InitTimeout { (0, 1000) } else { (700, 0) };
                (self.remote, self.sluggish) = (true, true);
            }
            PoolEvent::TooManyDeaths => {
                (temper.dies_booting, config.restart.max_restarts) = (600, random.pick(&[0, 1]));
            }
            _ if state == PoolState::Winding => self.drag(random),
            _ => {}
        }
    }
}
