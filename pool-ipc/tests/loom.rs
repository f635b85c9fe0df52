//! The ring under [loom], which runs every order of its steps that the memory model allows.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p pool-ipc --release --test loom
//! ```
//!
//! The code is that of the real ring, with loom's atomics and a capacity of 4 bytes. There is one difference: `Word::tell`
//! and `Flag::raise` end with a fence here, since loom knows no total order of accesses (`SeqCst`), which the real ones
//! rely on. Where a bell is not rung loom reports a deadlock; where bytes are read before they are ordered it reports the
//! access.
//!
//! # That these tests can fail
//!
//! Each of these changes has been made, and was found:
//!
//! | change | found by | as |
//! |---|---|---|
//! | `Word::tell` of loom without its fence | all but `both_sides_…` | deadlock |
//! | `Flag::raise` of loom without its fence | the first and the last | deadlock |
//! | `Flag::lower` as a load and a relaxed store | all but `the_last_byte_…` | deadlock |
//! | `RingReader::arm` looks before it raises its flag | all | deadlock |
//! | `RingWriter::publish` looks before it tells its position | all but `the_last_byte_…` | deadlock |
//! | `RingWriter::wait_for_room` looks before it raises its flag | `a_writer_…`, `both_sides_…` | deadlock |
//! | `RingReader::read_into` looks before it tells its position | `a_writer_…`, `both_sides_…` | deadlock |
//! | `RingWriter::wait_for_room` has the reader rung for news only | `both_sides_…` | deadlock |
//! | `RingReader::read_into` tells its position before it copies | `a_writer_…`, `both_sides_…` | concurrent access |
//! | `Word::tell` stores relaxed | all | concurrent access |
//! | `Word::get` loads relaxed | all | concurrent access |

#![cfg(loom)]

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};
use pool_ipc::{RingReader, RingWriter, Wake, ring::model};

/// A doorbell that keeps ringing until it is answered, as a byte in a pipe does.
struct Bell {
    rings: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self { rings: Mutex::new(false), changed: Condvar::new() }
    }

    fn ring(&self) {
        *self.rings.lock().unwrap() = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let mut rings = self.rings.lock().unwrap();
        while !*rings {
            rings = self.changed.wait(rings).unwrap();
        }
        *rings = false;
    }
}

/// One doorbell for each side.
#[derive(Clone)]
struct Bells {
    reader: Arc<Bell>,
    writer: Arc<Bell>,
}

impl Bells {
    fn new() -> Self {
        Self { reader: Arc::new(Bell::new()), writer: Arc::new(Bell::new()) }
    }
}

/// Reads `count` bytes that count up from 1, sleeping in mode `wake` whenever there is none.
fn read(reader: &mut RingReader, bells: &Bells, wake: Wake, count: usize) {
    let mut found = Vec::new();
    while found.len() < count {
        let (bytes, rings) = reader.read_into(&mut found, usize::MAX).unwrap();
        if rings {
            bells.writer.ring();
        }
        if bytes == 0 && reader.arm(wake).unwrap() {
            bells.reader.wait();
            reader.disarm();
        }
    }
    assert!(found.iter().copied().eq(1..=count as u8));
}

/// Publishes what is staged.
fn publish(writer: &mut RingWriter, bells: &Bells) {
    if writer.publish() {
        bells.reader.ring();
    }
}

/// Writes `bytes` in pieces of at most `piece`, each of which is published, sleeping whenever there is no room.
fn write(writer: &mut RingWriter, bells: &Bells, bytes: &[u8], piece: usize) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let staged = writer.stage(&rest[..piece.min(rest.len())]).unwrap();
        rest = &rest[staged..];
        publish(writer, bells);
        if staged == 0 {
            let room = writer.wait_for_room(1).unwrap();
            if room.ring {
                bells.reader.ring();
            }
            if !room.now {
                bells.writer.wait();
            }
        }
    }
}

/// Runs both sides in every order with at most so many switches that no side has asked for; `None` for any number.
fn explore(
    switches: Option<usize>,
    writing: impl Fn(&mut RingWriter, &Bells) + Send + Sync + Copy + 'static,
    reading: impl Fn(&mut RingReader, &Bells) + Send + Sync + 'static,
) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = switches;
    builder.check(move || {
        let ((mut writer, mut reader), bells) = (model(), Bells::new());
        let writing = {
            let bells = bells.clone();
            thread::spawn(move || writing(&mut writer, &bells))
        };
        reading(&mut reader, &bells);
        writing.join().unwrap();
    });
}

#[test]
fn a_reader_that_falls_asleep_is_rung_for_each_byte() {
    explore(
        None,
        |writer, bells| write(writer, bells, &[1, 2], 1),
        |reader, bells| read(reader, bells, Wake::Each, 2),
    );
}

#[test]
fn a_writer_that_waits_for_room_is_rung() {
    explore(
        Some(3),
        |writer, bells| write(writer, bells, &[1, 2, 3, 4, 5, 6, 7], 3),
        |reader, bells| read(reader, bells, Wake::Each, 7),
    );
}

#[test]
fn the_last_byte_reaches_a_reader_that_sleeps_deep() {
    explore(
        None,
        |writer, bells| {
            write(writer, bells, &[1], 1);
            if writer.ring_if_waiting() {
                bells.reader.ring();
            }
        },
        |reader, bells| read(reader, bells, Wake::Low, 1),
    );
}

/// The writer has a whole frame of 4 bytes behind one of 1 byte that a deep sleeper has not been told of.
#[test]
fn both_sides_do_not_sleep_at_once() {
    explore(
        Some(4),
        |writer, bells| {
            write(writer, bells, &[1], 1);
            loop {
                let room = writer.wait_for_room(4).unwrap();
                if room.ring {
                    bells.reader.ring();
                }
                if room.now {
                    break;
                }
                bells.writer.wait();
            }
            write(writer, bells, &[2, 3, 4, 5], 4);
        },
        |reader, bells| read(reader, bells, Wake::Low, 5),
    );
}

#[test]
fn a_reader_that_changes_its_mind_is_rung_the_next_time() {
    explore(
        Some(4),
        |writer, bells| write(writer, bells, &[1, 2], 1),
        |reader, bells| {
            for wake in [Wake::Low, Wake::Each] {
                if reader.arm(wake).unwrap() {
                    reader.disarm();
                }
            }
            read(reader, bells, Wake::Each, 2);
        },
    );
}
