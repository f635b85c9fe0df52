//! A simulated worker process: takes frames in order, claims, runs, answers, and dies at any point.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::board::{Board, Mark};
use super::fact::{Answer, Claim, Item, Nature};
use super::world::{Happening, World};
use crate::supervisor::event::{Incarnation, KillReason, Observation, Span, Ticket};

/// What the supervisor writes to a worker.
#[derive(Debug, Clone, Copy)]
pub(super) enum Frame {
    Task(Ticket, Item),
    Retire,
}

/// What a worker writes.
#[derive(Debug, Clone)]
pub(super) enum Out {
    Hello,
    /// It builds a state.
    Preparing,
    Prepared,
    /// A state cannot be built.
    Unfit,
    /// A hello from which it follows that no worker can ever work.
    BadHello,
    Done(Ticket, Answer),
    Panicked(Ticket),
    Failed(Ticket),
    /// A well-formed result for a ticket that it does not run.
    Bogus(Ticket),
    /// The same of a failure.
    BogusFailure(Ticket),
    /// Bytes that are no frame.
    Garbage,
    /// What a worker far away answers: which tickets were taken back, and those of which its board makes no sense.
    Answers(Vec<(Span, bool)>, Vec<Span>),
    /// What a worker far away sees on its board.
    Seen(Observation),
}

/// What a worker does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Unborn,
    Booting,
    /// Reads its next frame.
    Looking,
    /// Builds a state.
    Preparing,
    /// The same, before its hello.
    BootPreparing,
    Running(Outcome),
    /// The result is written, the board does not say so yet.
    Written,
    Retiring,
    /// Does nothing more, for ever or until it is woken.
    Stuck,
    Dead,
}

/// What becomes of the running task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Panicked,
    Failed,
    Dies,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) who: Incarnation,
    pub(super) stage: Stage,
    /// Where it goes on when it is woken from a stop.
    pub(super) resumes: Option<Stage>,
    /// It is stopped, perhaps for good, behind a result that it has written.
    pub(super) is_behind: bool,
    /// Outdates steps that were planned before.
    turn: u32,
    pub(super) board: Board,
    pub(super) inbox: VecDeque<(Instant, Frame)>,
    pub(super) results: VecDeque<Out>,
    pub(super) current: Option<(Ticket, Item)>,
    /// States that it has begun to build before its hello.
    boot_states: usize,
    /// The last ticket before whose claim it built a state.
    pub(super) prepared_for: Ticket,
    /// It wrote something that makes no sense.
    pub(super) misbehaved: bool,
    /// Its board makes no sense any more.
    pub(super) scribbled: bool,
    /// Nothing that it writes arrives any more.
    pub(super) mute: bool,
    /// It found its board overwritten when it was to start a task.
    pub(super) refused: bool,

    // What the shell knows.
    /// The shell has a link to it.
    pub(super) linked: bool,
    /// It was decided to kill it before it was spawned.
    pub(super) condemned_unborn: bool,
    /// Its spawn was called off before it began.
    pub(super) spawn_is_off: bool,
    pub(super) readable: bool,
    pub(super) greeted: bool,
    /// The heads at the times when garbage came out: their results do not count.
    pub(super) spoiled: Vec<Ticket>,
    pub(super) last_offered: Ticket,
    /// When frames that have been sent arrive, at the latest.
    pub(super) arrivals: Instant,
    pub(super) arrived_then: usize,
    /// What it is to be asked to give back, if it is far away.
    pub(super) asked: VecDeque<Vec<Span>>,
    pub(super) received: usize,

    // What the observer knows.
    pub(super) spawned_at: Instant,
    /// When the machine has last asked for what it has not begun.
    pub(super) called_back: Option<Instant>,
    /// The machine knows it to be ready.
    pub(super) ready: bool,
    pub(super) killed: Option<KillReason>,
    pub(super) fenced: bool,
    pub(super) retired: Option<Instant>,
    /// Since when it has had all the time to exit: it was asked to, or has built a state since.
    pub(super) free_to_exit: Option<Instant>,
    /// Tasks that it has claimed.
    pub(super) claims: u64,
    /// It was reported to have grown too large.
    pub(super) heavy: bool,
    /// Since when it has had nothing to do, if it has nothing to do.
    pub(super) idle_since: Instant,
    /// Its death, or that it was never born, has been reported.
    pub(super) reported: bool,
    /// Tickets that the machine has given to it and has no answer for.
    pub(super) assigned: BTreeMap<Ticket, Item>,
    /// When the oldest of them came to be the oldest.
    pub(super) head_since: Instant,
    pub(super) flagged: HashMap<Ticket, Instant>,
    /// Since when the machine knows it to build a state.
    pub(super) preparing: Option<Instant>,
    /// The supervisor has been told that it runs this ticket.
    pub(super) seen_running: Option<Ticket>,
    /// It has more memory than it may have.
    pub(super) bloated: bool,
}

