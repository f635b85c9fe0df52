//! The virtual world: its clock, what is going to happen in it, and the loop that lets it happen.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::aims::Aim;
use super::caller::Caller;
use super::coverage::{Coverage, Watch};
use super::fact::{Answers, Batch, Fact, Item, Lane, Parcel};
use super::liveness::Astray;
use super::process::Process;
use super::promptness::Waits;
use super::random::Random;
use super::scenario::Scenario;
use super::seats::Order;
use super::shares::Shares;
use super::tally::Tally;
use crate::ids::TaskId;
use crate::supervisor::event::{Action, Event, Incarnation, TaskKey, Ticket};
use crate::supervisor::machine::Machine;

/// Virtual time that a pool may need to come to rest once nobody disturbs it any more.
const REST: Duration = Duration::from_secs(120);
/// Virtual time after which a pool that only looks at what its workers run is at rest: every delay and every task is shorter.
const QUIET: Duration = Duration::from_secs(5);
/// Events at one instant that show that time stands still.
const STANDSTILL: u32 = 20_000;

/// Something that is going to happen. Numbers are generations.
#[derive(Debug)]
pub(super) enum Happening {
    /// A spawn has succeeded or failed.
    Spawned(u64),
    /// A worker does its next step, unless it has been given another one meanwhile.
    Step(u64, u32),
    /// The result pipe of a worker is read.
    Read(u64),
    /// The death of a worker is noticed.
    Death(u64),
    /// A signal arrives.
    Kill(u64),
    /// A worker far away looks at its board.
    Look(u64),
    /// A worker far away is asked to give back what it is to be asked for first.
    Take(u64),
    /// The memory of a worker is looked at: it is over its limit, or so large that it is to be replaced.
    Weigh(u64),
    Outgrown(u64),
    /// It is noticed that a worker has closed its pipe and lives on.
    Closed(u64),
    /// Somebody uses the pool.
    Caller,
}

#[derive(Debug)]
struct Planned {
    at: Instant,
    number: u64,
    what: Happening,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The last lines of what happened, kept when a failure is looked at.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) wanted: bool,
    /// At most so many.
    pub(super) most: usize,
    pub(super) lines: VecDeque<String>,
}

/// Deaths in one place that no task explains.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streak {
    /// Their number since the last result.
    pub(super) strikes: u32,
    /// When the last one was reported.
    pub(super) last: Instant,
    /// Whether another end came after it, which a task explains.
    pub(super) explained: bool,
}

/// How often something was seen that concerns several items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sights {
    /// Results of several items at once.
    pub(super) runs: u64,
    /// A span of which the worker had claimed the beginning when its end was taken.
    pub(super) overtaken: u64,
    /// Results that were reported right after others.
    pub(super) followed: u64,
    /// A unit that was sent again when some of its items had ended.
    pub(super) rests: u64,
    /// Several items that ended by one cancellation.
    pub(super) cancelled: u64,
    /// A state that was built.
    pub(super) prepared: u64,
    /// A worker that died while it built one.
    pub(super) unprepared: u64,
    /// A worker that was killed because it took too long for that.
    pub(super) tardy: u64,
    /// A worker that was killed for its memory.
    pub(super) bloated: u64,
    /// Tasks refused because their batch had ended.
    pub(super) refused: u64,
    /// Tasks given out while others of a lower priority waited.
    pub(super) preferred: u64,
    /// Tasks given out while others of the same priority waited in another lane.
    pub(super) turns: u64,
    /// Tasks that were for one seat only and given to whoever sat there.
    pub(super) seated: u64,
    /// The same, to somebody else because nobody sat there or came to.
    pub(super) unseated: u64,
    /// The same, again after a failure.
    pub(super) reseated: u64,
    /// The same, while nobody came or went.
    pub(super) ordered: u64,
}

