//! The worker's loop, with the trick in its place.

use std::io;
use std::ops::AddAssign;
use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::signal::{Signal, raise};
use pool_core::__private::{Buffer, RunContext, States, TASKS, TaskEntry};
use pool_core::{TaskContext, TaskId, WorkerId};
use pool_ipc::{
    Board, Boot, Bundle, ExitNote, FrameError, HEADER_LEN, Header, Hello, Kind, Region, TaskDecl, TaskHead,
};
use pool_tests::region::{Place, Ring};
use pool_worker as _;

use crate::assault::Assault;
use crate::random::Random;
use crate::trick::{Portion, Script, Trick};
use crate::wire::Wire;
use crate::{Result, told};

struct Worker {
    script: Script,
    boot: Boot,
    wire: Wire,
    board: Board,
    states: States,
    /// The victim's result, held back.
    late: Option<Vec<u8>>,
}

/// Works for the pool that has started this process.
pub(crate) fn run(script: Script) -> Result<()> {
    // It must not outlive a test that fails.
    told("prctl", nix::sys::prctl::set_pdeathsig(Signal::SIGKILL))?;
    let (boot, ends) = told("boot", pool_ipc::boot::receive(io::stdin().as_fd()))?;
    let region = told("region", Region::open(ends.region.as_fd()))?;
    let socket = told("socket", pool_ipc::boot::receive_descriptor(io::stdin().as_fd(), false))?;
    let wire = Wire::new(&boot, &region, ends, socket.map(|(_, socket)| socket));
    let mut worker = Worker { script, boot, wire, board: region.board(), states: States::new(), late: None };
    worker.say_hello()?;
    loop {
        while let Some(frame) = told("frame", worker.wire.reader().next_frame())? {
            let payload = frame.payload.into_owned();
            match (frame.kind, frame.ticket) {
                (Kind::Task, ticket) => {
                    let (head, arguments) = told("task", TaskHead::split(&payload))?;
                    worker.on_task(ticket, &head, arguments)?;
                }
                (Kind::Bundle, first) => worker.on_bundle(first, &payload)?,
                (Kind::Retire, _) => worker.on_retire(),
                // What it has passed is its own to keep or to lose.
                (Kind::Release | Kind::Forget, _) => {}
                (other, _) => return Err(format!("an unexpected {other:?} frame")),
            }
        }
        if !worker.wire.fill()? {
            return Ok(());
        }
    }
}

impl Worker {
    fn hello(&self) -> Hello {
        let declare =
            |task: &TaskEntry| TaskDecl { name: task.name.into(), signature: task.signature.into() };
        Hello {
            pid: std::process::id(),
            build_id: Vec::new(),
            executable: "hostile-worker".to_owned(),
            base_max_rss: 0,
            tasks: TASKS.static_slice().iter().map(declare).collect(),
        }
    }

    fn say_hello(&mut self) -> Result<()> {
        let early = |trick: &Trick| {
            matches!(
                trick,
                Trick::ExitEarly
                    | Trick::DieEarly
                    | Trick::HangEarly
                    | Trick::PrepareEarly
                    | Trick::HelloVersion(_)
                    | Trick::GarbageHello
                    | Trick::HelloWithoutVictim
                    | Trick::HelloWithOtherSignature
                    | Trick::Random
            )
        };
        let mut hello = self.hello();
        let trick = self.script.now(early).cloned();
        let is_victim = |task: &TaskDecl| task.name.ends_with("::victim");
        match trick {
            Some(Trick::ExitEarly) => std::process::exit(3),
            Some(Trick::DieEarly) => die(),
            Some(Trick::HangEarly) => sleep_for_ever(),
            Some(Trick::PrepareEarly) => self.prepare_for_ever()?,
            Some(Trick::Random) => self.speak_first()?,
            Some(Trick::HelloWithoutVictim) => {
                hello.tasks.iter_mut().filter(|task| is_victim(task)).for_each(|task| task.name.push('x'))
            }
            Some(Trick::HelloWithOtherSignature) => {
                hello
                    .tasks
                    .iter_mut()
                    .filter(|task| is_victim(task))
                    .for_each(|task| task.signature.push('x'));
            }
            _ => {}
        }
        let payload = match trick {
            Some(Trick::HelloVersion(version)) => told("hello", hello.encode_with_version(version))?,
            Some(Trick::GarbageHello) => vec![0xA5; 100],
            _ => told("hello", hello.encode())?,
        };
        self.send(Kind::Hello, 0, &payload)
    }

