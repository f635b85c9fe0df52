//! The four ends of a link, connected by a real socket, within one process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use pool_ipc::boot::{receive_descriptor, send_descriptor, socket_pair};
use pool_ipc::{Locator, SealedWriter, Segment};
use proptest::prelude::*;

use super::*;
use crate::arena::tests::arena;
use crate::arena::{Arena, IDLE, LARGE, Limits};
use crate::buffer::{Args, Buffer};
use crate::codec::{Serde, Wire};
use crate::reply::Reply;
use crate::shared_bytes::SharedBytes;
use crate::sys::passing::lent;

const LIMIT: usize = 1 << 30;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

struct Socket {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Socket {
    fn new() -> Self {
        let (ours, theirs) = socket_pair().unwrap();
        Self { ours, theirs }
    }

    fn send(&self) -> impl Fn(u64, BorrowedFd<'_>) -> io::Result<()> {
        |id, fd| send_descriptor(self.ours.as_fd(), id, fd)
    }

    fn receive(&self) -> impl Fn() -> io::Result<Option<(u64, OwnedFd)>> {
        || receive_descriptor(self.theirs.as_fd(), false)
    }
}

fn no_send(_: u64, _: BorrowedFd<'_>) -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

fn args(arena: &'static Arena, len: usize) -> Args {
    let mut buffer = Buffer::of(arena);
    buffer.extend_from_slice(&bytes(len));
    buffer.finish()
}

#[test]
fn arguments_are_read_where_they_were_written() {
    let (arena, socket) = (arena(Limits::SUPERVISOR), Socket::new());
    let (mut out, mut into) = (ArgumentsOut::of(arena), ArgumentsIn::default());
    for (ticket, len) in [(1, LARGE), (2, 5 << 20), (3, LARGE + 1), (4, 2 << 20)] {
        let locator = out.lend(ticket, &args(arena, len), socket.send()).unwrap();
        let view = into.find(&locator, socket.receive()).unwrap();
        assert!(lent(&view, &locator).unwrap() == bytes(len));
    }
    assert!(out.lend(5, &args(arena, LARGE - 1), |_, _| panic!("few bytes are sent")).is_none());
}

#[test]
fn a_descriptor_is_sent_once_and_none_for_what_is_used_again() {
    let (arena, socket) = (arena(Limits::SUPERVISOR), Socket::new());
    let (mut out, mut into) = (ArgumentsOut::of(arena), ArgumentsIn::default());
    let mut sent = 0;
    for ticket in 1..100 {
        let args = args(arena, LARGE + ticket as usize);
        let locator = out.lend(ticket, &args, |id, fd| {
            sent += 1;
            socket.send()(id, fd)
        });
        let locator = locator.unwrap();
        drop(args);
        let view = into.find(&locator, socket.receive()).unwrap();
        assert!(lent(&view, &locator).unwrap() == bytes(LARGE + ticket as usize));
        out.answered(ticket);
    }
    assert_eq!(sent, 1);
}

#[test]
fn what_is_lent_is_not_used_again_until_the_worker_has_answered() {
    let (arena, socket) = (arena(Limits::SUPERVISOR), Socket::new());
    let mut out = ArgumentsOut::of(arena);
    let lend = |out: &mut ArgumentsOut, ticket| {
        let locator = out.lend(ticket, &args(arena, LARGE), socket.send()).unwrap();
        (locator.segment, locator.offset)
    };
    // The caller has let go of them at once.
    let places: Vec<_> = (1..=4).map(|ticket| lend(&mut out, ticket)).collect();
    out.taken_back(4, 1);
    assert_eq!(lend(&mut out, 5), places[3]);
    out.answered(2);
    let again = [lend(&mut out, 6), lend(&mut out, 7)];
    assert!(again.contains(&places[0]) && again.contains(&places[1]));
    assert!(!places.contains(&lend(&mut out, 8)), "3 is still being read");
    drop(out);
    let mut other = ArgumentsOut::of(arena);
    let after: Vec<_> = (1..=4).map(|ticket| lend(&mut other, ticket)).collect();
    assert!(after.contains(&places[2]), "a dead worker reads nothing");
}

#[test]
fn a_descriptor_that_cannot_be_sent_has_the_bytes_sent() {
    let arena = arena(Limits::SUPERVISOR);
    let (mut out, args) = (ArgumentsOut::of(arena), args(arena, LARGE));
    assert_eq!(out.lend(1, &args, no_send), None);
    let socket = Socket::new();
    assert!(out.lend(2, &args, socket.send()).is_some(), "the next one tries again");
}

#[test]
fn a_segment_that_has_been_given_back_is_forgotten_on_the_other_side() {
    let (arena, socket) = (arena(Limits::SUPERVISOR), Socket::new());
    let (mut out, mut into) = (ArgumentsOut::of(arena), ArgumentsIn::default());
    let seen = out.lend(1, &args(arena, 16 << 20), socket.send()).unwrap();
    into.find(&seen, socket.receive()).unwrap();
    // Taken back before the worker came to it: its descriptor still waits.
    let unseen = out.lend(2, &args(arena, 32 << 20), socket.send()).unwrap();
    out.taken_back(2, 1);
    assert!(out.forgotten().is_empty());
    out.answered(1);
    arena.trim(Instant::now() + 2 * IDLE);
    let forgotten = out.forgotten();
    assert_eq!(forgotten, [seen.segment, unseen.segment]);
    assert!(out.forgotten().is_empty(), "once");
    for id in forgotten {
        into.forget(id, socket.receive()).unwrap();
    }
    for gone in [seen, unseen] {
        let error = into.find(&gone, socket.receive()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

/// The worker's results, as the supervisor gets them.
struct Results {
    arena: &'static Arena,
    socket: Socket,
    out: ResultsOut,
    into: ResultsIn,
}

impl Results {
    fn new() -> Self {
        let arena = arena(Limits::WORKER);
        Self { arena, socket: Socket::new(), out: ResultsOut::of(arena), into: ResultsIn::new() }
    }

    /// The payload of the `DoneAt` frame of a result.
    fn lend(&mut self, encode: impl FnOnce(&mut Buffer)) -> (Locator, Vec<u8>) {
        let mut output = Buffer::of(self.arena);
        encode(&mut output);
        let locator = self.out.lend(&mut output, self.socket.send()).expect("it is in shared memory");
        (locator, [&locator.encode()[..], &output].concat())
    }

    fn accept(&mut self, payload: &[u8]) -> Result<Reply, String> {
        self.into.accept(payload, LIMIT, self.socket.receive()).map_err(|refusal| match refusal {
            Refusal::Lie(what) => what,
            Refusal::Resources(error) => panic!("{error}"),
        })
    }

    /// As [`accept`](Self::accept), while no number is left for a descriptor.
    fn accept_in_want(&mut self, payload: &[u8]) {
        let none = || Err(io::Error::from_raw_os_error(libc::EMFILE));
        match self.into.accept(payload, LIMIT, none) {
            Err(Refusal::Resources(error)) => assert_eq!(error.raw_os_error(), Some(libc::EMFILE)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_result_that_finds_no_descriptor_is_given_back_and_later_ones_are_received() {
    let mut results = Results::new();
    let value = bytes(LARGE);
    let shared = SharedBytes::from(&value[..]);
    let (locator, payload) = results.lend(|output| Wire::<[u8]>::encode(&value, output).unwrap());
    let (sealed, sealed_payload) = results.lend(|output| assert!(output.attach(&shared)));
    results.accept_in_want(&payload);
    results.accept_in_want(&sealed_payload);
    assert_eq!(results.into.released(), [locator, sealed], "the worker may use the memory again");
    // Both descriptors are still on their way; that of the file is of no use any more.
    let (_, payload) = results.lend(|output| Wire::<[u8]>::encode(&value, output).unwrap());
    let reply = results.accept(&payload).unwrap();
    assert!(Wire::<Vec<u8>>::decode_reply(reply.encoded()).unwrap() == value);
    let (_, payload) = results.lend(|output| Wire::<SharedBytes>::encode_reply(&shared, output).unwrap());
    let reply = results.accept(&payload).unwrap();
    assert!(Wire::<SharedBytes>::decode_reply(reply.encoded()).unwrap() == shared);
}

#[test]
fn results_of_every_kind_come_back() {
    macro_rules! round_trip {
        ($results:ident, $ty:ty, $value:expr) => {{
            let value: $ty = $value;
            let (_, payload) = $results.lend(|output| Wire::<$ty>::encode_reply(&value, output).unwrap());
            let reply = $results.accept(&payload).unwrap();
            assert!(Wire::<$ty>::decode_reply(reply.encoded()).unwrap() == value);
            reply
        }};
    }
    let (large, text) = (bytes(3 * LARGE), "ä".repeat(LARGE));
    let shared = SharedBytes::from(&large[..]);
    type Outcome<T> = Result<T, String>;
    let mut results = Results::new();
    round_trip!(results, Vec<u8>, large.clone());
    round_trip!(results, Option<Vec<u8>>, Some(large.clone()));
    round_trip!(results, Outcome<Vec<u8>>, Ok(large.clone()));
    round_trip!(results, Outcome<Vec<u8>>, Err(text.clone()));
    round_trip!(results, String, text.clone());
    round_trip!(results, (u8, Vec<u32>), (7, vec![70_000; LARGE]));
    round_trip!(results, std::path::PathBuf, text.clone().into());
    round_trip!(results, SharedBytes, shared.clone());
    round_trip!(results, Option<SharedBytes>, Some(shared.clone()));
    round_trip!(results, Outcome<SharedBytes>, Ok(shared.clone()));
    round_trip!(results, Outcome<SharedBytes>, Err(text.clone()));
    round_trip!(results, SharedBytes, SharedBytes::from(large.clone()));
    round_trip!(results, (u8, SharedBytes), (1, shared));
}

#[test]
fn shared_bytes_are_not_copied_and_outlive_the_link() {
    let mut results = Results::new();
    let value = SharedBytes::from(&bytes(LARGE)[..]);
    let (_, payload) = results.lend(|output| Wire::<SharedBytes>::encode_reply(&value, output).unwrap());
    assert_eq!(payload.len(), Locator::LEN);
    let reply = results.accept(&payload).unwrap();
    drop((results, value));
    let found = Wire::<SharedBytes>::decode_reply(reply.encoded()).unwrap();
    drop(reply);
    assert!(found.sealed().is_some() && *found == bytes(LARGE));
}

#[test]
fn a_block_is_used_again_once_its_result_has_been_decoded_or_dropped() {
    let mut results = Results::new();
    let (first, payload) = results.lend(|output| output.extend_from_slice(&bytes(LARGE)));
    let reply = results.accept(&payload).unwrap();
    let (second, _) = results.lend(|output| output.extend_from_slice(&bytes(LARGE)));
    assert_ne!(first, second);
    assert!(results.into.released().is_empty());
    drop(reply);
    assert_eq!(results.into.released(), [first]);
    assert!(results.into.released().is_empty(), "once");
    results.out.released(&first);
    let (third, _) = results.lend(|output| output.extend_from_slice(&bytes(LARGE)));
    assert_eq!(first, third);
    results.out.released(&Locator { segment: 999, offset: 0, len: 0 });
}

#[test]
fn what_is_still_lent_when_a_task_begins_is_protected_until_its_release() {
    let mut results = Results::new();
    let (lent, _) = results.lend(|output| output.extend_from_slice(&bytes(LARGE)));
    let (released, _) = results.lend(|output| output.extend_from_slice(&bytes(LARGE)));
    results.out.released(&released);
    results.out.protect();
    results.out.protect();
    results.out.released(&lent);
    // Both can be written again.
    for _ in 0..2 {
        let mut output = Buffer::of(results.arena);
        output.extend_from_slice(&bytes(LARGE));
    }
    let (_, payload) = results.lend(|output| Wire::<[u8]>::encode(&bytes(LARGE), output).unwrap());
    let reply = results.accept(&payload).unwrap();
    assert!(Wire::<Vec<u8>>::decode_reply(reply.encoded()).unwrap() == bytes(LARGE));
}

#[test]
fn a_result_that_cannot_be_lent_is_sent_whole() {
    let arena = arena(Limits::WORKER);
    let (mut out, mut output) = (ResultsOut::of(arena), Buffer::of(arena));
    assert!(out.lend(&mut output, no_send).is_none(), "nothing");
    Wire::<[u8]>::encode(&bytes(LARGE), &mut output).unwrap();
    let encoded = output.to_vec();
    assert!(out.lend(&mut output, no_send).is_none());
    assert!(*output == encoded);
    output.clear();
    let shared = SharedBytes::from(&bytes(LARGE)[..]);
    Wire::<Option<SharedBytes>>::encode_reply(&Some(shared), &mut output).unwrap();
    assert!(out.lend(&mut output, no_send).is_none());
    assert!(*output == [&[1], &encoded[..]].concat());
}

#[test]
fn results_of_a_dead_worker_can_be_read_and_those_in_a_forgotten_segment_too() {
    let mut results = Results::new();
    let value = bytes(LARGE);
    let (locator, payload) = results.lend(|output| Wire::<Vec<u8>>::encode_reply(&value, output).unwrap());
    let reply = results.accept(&payload).unwrap();
    results.into.forget(locator.segment);
    results.into.forget(locator.segment);
    results.out.released(&locator);
    results.arena.trim(Instant::now() + 2 * IDLE);
    assert_eq!(results.out.forgotten(), [locator.segment]);
    drop(results);
    assert!(Wire::<Vec<u8>>::decode_reply(reply.encoded()).unwrap() == value);
}

#[test]
fn what_a_hostile_worker_says_is_refused() {
    let refused = |results: &mut Results, locator: Locator, head: &[u8], why: &str| {
        let error = results.accept(&[&locator.encode()[..], head].concat()).unwrap_err();
        assert!(error.contains(why), "{error}");
    };
    let mut results = Results::new();
    let (good, _) = results.lend(|output| output.extend_from_slice(&bytes(LARGE)));
    let (seal, _) = results.lend(|output| assert!(output.attach(&SharedBytes::from(&bytes(LARGE)[..]))));
    refused(&mut results, Locator { segment: 7777, ..good }, &[], "has not come");
    refused(&mut results, Locator { len: LIMIT as u64 + 1, ..good }, &[], "over the limit");
    for wrong in [
        Locator { offset: u64::MAX, ..good },
        Locator { offset: 1 << 40, ..good },
        Locator { offset: 5 << 20, ..good },
    ] {
        refused(&mut results, wrong, &[], "where none can be");
    }
    refused(&mut results, good, b"more", "where none can be");
    refused(&mut results, Locator { len: seal.len - 1, ..seal }, &[], "described wrongly");
    assert!(results.accept(b"short").is_err());
    for fd in [results.socket.ours.try_clone().unwrap(), std::fs::File::open("/dev/zero").unwrap().into()] {
        results.socket.send()(4, fd.as_fd()).unwrap();
        refused(&mut results, Locator { segment: 4, ..good }, &[], "cannot be used");
    }
    let twice = Segment::create(LARGE, 1).unwrap();
    for id in [5, 5] {
        results.socket.send()(id, twice.fd()).unwrap();
    }
    refused(&mut results, Locator { segment: 6, ..good }, &[], "twice");
}

#[test]
fn a_hostile_worker_cannot_have_everything_mapped() {
    let mut results = Results::new();
    let segment = Segment::create(LARGE, 1).unwrap();
    let count = 2 * Limits::WORKER.segments as u64;
    let nowhere = Locator { segment: u64::MAX, offset: 0, len: 1 };
    let mut errors = Vec::new();
    for id in 0..=count {
        results.socket.send()(id, segment.fd()).unwrap();
        errors.push(results.accept(&nowhere.encode()).unwrap_err());
    }
    assert!(errors.pop().unwrap().contains("too many"));
    assert!(errors.iter().all(|error| error.contains("has not come")));

    let mut results = Results::new();
    let vast = Segment::create(3 << 30, 1).unwrap();
    let accepted = (0..20).take_while(|id| {
        results.socket.send()(*id, vast.fd()).unwrap();
        results.accept(&nowhere.encode()).unwrap_err().contains("has not come")
    });
    assert_eq!(accepted.count(), 2, "8 GiB");

    let mut results = Results::new();
    let mut writer = SealedWriter::create().unwrap();
    writer.append(b"x").unwrap();
    let sealed = writer.seal().map_err(|(_, error)| error).unwrap();
    let fd = sealed.fd().unwrap();
    let accepted = (0..2000).take_while(|id| {
        results.socket.send()(*id, fd).unwrap();
        results.accept(&nowhere.encode()).unwrap_err().contains("has not come")
    });
    assert_eq!(accepted.count(), 512);
}

#[test]
fn a_scribble_spoils_the_value_and_nothing_else() {
    let mut results = Results::new();
    let arena = results.arena;
    for noise in [0_u8, 0x7f, 0x80, 0xff] {
        let (_, payload) = results.lend(|output| Wire::<[u8]>::encode(&bytes(LARGE), output).unwrap());
        let reply = results.accept(&payload).unwrap();
        // The worker goes on to write to its segment.
        let lent = results.out.take_for_test(&payload);
        drop(lent);
        let mut block = arena.take(LARGE).unwrap();
        block.bytes_mut().fill(noise);
        let block = Wire::<Vec<u8>>::decode_reply(reply.encoded());
        let text = Wire::<String>::decode_reply(reply.encoded());
        let numbers = Wire::<Vec<u64>>::decode_reply(reply.encoded());
        let option = Wire::<Option<Vec<u8>>>::decode_reply(reply.encoded());
        assert!(block.is_err() && text.is_err() && numbers.is_err() && option.is_err(), "{noise}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_frame_is_accepted_or_refused(payloads in prop::collection::vec(any::<Vec<u8>>(), 1..8)) {
        let mut results = Results::new();
        let (good, _) = results.lend(|output| output.extend_from_slice(&bytes(LARGE)));
        for mut payload in payloads {
            if let Some(id) = payload.first_chunk_mut::<8>() {
                *id = good.segment.to_le_bytes();
            }
            if let Ok(reply) = results.accept(&payload) {
                let _ = Wire::<Vec<u8>>::decode_reply(reply.encoded());
            }
        }
    }
}
