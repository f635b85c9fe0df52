//! A frame there and back, between two threads that both look again and again.

use std::hint::spin_loop;
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use pool_benches::Outcome;
use pool_ipc::{DEFAULT_FRAME_LIMIT, FrameReader, Kind, Region, RingReader, RingWriter};

const PAYLOAD: &[u8] = b"8 bytes!";
/// Looks in vain before the core is offered to others: there may be fewer cores than threads that want one.
const LOOKS: u32 = 1000;

/// One end of two rings.
struct End {
    ring: RingReader,
    reader: FrameReader,
    writer: RingWriter,
}

impl End {
    fn new(ring: RingReader, writer: RingWriter) -> Self {
        Self { ring, reader: FrameReader::new(DEFAULT_FRAME_LIMIT), writer }
    }

    fn send(&mut self, kind: Kind, ticket: u64) {
        let sent = self.writer.frame(kind, ticket, &[PAYLOAD]);
        assert!(sent == Ok(true) && !self.writer.publish(), "there is room, and nobody sleeps");
    }

    /// The next frame's kind and ticket.
    fn receive(&mut self) -> (Kind, u64) {
        for look in 1_u32.. {
            if let Some(frame) = self.reader.next_frame().expect("only whole frames are sent") {
                return (frame.kind, frame.ticket);
            }
            self.reader.fill_from(&mut self.ring).expect("nobody overwrites the ring");
            if look % LOOKS == 0 { thread::yield_now() } else { spin_loop() }
        }
        unreachable!("it looks until there is one")
    }
}

/// Our end, and the thread that answers at the other one.
pub(crate) struct Trip {
    end: End,
    ticket: u64,
    other: Option<JoinHandle<()>>,
}

impl Trip {
    pub(crate) fn start() -> Outcome<Self> {
        let (region, memory) = Region::create()?;
        let (tasks, results) = region.supervisor();
        let (ring, writer) = Region::open(memory.as_fd())?.worker();
        let mut theirs = End::new(ring, writer);
        let other = thread::Builder::new().spawn(move || {
            while let (Kind::Task, ticket) = theirs.receive() {
                theirs.send(Kind::Done, ticket);
            }
        })?;
        Ok(Self { end: End::new(results, tasks), ticket: 0, other: Some(other) })
    }

    /// Once there and back.
    pub(crate) fn go(&mut self) {
        self.ticket += 1;
        self.end.send(Kind::Task, self.ticket);
        assert_eq!(self.end.receive(), (Kind::Done, self.ticket));
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        self.end.send(Kind::Retire, 0);
        if let Some(other) = self.other.take() {
            // Had it panicked, we would still be waiting for its answer.
            let _ = other.join();
        }
    }
}