    /// One of many says something before its hello.
    fn speak_first(&mut self) -> Result<()> {
        let mut random = Random::new(self.boot.generation);
        if random.one_in(32) {
            let len = 1 + random.below(200);
            match random.below(2) {
                0 => self.wire.write(&random.bytes(len))?,
                _ => self.send(Kind::Done, random.number(), &random.bytes(len))?,
            }
        }
        Ok(())
    }

    /// Says without end that it builds states.
    fn prepare_for_ever(&mut self) -> Result<()> {
        loop {
            self.send(Kind::Preparing, 0, b"state")?;
            self.send(Kind::Prepared, 0, &[])?;
        }
    }

    fn on_bundle(&mut self, first: u64, payload: &[u8]) -> Result<()> {
        let (mut head, items) = told("bundle", Bundle::split(payload))?;
        for (ticket, arguments) in (first..).zip(items) {
            self.on_task(ticket, &head, told("item", arguments)?)?;
            head.task += 1;
        }
        Ok(())
    }

    fn on_task(&mut self, ticket: u64, head: &TaskHead, arguments: &[u8]) -> Result<()> {
        let entry = usize::try_from(head.index).ok().and_then(|index| TASKS.static_slice().get(index));
        let entry = entry.ok_or("a task that is not in the table")?;
        if entry.name.ends_with("::assault") {
            return self.on_assault(ticket, entry, head, arguments);
        }
        let at_victim = entry.name.ends_with("::victim");
        let trick = self.script.now(|trick| {
            at_victim && !matches!(trick, Trick::DieRetiring | Trick::ExitRetiring(_) | Trick::HangRetiring)
        });
        let trick = trick.cloned();
        match trick {
            Some(Trick::NeverClaim) => sleep_for_ever(),
            Some(Trick::PrepareForEver) => self.prepare_for_ever()?,
            Some(Trick::DieUnclaimed) => die(),
            _ => {}
        }
        let mut now = pool_ipc::now_ns();
        if trick == Some(Trick::ClaimFromTheFuture) {
            now += 3_600_000_000_000;
        }
        if !self.board.claim(ticket, now) {
            return Ok(());
        }
        match trick {
            Some(Trick::DieClaimed) => die(),
            Some(Trick::ClaimFromTheFuture) => sleep_for_ever(),
            Some(Trick::FinishWithoutResult) => {
                self.board.finish(ticket);
                sleep_for_ever()
            }
            Some(Trick::CloseResults) => {
                self.wire.close_results();
                sleep_for_ever()
            }
            _ => {}
        }
        let output = self.run(entry, head, arguments)?;
        let frame = framed(Kind::Done, ticket, &output)?;
        match trick {
            None => self.wire.write(&frame)?,
            Some(trick) => self.answer(&trick, ticket, &frame)?,
        }
        if let Some(late) = self.late.take_if(|_| !at_victim) {
            self.wire.write(&late)?;
        }
        self.board.finish(ticket);
        Ok(())
    }