impl Sights {
    pub(super) fn plus(self, other: &Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            overtaken: self.overtaken + other.overtaken,
            followed: self.followed + other.followed,
            rests: self.rests + other.rests,
            cancelled: self.cancelled + other.cancelled,
            prepared: self.prepared + other.prepared,
            unprepared: self.unprepared + other.unprepared,
            tardy: self.tardy + other.tardy,
            bloated: self.bloated + other.bloated,
            refused: self.refused + other.refused,
            preferred: self.preferred + other.preferred,
            turns: self.turns + other.turns,
            seated: self.seated + other.seated,
            unseated: self.unseated + other.unseated,
            reseated: self.reseated + other.reseated,
            ordered: self.ordered + other.ordered,
        }
    }

    /// How often the rarest was seen. In a short run nobody may have had to stand in for a seat: that takes a place that is given up.
    pub(super) fn least(self, is_long: bool) -> u64 {
        let Self { runs, overtaken, followed, rests, cancelled, refused, preferred, turns, .. } = self;
        let Self { prepared, unprepared, tardy, bloated, seated, unseated, reseated, ordered, .. } = self;
        let queue = [runs, overtaken, followed, rests, cancelled, refused, preferred, turns];
        let life = [prepared, unprepared, tardy, bloated];
        let seats = [seated, reseated, ordered];
        let rare = is_long.then_some(unseated);
        queue.into_iter().chain(life).chain(seats).chain(rare).min().unwrap_or(0)
    }
}

