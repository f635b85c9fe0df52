//! The exchange through shared memory, each side by itself. A payload has 8 bytes, as those of small tasks have at most.

use std::hint::black_box;
use std::os::fd::AsFd;

use pool_benches::Outcome;
use pool_core::__private::Serde;
use pool_core::__private::Wire;
use pool_ipc::{Board, Bundle, DEFAULT_FRAME_LIMIT, Fill, FrameReader, Kind, Region, TaskHead};
use pool_ipc::{RingReader, RingWriter};

use super::{MOST, Step, prepared};

const PAYLOAD: &[u8] = b"8 bytes!";

/// The ring of results: the worker's end and the supervisor's.
struct Lane {
    writer: RingWriter,
    ring: RingReader,
    reader: FrameReader,
    /// The ticket of the next frame to be written.
    next: u64,
    /// That of the next one to be read.
    oldest: u64,
}

impl Lane {
    fn new() -> Outcome<Self> {
        let (region, memory) = Region::create()?;
        let (_, ring) = region.supervisor();
        let (_, writer) = Region::open(memory.as_fd())?.worker();
        Ok(Self { writer, ring, reader: FrameReader::new(DEFAULT_FRAME_LIMIT), next: 1, oldest: 1 })
    }

    /// Each frame by itself, as a worker sends results.
    #[inline]
    fn write(&mut self, count: u32) {
        for _ in 0..count {
            let staged = self.writer.frame(Kind::Done, self.next, &[black_box(PAYLOAD)]);
            assert!(staged == Ok(true) && !self.writer.publish(), "there is room, and nobody sleeps");
            self.next += 1;
        }
    }

    /// As the results of items that were handed out together are read.
    #[inline]
    fn read_runs(&mut self) {
        while let Ok((Fill::Bytes(_), _)) = self.reader.fill_from(&mut self.ring) {
            while let Ok(Some(run)) = self.reader.next_run(Kind::Done, self.oldest, u32::MAX) {
                self.oldest += u64::from(run.count);
                black_box(run.bytes);
            }
        }
        assert_eq!(self.oldest, self.next, "all that was written has been read");
    }

    /// As the results of single tasks are read.
    #[inline]
    fn read_frames(&mut self) {
        while let Ok((Fill::Bytes(_), _)) = self.reader.fill_from(&mut self.ring) {
            while let Ok(Some(frame)) = self.reader.next_frame() {
                self.oldest += 1;
                black_box(&frame);
            }
        }
        assert_eq!(self.oldest, self.next, "all that was written has been read");
    }
}

/// A board, and the first of the tickets that are offered.
struct Desk {
    board: Board,
    first: u64,
}

fn desk() -> Outcome<Desk> {
    Ok(Desk { board: Region::create()?.0.board(), first: 1 })
}

/// A bundle of so many items.
fn bundle(bytes: &mut Vec<u8>, count: u32) {
    bytes.clear();
    let head = TaskHead { index: 3, attempt: 1, queued_us: 0, task: 42, timeout_ns: 0 };
    bytes.extend_from_slice(&Bundle::start(head, count));
    (0..count).for_each(|_| Bundle::push(bytes, PAYLOAD));
}

pub(super) const STEPS: &[Step] = &[
    Step {
        part: "board",
        name: "offer a ticket (of many)",
        make: || {
            let offer = |desk: &mut Desk, count| {
                desk.board.offer_all(desk.first, count);
                desk.first += u64::from(count);
            };
            prepared(desk()?, |_, _| {}, offer)
        },
    },
    Step {
        part: "ring",
        name: "find an item of a bundle",
        make: || {
            let find = |bytes: &mut Vec<u8>, count: u32| {
                let Ok((_, items)) = Bundle::split(black_box(bytes)) else { return };
                let found = items.filter(|item| black_box(item).is_ok()).count();
                assert_eq!(found, count as usize, "all items are found");
            };
            prepared(Vec::with_capacity(MOST as usize * 16), bundle, find)
        },
    },
    Step {
        part: "board",
        name: "claim and finish a ticket",
        make: || {
            let claim = |desk: &mut Desk, count: u32| {
                for ticket in desk.first..desk.first + u64::from(count) {
                    assert!(desk.board.claim(ticket, black_box(1)), "nobody has taken it back");
                    desk.board.finish(ticket);
                }
                desk.first += u64::from(count);
            };
            prepared(desk()?, |desk, count| desk.board.offer_all(desk.first, count), claim)
        },
    },
    Step {
        part: "ring",
        name: "frame and publish a result",
        make: || prepared(Lane::new()?, |lane, _| lane.read_frames(), Lane::write),
    },
    Step {
        part: "ring",
        name: "read a result of a run",
        make: || prepared(Lane::new()?, Lane::write, |lane, _| lane.read_runs()),
    },
    Step {
        part: "ring",
        name: "read a single result",
        make: || prepared(Lane::new()?, Lane::write, |lane, _| lane.read_frames()),
    },
    Step {
        part: "ring",
        name: "decode a result of a run (u64)",
        make: || {
            let decode = |bytes: &mut Vec<u8>, count: u32| {
                let sum: u64 = pool_ipc::frames(black_box(bytes))
                    .map(|mut payload| Wire::<u64>::decode(&mut payload).unwrap_or_default())
                    .sum();
                assert_eq!(sum, u64::from(count) * 1_000_000, "all are decoded");
            };
            prepared(Vec::new(), results, decode)
        },
    },
];

/// The frames of so many results.
fn results(bytes: &mut Vec<u8>, count: u32) {
    bytes.clear();
    // One million.
    let payload = [0xC0, 0x84, 0x3D];
    for ticket in 1..=u64::from(count) {
        let header = pool_ipc::Header::new(Kind::Done, ticket, &[&payload]).map(|header| header.encode());
        bytes.extend(header.iter().flatten().chain(&payload));
    }
}