    /// Attacks the supervisor in the ways that the task's seed and this worker's own number lead to.
    fn on_assault(
        &mut self,
        ticket: u64,
        entry: &TaskEntry,
        head: &TaskHead,
        arguments: &[u8],
    ) -> Result<()> {
        // Two workers never do the same: a task that each of them pretended not to have begun would never end.
        let mut random = Random::new(seed(arguments) ^ self.boot.generation << 40);
        if random.one_in(500) {
            sleep_for_ever();
        }
        // It may also work without having claimed the task.
        if !self.board.claim(ticket, pool_ipc::now_ns()) && !random.one_in(50) {
            return Ok(());
        }
        let output = self.run(entry, head, arguments)?;
        let frame = framed(Kind::Done, ticket, &output)?;
        let aftermath = Assault::new(random, ticket, &output, &frame).run(&mut self.wire)?;
        self.late = aftermath.late.or(self.late.take());
        if aftermath.finish {
            self.board.finish(ticket);
        }
        Ok(())
    }

    /// Plays the tricks that are about the victim's result, whose frame is given.
    fn answer(&mut self, trick: &Trick, ticket: u64, frame: &[u8]) -> Result<()> {
        let half = HEADER_LEN + (frame.len() - HEADER_LEN) / 2;
        match trick {
            Trick::Write(portion) => {
                let end = match *portion {
                    Portion::Bytes(bytes) => bytes,
                    Portion::Half => half,
                    Portion::AllBut(bytes) => frame.len() - bytes,
                };
                self.wire.write(&frame[..end])?;
                die()
            }
            Trick::HalfAndExit => {
                self.wire.write(&frame[..half])?;
                std::process::exit(0)
            }
            Trick::HalfAndLinger => {
                self.wire.write(&frame[..half])?;
                self.wire.close_results();
                sleep_for_ever()
            }
            Trick::StopBeforeResult => {
                told("raise", raise(Signal::SIGSTOP))?;
                self.wire.write(frame)
            }
            Trick::OutOfOrder => {
                self.late = Some(frame.to_vec());
                Ok(())
            }
            Trick::GarbageResult => self.send(Kind::Done, ticket, &[0xFF; 40]),
            Trick::Huge
            | Trick::UnknownKind
            | Trick::WrongTicket
            | Trick::GarbageFailure
            | Trick::SupervisorsFrame
            | Trick::SecondHello
            | Trick::Bye
            | Trick::WrongSum
            | Trick::ExitNote
            | Trick::GarbageUnfit
            | Trick::GarbageState
            | Trick::Prepared
            | Trick::PreparingTwice
            | Trick::EndlessResults
            | Trick::EndlessGarbage
            | Trick::Twice => {
                self.break_protocol(trick, ticket, frame)?;
                self.board.finish(ticket);
                // Were it to claim another task now, that one would be running when the kill comes.
                sleep_for_ever()
            }
            Trick::FinishAndDie => {
                self.wire.write(frame)?;
                self.board.finish(ticket);
                die()
            }
            Trick::Bend(Place::Tail(_), by) => {
                self.wire.bend(Place::Tail(Ring::Results), *by)?;
                // Were it to write now, its position would be put right.
                sleep_for_ever()
            }
            Trick::Bend(place, by) => {
                self.wire.bend(*place, *by)?;
                self.wire.write(frame)
            }
            Trick::FallSilent => {
                self.wire.fall_silent();
                self.wire.write(frame)
            }
            Trick::RingForEver => {
                self.wire.ring_for_ever()?;
                self.wire.write(frame)
            }
            other => Err(format!("{other:?} is not about a result")),
        }
    }