impl Process {
    pub(super) fn new(who: Incarnation, slots: u64, now: Instant) -> Self {
        Self {
            who,
            stage: Stage::Unborn,
            resumes: None,
            is_behind: false,
            turn: 0,
            board: Board::new(slots),
            inbox: VecDeque::new(),
            results: VecDeque::new(),
            current: None,
            boot_states: 0,
            prepared_for: 0,
            misbehaved: false,
            scribbled: false,
            mute: false,
            refused: false,
            linked: false,
            condemned_unborn: false,
            spawn_is_off: false,
            readable: true,
            greeted: false,
            spoiled: Vec::new(),
            last_offered: 0,
            arrivals: now,
            arrived_then: 0,
            asked: VecDeque::new(),
            called_back: None,
            received: 0,
            spawned_at: now,
            ready: false,
            killed: None,
            fenced: false,
            retired: None,
            free_to_exit: None,
            claims: 0,
            heavy: false,
            idle_since: now,
            reported: false,
            assigned: BTreeMap::new(),
            head_since: now,
            flagged: HashMap::new(),
            preparing: None,
            seen_running: None,
            bloated: false,
        }
    }

    /// Whether the machine may still give it work.
    pub(super) fn is_working(&self) -> bool {
        self.ready && self.killed.is_none() && self.retired.is_none() && !self.reported
    }

    /// Whether the machine waits for its hello.
    pub(super) fn is_starting(&self) -> bool {
        !self.greeted && self.killed.is_none() && !self.fenced && !self.reported
    }

    /// Whether the machine waits for it to exit.
    pub(super) fn is_leaving(&self) -> bool {
        self.retired.is_some() && self.killed.is_none() && !self.reported
    }

    /// Whether it has written what became of this ticket, and nobody has read it.
    pub(super) fn has_answered(&self, ticket: Ticket) -> bool {
        let is_it = |out: &Out| matches!(out, Out::Done(of, _) | Out::Panicked(of) | Out::Failed(of) if *of == ticket);
        self.results.iter().any(is_it)
    }

    /// A task overwrites its board, unless it has done something else already.
    ///
    /// Not both: of tasks whose results are lost and whose claims are overwritten nobody can know.
    pub(super) fn scribble(&mut self) {
        if !self.misbehaved {
            (self.misbehaved, self.scribbled) = (true, true);
            self.board.scribble();
        }
    }

    /// The tickets that it can claim at once, one after the other.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = Ticket> {
        let there = self.inbox.iter().take_while(move |(at, _)| *at <= now);
        let tickets = there.map_while(|(_, frame)| match frame {
            Frame::Task(ticket, _) => Some(*ticket),
            Frame::Retire => None,
        });
        tickets.take_while(|ticket| self.board.observe(*ticket) == Mark::Offered)
    }

    /// Whether it runs a task that will never end by itself.
    pub(super) fn runs_for_ever(&self) -> bool {
        self.stage == Stage::Stuck && self.current.is_some()
    }
}

