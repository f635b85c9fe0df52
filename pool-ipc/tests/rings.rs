//! Rings between two threads and between two processes, with pipes as doorbells.
//!
//! `POOL_IPC_ROUNDS=400 cargo test -p pool-ipc --release --test rings` does everything so many times as often. That finds
//! what the processor reorders and loom cannot see, as it replaces the accesses in question: with `Word::tell` and
//! `Flag::raise` as plain stores (`Release`), `a_round_trip_…` waits for a bell in vain within seconds.

use std::{
    env,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Command, Stdio},
    thread,
};

use nix::{errno::Errno, poll::PollTimeout};
use pool_ipc::{
    Boot, Fill, Flush, FrameReader, FrameWriter, Kind, Region, RingReader, RingWriter, Wake, boot, pipe_pair,
    set_nonblocking,
};

/// A side that has found nothing to do for so long has been forgotten.
const PATIENCE: u16 = 30_000;

/// So many times `count`, as the environment says.
fn times(count: u64) -> u64 {
    count * env::var("POOL_IPC_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Rings; a full pipe rings already.
fn ring(bell: &OwnedFd) {
    match nix::unistd::write(bell, b"!") {
        Ok(_) | Err(Errno::EAGAIN | Errno::EPIPE) => {}
        Err(error) => panic!("the bell is broken: {error}"),
    }
}

/// Sleeps until the bell rings; false once nobody is left to ring it.
fn sleep(bell: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, poll};
    let events = poll(&mut [PollFd::new(bell, PollFlags::POLLIN)], PollTimeout::from(PATIENCE)).unwrap();
    assert_eq!(events, 1, "no bell was rung in {PATIENCE} ms: a lost wake-up");
    nix::unistd::read(bell, &mut [0; 64]).unwrap() > 0
}

/// The side that writes frames.
struct Sender {
    ring: RingWriter,
    overflow: FrameWriter,
    /// Wakes the reader, and is woken by it.
    out: OwnedFd,
    wake: OwnedFd,
}

impl Sender {
    fn send(&mut self, ticket: u64, payload: &[u8]) {
        if self.ring.frame(Kind::Done, ticket, &[payload]).unwrap() {
            self.publish();
            return;
        }
        self.overflow.push_copy(Kind::Done, ticket, payload).unwrap();
        while self.overflow.flush_into(&mut self.ring).unwrap() != Flush::Done {
            let room = self.ring.wait_for_room(self.overflow.pending_bytes()).unwrap();
            if room.ring {
                ring(&self.out);
            }
            if !room.now {
                sleep(self.wake.as_fd());
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        if self.ring.publish() {
            ring(&self.out);
        }
    }

    fn run_dry(&mut self) {
        if self.ring.ring_if_waiting() {
            ring(&self.out);
        }
    }
}

/// The side that reads frames.
struct Receiver {
    ring: RingReader,
    frames: FrameReader,
    out: OwnedFd,
    wake: OwnedFd,
    sleeps: u64,
}

impl Receiver {
    /// Waits for bytes; false once the sender is gone and everything has been read.
    fn fill(&mut self, wake: Wake, spins: usize) -> bool {
        for round in 0.. {
            let (fill, rings) = self.frames.fill_from(&mut self.ring).unwrap();
            if rings {
                ring(&self.out);
            }
            if fill != Fill::WouldBlock {
                return true;
            }
            if round % (spins + 1) == spins && self.ring.arm(wake).unwrap() {
                self.sleeps += 1;
                let is_open = sleep(self.wake.as_fd());
                self.ring.disarm();
                if !is_open && self.ring.available() == Ok(0) {
                    return false;
                }
            }
        }
        unreachable!()
    }
}

/// Both ends of a ring and its bells, in this process.
fn line() -> (Sender, Receiver) {
    let (supervisor, memory) = Region::create().unwrap();
    let worker = Region::open(memory.as_fd()).unwrap();
    let ((wake_reader, ring_reader), (wake_writer, ring_writer)) =
        (pipe_pair().unwrap(), pipe_pair().unwrap());
    for bell in [&ring_reader, &ring_writer] {
        set_nonblocking(bell.as_fd()).unwrap();
    }
    let (reader, writer) = (supervisor.supervisor().1, worker.worker().1);
    (
        Sender { ring: writer, overflow: FrameWriter::new(), out: ring_reader, wake: wake_writer },
        Receiver {
            ring: reader,
            frames: FrameReader::new(u32::MAX),
            out: ring_writer,
            wake: wake_reader,
            sleeps: 0,
        },
    )
}

/// A payload that can be checked: its length and its bytes follow from the ticket.
fn payload(ticket: u64) -> Vec<u8> {
    let random = ticket.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let len = match random % 1000 {
        0 => random % 700_000,
        1..20 => random % 40_000,
        20..200 => random % 2_000,
        _ => random % 40,
    };
    (0..len).map(|at| (at.wrapping_mul(31) ^ ticket) as u8).collect()
}

#[test]
fn two_threads_exchange_frames_of_all_sizes_asleep_and_awake() {
    let frames = times(60_000);
    for wake in [Wake::Each, Wake::Low] {
        let (mut sender, mut receiver) = line();
        let sending = thread::spawn(move || {
            for ticket in 1..=frames {
                sender.send(ticket, &payload(ticket));
                // Now and then it has nothing to say for a moment, so that the reader falls asleep.
                if ticket % 64 == 0 {
                    sender.run_dry();
                    (0..ticket % 5).for_each(|_| thread::yield_now());
                }
            }
            sender.run_dry();
        });
        let mut ticket = 0;
        while ticket < frames {
            assert!(receiver.fill(wake, (ticket % 200) as usize), "the sender is gone at ticket {ticket}");
            while let Some(frame) = receiver.frames.next_frame().unwrap() {
                ticket += 1;
                assert_eq!(frame.ticket, ticket);
                assert!(frame.payload == payload(ticket), "ticket {ticket}");
            }
        }
        sending.join().unwrap();
        assert!(receiver.sleeps > 0, "it should have slept now and then ({wake:?})");
    }
}

#[test]
fn two_threads_exchange_runs_of_small_frames() {
    let frames = times(1_000_000);
    let (mut sender, mut receiver) = line();
    let sending = thread::spawn(move || {
        for ticket in 1..=frames {
            sender.send(ticket, &ticket.to_le_bytes()[..ticket as usize % 9]);
        }
        sender.run_dry();
    });
    let mut ticket = 1;
    while ticket <= frames {
        receiver.fill(Wake::Each, 100);
        while let Some(run) = receiver.frames.next_run(Kind::Done, ticket, 1000).unwrap() {
            assert_eq!(pool_ipc::frames(run.bytes).count(), run.count as usize);
            for payload in run.payloads() {
                assert_eq!(*payload, ticket.to_le_bytes()[..ticket as usize % 9]);
                ticket += 1;
            }
        }
    }
    sending.join().unwrap();
}

#[test]
fn a_round_trip_wakes_both_sides_every_time() {
    let trips = times(5_000);
    let (mut there, mut at_other) = line();
    let (mut back, mut here) = line();
    let echo = thread::spawn(move || {
        for ticket in 1..=trips {
            at_other.fill(Wake::Each, ticket as usize % 3 * 1000);
            let frame = at_other.frames.next_frame().unwrap().unwrap();
            back.send(frame.ticket, &frame.payload);
        }
    });
    for ticket in 1..=trips {
        there.send(ticket, b"payload");
        here.fill(Wake::Each, ticket as usize % 7 * 500);
        assert_eq!(here.frames.next_frame().unwrap().unwrap().ticket, ticket);
    }
    echo.join().unwrap();
}

/// Says to the copy of this test program that it is the worker.
const ROLE: &str = "POOL_IPC_TEST_WORKER";

/// Starts this test program once more as a worker, whose `worker_side` does what `role` says.
fn worker(role: &str) -> (std::process::Child, Sender, Receiver) {
    let (region, memory) = Region::create().unwrap();
    let ((task_pipe, task_bell), (result_bell, result_pipe)) = (pipe_pair().unwrap(), pipe_pair().unwrap());
    set_nonblocking(task_bell.as_fd()).unwrap();
    let (ours, theirs) = boot::socket_pair().unwrap();
    let message = Boot {
        pool: "rings".into(),
        worker: 0,
        generation: 1,
        depth: 0,
        frame_limit: u32::MAX,
        supervisor_pid: std::process::id(),
        measured: None,
        marks: false,
        core_dumps: false,
        oom_score_adj: 0,
        ring: true,
        nice: 0,
        cpus: Vec::new(),
        states: Vec::new(),
        confinement: pool_ipc::Confinement::default(),
    };
    boot::send(ours.as_fd(), &message, [task_pipe.as_fd(), result_pipe.as_fd(), memory.as_fd()]).unwrap();
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "worker_side", "--nocapture"])
        .env(ROLE, role)
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (tasks, results) = region.supervisor();
    // Its results wake us through the pipe that tells of its end, too; our writer waits for room there.
    let wake = result_bell.try_clone().unwrap();
    (
        child,
        Sender { ring: tasks, overflow: FrameWriter::new(), out: task_bell.try_clone().unwrap(), wake },
        Receiver {
            ring: results,
            frames: FrameReader::new(u32::MAX),
            out: task_bell,
            wake: result_bell,
            sleeps: 0,
        },
    )
}

/// Not a test of its own: the worker's side of the tests below.
#[test]
fn worker_side() {
    let Ok(role) = env::var(ROLE) else { return };
    let stdin = io::stdin();
    let (boot, ends) = boot::receive(stdin.as_fd()).unwrap();
    assert!(boot.ring);
    let region = Region::open(ends.region.as_fd()).unwrap();
    let (tasks, results) = region.worker();
    let mut sender = Sender {
        ring: results,
        overflow: FrameWriter::new(),
        out: ends.results.try_clone().unwrap(),
        wake: ends.tasks.try_clone().unwrap(),
    };
    let mut receiver = Receiver {
        ring: tasks,
        frames: FrameReader::new(boot.frame_limit),
        out: ends.results,
        wake: ends.tasks,
        sleeps: 0,
    };
    match role.as_str() {
        "echo" => {
            while receiver.fill(Wake::Each, 50) {
                while let Some(frame) = receiver.frames.next_frame().unwrap() {
                    sender.send(frame.ticket, &frame.payload);
                }
            }
        }
        "die" => {
            for ticket in 1.. {
                sender.send(ticket, &payload(ticket % 500 * 7));
            }
        }
        "scribble" => scribble(),
        other => panic!("what is {other}?"),
    }
}

/// Overwrites all memory that this process shares with its supervisor, as a task may.
fn scribble() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("pool-region")).unwrap();
    let (start, end) = line.split_whitespace().next().and_then(|range| range.split_once('-')).unwrap();
    let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).unwrap());
    let mut memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
    std::io::Seek::seek(&mut memory, io::SeekFrom::Start(start)).unwrap();
    memory.write_all(&vec![0xA5; (end - start) as usize]).unwrap();
}