    /// Writes what the supervisor must not believe.
    fn break_protocol(&mut self, trick: &Trick, ticket: u64, frame: &[u8]) -> Result<()> {
        let payload = &frame[HEADER_LEN..];
        match trick {
            Trick::Huge => {
                self.wire.write(&Header { len: u32::MAX, kind: Kind::Done, ticket, sum: 0 }.encode())
            }
            Trick::UnknownKind => self.wire.write(&unknown_kind(ticket)),
            Trick::WrongTicket => self.send(Kind::Done, ticket + 1000, payload),
            Trick::GarbageFailure => self.send(Kind::Failed, ticket, &[0xFF; 40]),
            Trick::SupervisorsFrame => self.send(Kind::Task, ticket, payload),
            Trick::SecondHello => {
                let hello = told("hello", self.hello().encode())?;
                self.send(Kind::Hello, 0, &hello)
            }
            Trick::Bye => self.send(Kind::Bye, 0, &[]),
            Trick::ExitNote => {
                let note = ExitNote { state: "state".to_owned(), value: Ok(vec![1]) };
                let note = told("exit note", note.encode())?;
                self.send(Kind::ExitNote, 0, &note)
            }
            Trick::GarbageUnfit => self.send(Kind::Unfit, 0, &[0xFF; 40]),
            Trick::GarbageState => self.send(Kind::Preparing, 0, &[0xFF; 40]),
            Trick::Prepared => self.send(Kind::Prepared, 0, &[]),
            Trick::PreparingTwice => {
                self.send(Kind::Preparing, 0, b"one")?;
                self.send(Kind::Preparing, 0, b"two")
            }
            Trick::WrongSum => {
                let mut frame = frame.to_vec();
                frame.last_mut().ok_or("a result without bytes")?.add_assign(1);
                self.wire.write(&frame)
            }
            Trick::EndlessResults => loop {
                self.wire.write(frame)?;
            },
            Trick::EndlessGarbage => loop {
                self.wire.write(&[0xA5; 1000])?;
            },
            Trick::Twice => self.wire.write(&[frame, frame].concat()),
            other => Err(format!("{other:?} breaks no protocol")),
        }
    }

    fn run(&mut self, entry: &TaskEntry, head: &TaskHead, arguments: &[u8]) -> Result<Vec<u8>> {
        let worker = WorkerId::new(self.boot.worker);
        let context =
            TaskContext::new(worker, TaskId::new(head.task), head.attempt, None, Arc::new(|_| false));
        let mut output = Buffer::new();
        let run = &mut RunContext::new(&context, &mut self.states);
        told("task", (entry.run)(run, arguments, &mut output))?;
        Ok(output.to_vec())
    }

    fn on_retire(&self) -> ! {
        let retiring = |trick: &Trick| {
            matches!(trick, Trick::DieRetiring | Trick::ExitRetiring(_) | Trick::HangRetiring)
        };
        match self.script.now(retiring) {
            Some(Trick::DieRetiring) => die(),
            Some(Trick::ExitRetiring(code)) => std::process::exit(*code),
            Some(Trick::HangRetiring) => sleep_for_ever(),
            _ => std::process::exit(0),
        }
    }

    fn send(&mut self, kind: Kind, ticket: u64, payload: &[u8]) -> Result<()> {
        self.wire.write(&framed(kind, ticket, payload)?)
    }
}

pub(crate) fn framed(kind: Kind, ticket: u64, payload: &[u8]) -> Result<Vec<u8>> {
    let header = told("frame", Header::new(kind, ticket, &[payload]))?;
    Ok([&header.encode()[..], payload].concat())
}

/// The first argument, a number of 7 bits a byte.
fn seed(arguments: &[u8]) -> u64 {
    let digits = arguments.iter().take(10).enumerate();
    let mut seed = 0;
    for (place, byte) in digits {
        seed |= u64::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            break;
        }
    }
    seed
}

/// A header that is sound but for its kind. Its check is found by trying.
pub(crate) fn unknown_kind(ticket: u64) -> [u8; HEADER_LEN] {
    let mut header = Header { len: 0, kind: Kind::Done, ticket, sum: 0 }.encode();
    header[4] = 77;
    let is_sound =
        |header: &[u8; HEADER_LEN]| Header::decode(header, u32::MAX) == Err(FrameError::UnknownKind(77));
    for check in 0..=u16::MAX {
        header[6..8].copy_from_slice(&check.to_le_bytes());
        if is_sound(&header) {
            break;
        }
    }
    header
}

pub(crate) fn die() -> ! {
    // It cannot be refused.
    let _ = raise(Signal::SIGKILL);
    sleep_for_ever()
}

pub(crate) fn sleep_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}