impl World<'_> {
    /// The process exists from now on.
    pub(super) fn born(&mut self, generation: u64) {
        self.process(generation).stage = Stage::Booting;
        let boot = self.random.micros(200, 20_000);
        self.step_after(generation, boot);
    }

    pub(super) fn step_after(&mut self, generation: u64, after: Duration) {
        let process = self.process(generation);
        process.turn += 1;
        let turn = process.turn;
        self.plan(after, Happening::Step(generation, turn));
    }

    pub(super) fn step(&mut self, generation: u64, turn: u32) {
        let process = self.process(generation);
        if process.turn != turn {
            return;
        }
        let temper = self.scenario.temper;
        let stage = self.process(generation).stage;
        if stage != Stage::Stuck && self.chance(temper.stalls / 4) {
            self.stop(generation);
            return;
        }
        match stage {
            Stage::Unborn | Stage::Dead => {}
            Stage::Stuck => {
                if let Some(stage) = self.process(generation).resumes.take() {
                    self.process(generation).is_behind = false;
                    self.process(generation).stage = stage;
                    self.step_after(generation, Duration::ZERO);
                }
            }
            Stage::Booting => self.boot(generation),
            Stage::Looking => self.look_for_work(generation),
            Stage::Preparing => self.prepare(generation, Stage::Looking),
            Stage::BootPreparing => self.prepare(generation, Stage::Booting),
            Stage::Running(outcome) => self.end_task(generation, outcome),
            Stage::Written => self.finish(generation),
            Stage::Retiring => {
                if self.chance(temper.ignores_retire) {
                    self.process(generation).stage = Stage::Stuck;
                } else {
                    self.die(generation);
                }
            }
        }
    }

    /// A stop signal; it may be continued later.
    fn stop(&mut self, generation: u64) {
        let process = self.process(generation);
        process.resumes = Some(process.stage);
        process.is_behind = process.stage == Stage::Written;
        process.stage = Stage::Stuck;
        self.note(|_| format!("  process {generation} is stopped"));
        if self.random.chance(600) {
            let pause = self.random.micros(1_000, 600_000);
            self.step_after(generation, pause);
        } else {
            self.process(generation).resumes = None;
        }
    }

    pub(super) fn die(&mut self, generation: u64) {
        let process = self.process(generation);
        if matches!(process.stage, Stage::Dead | Stage::Unborn) {
            return;
        }
        process.stage = Stage::Dead;
        process.turn += 1;
        self.note(|_| format!("  process {generation} dies"));
        let noticed = self.lateness();
        self.plan(noticed, Happening::Death(generation));
    }

    pub(super) fn write(&mut self, generation: u64, out: Out) {
        self.note(|_| format!("  process {generation} writes {out:?}"));
        if self.process(generation).mute {
            return;
        }
        let result = matches!(out, Out::Done(..) | Out::Panicked(_) | Out::Failed(_));
        self.process(generation).results.push_back(out);
        if result && !self.scenario.remote && self.chance(self.scenario.temper.silent) {
            // Nobody is told; it is found when the worker is looked at.
            return;
        }
        let read = self.lateness();
        self.plan(read, Happening::Read(generation));
    }

    fn boot(&mut self, generation: u64) {
        let temper = self.scenario.temper;
        if self.chance(temper.dies_booting) {
            return self.die(generation);
        }
        if self.chance(temper.never_hello) {
            self.process(generation).stage = Stage::Stuck;
            return;
        }
        let states = self.scenario.config.states;
        if self.process(generation).boot_states < states && self.chance(temper.prepares) {
            self.process(generation).boot_states += 1;
            self.write(generation, Out::Preparing);
            self.process(generation).stage = Stage::BootPreparing;
            let takes = self.build_time();
            return self.step_after(generation, takes);
        }
        if self.chance(temper.garbage_boot) {
            self.process(generation).misbehaved = true;
            let words: &[Out] = match self.random.below(12) {
                0..3 => &[Out::Preparing, Out::Preparing],
                3..6 => &[Out::Prepared],
                6 => &[Out::Unfit],
                _ => &[Out::Garbage],
            };
            words.iter().for_each(|out| self.write(generation, out.clone()));
        }
        let hello = if self.chance(temper.unusable) { Out::BadHello } else { Out::Hello };
        self.write(generation, hello);
        self.process(generation).stage = Stage::Looking;
        self.step_after(generation, Duration::ZERO);
    }

    fn look_for_work(&mut self, generation: u64) {
        let (now, temper) = (self.now, self.scenario.temper);
        let Some(&(at, frame)) = self.process(generation).inbox.front() else {
            if self.chance(temper.dies_idle) {
                self.die(generation);
            } else if !self.process(generation).misbehaved && self.chance(temper.garbage / 8) {
                // A thread that a task has left behind.
                let next = self.process(generation).last_offered + 1;
                self.misbehave(generation, next);
            }
            return;
        };
        if at > now {
            return self.step_after(generation, at - now);
        }
        if self.chance(temper.dies_idle) {
            return self.die(generation);
        }
        if let Frame::Task(ticket, _) = frame
            && self.process(generation).prepared_for != ticket
            && self.chance(temper.prepares)
        {
            self.process(generation).prepared_for = ticket;
            self.write(generation, Out::Preparing);
            self.process(generation).stage = Stage::Preparing;
            let takes = self.build_time();
            return self.step_after(generation, takes);
        }
        let process = self.process(generation);
        process.inbox.pop_front();
        process.received += 1;
        match frame {
            Frame::Retire => {
                if self.chance(temper.dies_retiring) {
                    return self.die(generation);
                }
                self.process(generation).stage = Stage::Retiring;
                let after = self.random.micros(0, 5_000);
                self.step_after(generation, after);
            }
            Frame::Task(ticket, item) => {
                if process.board.claim(ticket, now) {
                    self.begin(generation, ticket, item);
                } else if !process.board.is_withdrawn(ticket) {
                    // A task has overwritten the board: the worker must not run this one, and says so.
                    process.refused = true;
                    self.die(generation);
                } else {
                    self.step_after(generation, Duration::from_micros(1));
                }
            }
        }
    }

    fn build_time(&mut self) -> Duration {
        let most = self.random.pick(&[100, 10_000, 60_000]);
        self.random.micros(0, most)
    }

    /// The state is built, or is not.
    fn prepare(&mut self, generation: u64, next: Stage) {
        let temper = self.scenario.temper;
        if self.chance(temper.dies_preparing) {
            return self.die(generation);
        }
        if self.chance(temper.unfit) {
            self.write(generation, Out::Unfit);
            return self.die(generation);
        }
        if self.chance(temper.hangs) {
            self.process(generation).stage = Stage::Stuck;
            return;
        }
        if !self.process(generation).misbehaved && self.chance(temper.garbage / 4) {
            if next == Stage::Booting {
                self.process(generation).misbehaved = true;
                self.write(generation, Out::Garbage);
            } else {
                let next = self.process(generation).prepared_for;
                self.misbehave(generation, next);
            }
        }
        self.write(generation, Out::Prepared);
        self.process(generation).stage = next;
        self.step_after(generation, Duration::ZERO);
    }

    fn begin(&mut self, generation: u64, ticket: Ticket, item: Item) {
        let (now, temper) = (self.now, self.scenario.temper);
        self.note(|_| format!("  process {generation} claims ticket {ticket}, task {item}"));
        let quota = self.scenario.config.staffing.quota;
        let process = self.process(generation);
        process.current = Some((ticket, item));
        process.claims += 1;
        assert!(quota.is_none_or(|most| process.claims <= most), "it claims too many: {process:?}");
        let fact = self.fact(item);
        fact.claims.push(Claim { generation, ticket, at: now, end: None });
        let nature = fact.nature;
        if self.chance(temper.grows) {
            self.process(generation).bloated = true;
            let noticed = self.random.micros(0, 20_000);
            self.plan(noticed, Happening::Weigh(generation));
        }
        if self.chance(temper.dies_at_claim) {
            return self.die(generation);
        }
        if nature == Nature::Hangs || self.chance(temper.hangs) {
            self.process(generation).stage = Stage::Stuck;
            return;
        }
        let outcome = if nature == Nature::Kills || self.chance(temper.dies_running) {
            Outcome::Dies
        } else if nature == Nature::Panics || self.chance(temper.panics) {
            Outcome::Panicked
        } else if self.chance(temper.fails) {
            Outcome::Failed
        } else {
            Outcome::Done
        };
        // Not both: of tasks whose results are lost and whose claims are overwritten nobody can know.
        let once = !self.process(generation).misbehaved;
        if once && self.chance(temper.garbage) {
            self.misbehave(generation, ticket);
        } else if once && self.chance(temper.scribbles) {
            self.note(|_| format!("  process {generation} overwrites its board"));
            self.process(generation).scribble();
        } else if once && self.chance(temper.mutes) {
            self.note(|_| format!("  process {generation} has closed its pipe"));
            let process = self.process(generation);
            (process.misbehaved, process.mute) = (true, true);
            let noticed = self.random.micros(0, 100_000);
            self.plan(noticed, Happening::Closed(generation));
        }
        self.process(generation).stage = Stage::Running(outcome);
        let most = self.fact(item).work.unwrap_or(self.scenario.work).as_micros() as u64;
        let work = self.random.micros(0, most);
        self.step_after(generation, work);
    }

    /// Task code writes to descriptors that are not its own. `ticket` is what the worker runs, or what it will be given next.
    fn misbehave(&mut self, generation: u64, ticket: Ticket) {
        self.process(generation).misbehaved = true;
        let out = match self.random.below(24) {
            0..8 => Out::Garbage,
            8..12 => Out::Hello,
            12 => Out::Unfit,
            13..15 => Out::Preparing,
            15..17 => Out::Prepared,
            17..20 => Out::Bogus(ticket + 10_000),
            // An old one, if there is one: a result given twice.
            _ => Out::Bogus(self.random.within(0, ticket - 1)),
        };
        self.write(generation, out);
    }

    pub(super) fn end_task(&mut self, generation: u64, outcome: Outcome) {
        let temper = self.scenario.temper;
        let Some((ticket, item)) = self.process(generation).current else { return };
        if outcome == Outcome::Dies || self.chance(temper.dies_before_writing) {
            return self.die(generation);
        }
        self.shares.spend(generation, self.facts[item as usize - 1].lane(), self.now);
        let answer = Answer { task: item, generation, ticket };
        self.write(
            generation,
            match outcome {
                Outcome::Panicked => Out::Panicked(ticket),
                Outcome::Failed => Out::Failed(ticket),
                Outcome::Done | Outcome::Dies => Out::Done(ticket, answer),
            },
        );
        if self.chance(temper.dies_after_writing) {
            return self.die(generation);
        }
        self.process(generation).stage = Stage::Written;
        let after = self.random.micros(0, 20);
        self.step_after(generation, after);
    }

    fn finish(&mut self, generation: u64) {
        let process = self.process(generation);
        if let Some((ticket, _)) = process.current.take() {
            process.board.finish(ticket);
        }
        process.stage = Stage::Looking;
        self.step_after(generation, Duration::from_micros(1));
    }

    /// Frames are on their way to a worker: it wakes up if it waits for them.
    pub(super) fn deliver(&mut self, generation: u64, frame: Frame) {
        let delay =
            if self.random.chance(50) { self.random.micros(0, 20_000) } else { Duration::from_micros(5) };
        let now = self.now;
        let process = self.process(generation);
        process.arrivals = process.arrivals.max(now + delay);
        process.inbox.push_back((process.arrivals, frame));
        if process.stage == Stage::Looking && process.inbox.len() == 1 {
            let after = process.arrivals - now;
            self.step_after(generation, after);
        }
    }

    /// The cooperative flag: some tasks look at it.
    pub(super) fn flag(&mut self, generation: u64, ticket: Ticket) {
        let cooperative = self.random.chance(300);
        let process = self.process(generation);
        let runs = process.current.is_some_and(|(current, _)| current == ticket);
        if runs && cooperative && matches!(process.stage, Stage::Running(_)) {
            process.stage = Stage::Running(Outcome::Failed);
            let after = self.random.micros(0, 2_000);
            self.step_after(generation, after);
        }
    }
}