#[test]
fn another_process_echoes_frames_of_all_sizes() {
    let frames = times(5_000);
    let (mut child, mut sender, mut receiver) = worker("echo");
    // So many are on their way that neither ring is ever full for both sides.
    const AHEAD: u64 = 3;
    let mut sent = 0;
    for ticket in 1..=frames {
        while sent < frames.min(ticket + AHEAD) {
            sent += 1;
            let payload = payload(sent);
            sender.send(sent, &payload[..payload.len().min(30_000)]);
        }
        loop {
            if let Some(frame) = receiver.frames.next_frame().unwrap() {
                let payload = payload(ticket);
                assert_eq!(frame.ticket, ticket);
                assert!(*frame.payload == payload[..payload.len().min(30_000)], "ticket {ticket}");
                break;
            }
            assert!(receiver.fill(Wake::Each, 20), "the worker is gone at ticket {ticket}");
        }
    }
    // The end of the task pipe is the worker's end.
    drop((sender, receiver.out));
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_a_killed_process_has_published_can_be_read_to_its_end() {
    for seen in [1, 50, 500, 2_000] {
        let (mut child, sender, mut receiver) = worker("die");
        let mut ticket = 0;
        let mut is_alive = true;
        loop {
            while let Some(frame) = receiver.frames.next_frame().unwrap() {
                ticket += 1;
                assert_eq!(frame.ticket, ticket);
                assert!(frame.payload == payload(ticket % 500 * 7));
            }
            if ticket >= seen && is_alive {
                is_alive = false;
                child.kill().unwrap();
                child.wait().unwrap();
            }
            let (fill, rings) = receiver.frames.fill_from(&mut receiver.ring).unwrap();
            match fill {
                Fill::WouldBlock if !is_alive => break,
                Fill::WouldBlock => thread::yield_now(),
                _ if rings => ring(&receiver.out),
                _ => {}
            }
        }
        assert!(ticket >= seen);
        drop(sender);
    }
}

#[test]
fn a_process_that_overwrites_the_region_is_found_out() {
    let (mut child, mut sender, mut receiver) = worker("scribble");
    assert!(child.wait().unwrap().success());
    let error = receiver.frames.fill_from(&mut receiver.ring).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(sender.ring.free().is_err());
    // Nobody is waited for, and the pipes still tell the end.
    let mut bells = Vec::new();
    std::fs::File::from(receiver.wake).read_to_end(&mut bells).unwrap();
}

#[test]
fn a_sleeper_is_woken_by_the_end_of_the_other_side() {
    let (sender, mut receiver) = line();
    let waiting = thread::spawn(move || receiver.fill(Wake::Each, 0));
    drop(sender);
    assert!(!waiting.join().unwrap());
}