/// One pool and everything around it.
#[derive(Debug)]
pub(super) struct World<'a> {
    pub(super) base: Instant,
    /// By how much an aim has let time pass in which nothing happened, all told.
    pub(super) leapt: Duration,
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) scenario: Scenario,
    pub(super) machine: Machine<Answers>,
    /// By number.
    pub(super) facts: Vec<Fact>,
    /// The units that have not ended.
    pub(super) parcels: HashMap<TaskKey, Parcel>,
    pub(super) batches: Vec<Batch>,
    /// By lane with work: since when others of the same priority have been served and it has not.
    pub(super) passed_over: BTreeMap<Lane, Instant>,
    /// What was given out during the present event, to the worker in which place.
    pub(super) handed: Vec<(usize, Item)>,
    /// By generation.
    pub(super) processes: Vec<Process>,
    pub(super) caller: Caller,
    /// What the machine wants and has not got yet.
    pub(super) pending: VecDeque<Action<Answers>>,
    /// Something has happened since it was last looked whether anything waits that need not.
    unjudged: bool,
    /// Results have been reported, and others may follow.
    reporting: bool,
    /// The next event is a result behind which others may be reported.
    pub(super) others_may_follow: bool,
    /// Nobody misbehaves any more, except tasks that always do.
    pub(super) calm: bool,
    pub(super) terminated: bool,
    pub(super) closed: bool,
    pub(super) broken: bool,
    pub(super) drained: bool,
    /// Workers that have died while they built a state, since it was built last.
    pub(super) unprepared: u32,
    pub(super) ever_prepared: bool,
    pub(super) unresolved: usize,
    /// How many workers there should be at most.
    pub(super) most: u32,
    /// When somebody last wanted fewer.
    pub(super) shrunk: Option<Instant>,
    /// How many were too many then, and have not been killed for that.
    pub(super) surplus: usize,
    /// Tasks that were told to stop during the present event.
    pub(super) flagged: Vec<Item>,
    /// Batches that have failed during the present event.
    pub(super) aborting: Vec<usize>,
    /// Since when an idle worker and a waiting task have been there together.
    pub(super) starving_since: Option<Instant>,
    /// How much had ended and how many were there, and since when that has not changed although more should be there.
    pub(super) growth: Option<((u64, usize), Instant)>,
    /// What waits while somebody is idle, and since when: by generation the head it waits behind, by 0 the first in the queue.
    pub(super) stalls: BTreeMap<u64, (u64, Instant)>,
    /// By place: the generation spawned last, or 0.
    pub(super) latest: Vec<u64>,
    /// By place.
    pub(super) streaks: Vec<Streak>,
    /// Events fed to the machine.
    pub(super) steps: u64,
    pub(super) sights: Sights,
    pub(super) shares: Shares,
    pub(super) waits: Waits,
    pub(super) astray: Astray,
    pub(super) order: Order,
    pub(super) coverage: Coverage,
    pub(super) tally: Tally,
    /// Attempts that have failed during the present event, and whether there may be others.
    pub(super) attempts: Vec<(Item, bool)>,
    pub(super) watch: Watch,
    /// When the machine last wanted anything but to look at a worker.
    acted: Instant,
    plans: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    /// The deadline that the timer was set for, and when it will fire.
    armed: Option<(Instant, Instant)>,
    standstill: u32,
    tail: &'a mut Tail,
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, tail: &'a mut Tail) -> Self {
        let mut random = Random::new(seed);
        let mut scenario = Scenario::new(&mut random);
        scenario.aims = Aim::of_seed(seed, &mut random);
        scenario.favour(&mut random);
        let mut world = Self::with(random, scenario, tail);
        world.plan(Duration::ZERO, Happening::Caller);
        world
    }

    /// A pool without callers.
    pub(super) fn with(random: Random, scenario: Scenario, tail: &'a mut Tail) -> Self {
        let base = Instant::now();
        let most = scenario.config.workers;
        let machine = Machine::new(scenario.config.clone(), base).with_spares(scenario.spares, base);
        let mut world = Self {
            base,
            leapt: Duration::ZERO,
            now: base,
            caller: Caller::new(scenario.operations),
            latest: Vec::new(),
            streaks: Vec::new(),
            random,
            scenario,
            machine,
            facts: Vec::new(),
            parcels: HashMap::new(),
            batches: Vec::new(),
            passed_over: BTreeMap::new(),
            handed: Vec::new(),
            processes: Vec::new(),
            pending: VecDeque::new(),
            unjudged: false,
            reporting: false,
            others_may_follow: false,
            calm: false,
            terminated: false,
            closed: false,
            broken: false,
            drained: false,
            unprepared: 0,
            ever_prepared: false,
            unresolved: 0,
            most,
            shrunk: None,
            surplus: 0,
            flagged: Vec::new(),
            aborting: Vec::new(),
            starving_since: None,
            growth: None,
            stalls: BTreeMap::new(),
            steps: 0,
            sights: Sights::default(),
            shares: Shares::default(),
            waits: Waits::default(),
            astray: Astray::default(),
            order: Order::default(),
            coverage: Coverage::default(),
            tally: Tally::default(),
            attempts: Vec::new(),
            watch: Watch::new(most),
            acted: base,
            plans: BinaryHeap::new(),
            planned: 0,
            armed: None,
            standstill: 0,
            tail,
        };
        world.note(|world| format!("{:?}", world.scenario));
        world.collect();
        world.settle();
        world
    }

    /// Lives through the whole life of the pool.
    pub(super) fn run(&mut self) {
        while !self.caller.is_done() {
            assert!(self.turn(), "callers have more to do, but nothing is going to happen");
        }
        self.calm = true;
        self.note(|_| "--- calm".to_owned());
        self.rest();
        self.check_stragglers();
        self.note(|_| "--- stragglers are cancelled".to_owned());
        self.cancel_all();
        self.rest();
        assert!(self.unresolved == 0, "{} tasks never end: {:?}", self.unresolved, self.first_unresolved());
        self.doze();
        self.note(|_| "--- close".to_owned());
        self.close();
        if self.random.chance(200) && !self.drained {
            for _ in 0..self.random.within(0, 3) {
                self.turn();
            }
            self.interfere();
        }
        self.rest();
        assert!(self.drained, "the pool is closed and has nothing to do, but does not drain");
        self.haunt_the_drained();
    }

    /// Goes on until nothing more would happen by itself, or all is well.
    fn rest(&mut self) {
        let end = self.now + REST;
        self.acted = self.now;
        while (self.unresolved > 0 || self.closed && !self.drained)
            && self.now < end.min(self.acted + QUIET)
            && self.turn()
        {}
        self.settle();
    }

    /// Those that are not needed go when nothing happens for long.
    fn doze(&mut self) {
        let end = self.now + QUIET;
        while self.now < end && self.turn() {}
        self.settle();
        self.check_rest();
    }

    /// Lets the next thing happen; false if there is none.
    pub(super) fn turn(&mut self) -> bool {
        self.pursue();
        let due = self.machine.deadline();
        if self.armed.map(|(due, _)| due) != due {
            self.armed = due.map(|due| (due, due.max(self.now) + self.lateness()));
        }
        let plan = self.plans.peek().map(|Reverse(planned)| planned.at);
        let fire = self.armed.map(|(_, fire)| fire);
        let Some(at) = plan.into_iter().chain(fire).min() else {
            let busy = !self.pending.is_empty();
            self.settle();
            return busy;
        };
        // One turn of the reactor may report several events before anything is done about them.
        let often = if self.scenario.hectic { 600 } else { 300 };
        let together = at <= self.now + Duration::from_micros(100) && self.random.chance(often);
        if !together && !self.pending.is_empty() {
            self.settle();
            return true;
        }
        if at > self.now && self.unjudged {
            // Nothing came of what happened last. Perhaps something should have.
            self.settle();
        }
        if at > self.now {
            (self.now, self.standstill) = (at, 0);
        }
        self.standstill += 1;
        assert!(self.standstill < STANDSTILL, "time stands still");
        if fire == Some(at) {
            self.armed = None;
            self.feed(Event::Tick, &[]);
        } else if let Some(Reverse(planned)) = self.plans.pop() {
            self.note_growth();
            self.happen(planned.what);
        }
        true
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Spawned(generation) => self.spawned(generation),
            Happening::Step(generation, turn) => self.step(generation, turn),
            Happening::Read(generation) => self.read_results(generation),
            Happening::Death(generation) => self.bury(generation),
            Happening::Kill(generation) => self.die(generation),
            Happening::Look(generation) => self.look(generation),
            Happening::Take(generation) => self.take_next(generation),
            Happening::Weigh(generation) => self.weigh(generation),
            Happening::Outgrown(generation) => self.outgrown(generation),
            Happening::Closed(generation) => self.closed_pipe(generation),
            Happening::Caller => self.call(),
        }
    }

    pub(super) fn plan(&mut self, after: Duration, what: Happening) {
        self.planned += 1;
        self.plans.push(Reverse(Planned { at: self.now + after, number: self.planned, what }));
    }

    /// Gives the machine an event, and checks what comes of it. `back` are tasks which that event returns to the queue.
    pub(super) fn feed(&mut self, event: Event<Answers>, back: &[Item]) {
        self.steps += 1;
        self.unjudged = true;
        let may_follow = std::mem::take(&mut self.others_may_follow);
        if !may_follow {
            self.end_reports();
        }
        self.note(|_| format!("{event:?}"));
        match &event {
            Event::Finished(_, _, count, _) if *count > 1 => self.sights.runs += 1,
            Event::TookBack(_, answers) if answers.windows(2).any(|two| !two[0].1 && two[1].1) => {
                self.sights.overtaken += 1;
            }
            _ => {}
        }
        self.note_running(&event);
        let seen = self.foresee(&event);
        let before = self.waiting();
        let seats = (self.seating(), self.processes.len());
        let ticks = matches!(event, Event::Tick);
        if ticks && self.growth.is_some() {
            // There may have been enough until now.
            self.check_growth();
        }
        match event {
            Event::Finished(who, ticket, count, answers) if may_follow => {
                self.machine.report(self.now, who, ticket, count, answers);
                let sent = self.collect();
                self.look_back(seen);
                self.check_order(back, &before, &sent);
                self.sights.followed += u64::from(std::mem::replace(&mut self.reporting, true));
                return;
            }
            event => self.machine.on(self.now, event),
        }
        let sent = self.collect();
        self.look_back(seen);
        self.check_unwanted();
        if ticks {
            self.check_deadlines();
        }
        self.check_seats(&seats);
        self.check_order(back, &before, &sent);
        self.check_pieces();
        self.check_overtaken(back);
        self.check_turns(&sent);
        if let Err(what) = self.machine.check_invariants() {
            panic!("{what}");
        }
    }

    /// Results have been reported of which the machine does not know yet that no others follow.
    pub(super) fn end_reports(&mut self) {
        if !std::mem::take(&mut self.reporting) {
            return;
        }
        let before = self.waiting();
        let seats = (self.seating(), self.processes.len());
        self.machine.reported(self.now);
        let sent = self.collect();
        self.check_seats(&seats);
        self.check_pieces();
        self.check_overtaken(&[]);
        self.check_order(&[], &before, &sent);
        self.check_turns(&sent);
        if let Err(what) = self.machine.check_invariants() {
            panic!("{what}");
        }
    }

    /// The queue of the machine.
    pub(super) fn waiting(&self) -> Vec<Item> {
        self.machine.waiting().into_iter().map(TaskId::get).collect()
    }

    /// Takes the machine's actions over, and returns the items that are sent.
    fn collect(&mut self) -> Vec<Item> {
        let mut sent = Vec::new();
        self.handed.clear();
        for action in self.machine.actions() {
            self.note(|_| format!("    {action:?}"));
            if let Action::Send { task, first, count, .. } = &action {
                sent.extend(Parcel { done: *first, end: first + count }.items(*task));
            }
            if !matches!(action, Action::Inspect(_)) {
                self.acted = self.now;
            }
            self.judge(&action);
            self.pending.push_back(action);
        }
        self.check_consequences();
        for (item, may_run_again) in std::mem::take(&mut self.attempts) {
            let ended = self.fact(item).resolved;
            self.tally.attempt(may_run_again, ended);
        }
        sent
    }

    /// Carries out what the machine wants, until it wants nothing more.
    pub(super) fn settle(&mut self) {
        while let Some(action) = self.pending.pop_front() {
            self.perform(action);
        }
        self.unjudged = false;
        self.check_tally();
        self.check_promptness();
        self.check_work_conservation();
        self.check_astray();
    }

    /// How late a supervisor learns of something.
    pub(super) fn lateness(&mut self) -> Duration {
        if self.scenario.sluggish && self.random.chance(50) {
            return self.random.micros(10_000, 300_000);
        }
        self.random.micros(0, 500)
    }

    /// A rate of the temper, or nothing once all is calm.
    pub(super) fn chance(&mut self, per_mille: u32) -> bool {
        !self.calm && self.random.chance(per_mille)
    }

    pub(super) fn incarnation(&self, generation: u64) -> Incarnation {
        self.processes[generation as usize - 1].who
    }

    pub(super) fn process(&mut self, generation: u64) -> &mut Process {
        &mut self.processes[generation as usize - 1]
    }

    pub(super) fn fact(&mut self, item: Item) -> &mut Fact {
        &mut self.facts[item as usize - 1]
    }

    /// The ticket of the head, as the machine has it.
    pub(super) fn head(&self, who: Incarnation) -> Option<Ticket> {
        self.machine.head(who).map(|head| head.span.first)
    }

    /// Keeps a line for the report of a failure.
    pub(super) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.tail.wanted {
            let at = self.now.duration_since(self.base);
            let line = format!("{:>12.6} {}", at.as_secs_f64(), line(self));
            if self.tail.lines.len() >= self.tail.most {
                // The first one says what pool it is.
                self.tail.lines.remove(1);
            }
            self.tail.lines.push_back(line);
        }
    }
}
