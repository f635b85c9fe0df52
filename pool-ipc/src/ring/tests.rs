use std::{collections::VecDeque, iter, os::fd::AsFd, sync::LazyLock};

use proptest::prelude::*;

use super::*;
use crate::{Fill, Flush, FrameReader, FrameWriter, HEADER_LEN, Kind, Region};

/// Both sides of one ring, each with a mapping of its own.
fn ring() -> (RingWriter, RingReader) {
    let (supervisor, memory) = Region::create().unwrap();
    let worker = Region::open(memory.as_fd()).unwrap();
    (supervisor.supervisor().0, worker.worker().0)
}

fn stage_all(writer: &mut RingWriter, bytes: &[u8]) {
    assert_eq!(writer.stage(bytes), Ok(bytes.len()));
}

fn read_all(reader: &mut RingReader) -> Vec<u8> {
    let mut found = Vec::new();
    while reader.read_into(&mut found, usize::MAX).unwrap().0 > 0 {}
    found
}

/// Bytes that are others for another seed.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        iter::repeat_with(next).take(6 * CAPACITY).collect()
    });
    BYTES[seed % 1000..][..len].to_vec()
}

#[test]
fn what_is_staged_is_seen_once_it_is_published() {
    let (mut writer, mut reader) = ring();
    assert!(!writer.publish(), "nothing to publish");
    stage_all(&mut writer, b"one ");
    stage_all(&mut writer, b"two");
    assert_eq!((reader.available(), writer.unpublished(), writer.written()), (Ok(0), 7, 0));
    assert!(!writer.publish(), "nobody sleeps");
    assert_eq!((reader.available(), writer.unpublished(), writer.written()), (Ok(7), 0, 7));
    let mut found = b"> ".to_vec();
    assert_eq!(reader.read_into(&mut found, 3), Ok((3, false)));
    assert_eq!(reader.read_into(&mut found, usize::MAX), Ok((4, false)));
    assert_eq!((&found[..], reader.read()), (&b"> one two"[..], 7));
    assert_eq!(reader.read_into(&mut found, usize::MAX), Ok((0, false)));
}

#[test]
fn a_full_ring_takes_a_part_or_nothing_and_goes_round() {
    let (mut writer, mut reader) = ring();
    let mut expected = pattern(CAPACITY - 10, 1);
    stage_all(&mut writer, &expected);
    assert_eq!((writer.free(), writer.has_room(10), writer.has_room(11)), (Ok(10), Ok(true), Ok(false)));
    assert_eq!(writer.stage(b"abcdefghijkl"), Ok(10));
    assert_eq!((writer.stage(b"kl"), writer.free()), (Ok(0), Ok(0)));
    let _ = writer.publish();
    expected.extend(b"abcdefghij");
    assert_eq!(reader.available(), Ok(CAPACITY));
    let mut found = Vec::new();
    reader.read_into(&mut found, 1000).unwrap();
    stage_all(&mut writer, &pattern(1000, 9));
    assert_eq!(writer.stage(b"x"), Ok(0));
    let _ = writer.publish();
    expected.extend(pattern(1000, 9));
    found.extend(read_all(&mut reader));
    assert!(found == expected);
}

/// Frames of all small lengths cross the end of the ring at each of their bytes.
#[test]
fn frames_are_staged_whole_across_the_end_or_not_at_all() {
    let (mut writer, mut ring_reader) = ring();
    let mut reader = FrameReader::new(u32::MAX);
    let long = pattern(CAPACITY / 3, 4);
    let mut ticket = 0;
    let mut expect = |writer: &mut RingWriter, parts: &[&[u8]]| {
        ticket += 1;
        assert_eq!(writer.frame(Kind::Done, ticket, parts), Ok(true));
        let _ = writer.publish();
        loop {
            if let Some(frame) = reader.next_frame().unwrap() {
                assert_eq!((frame.kind, frame.ticket), (Kind::Done, ticket));
                assert!(frame.payload == parts.concat());
                break;
            }
            assert_ne!(reader.fill_from(&mut ring_reader).unwrap().0, Fill::WouldBlock);
        }
    };
    for len in 0..40 {
        for before_end in 0..HEADER_LEN + len + 1 {
            let payload = pattern(len, before_end);
            let to_end = CAPACITY - writer.written() as usize % CAPACITY;
            let mut gap = (to_end + CAPACITY - before_end) % CAPACITY;
            while gap >= HEADER_LEN {
                let step = (gap - HEADER_LEN).min(long.len());
                // What is left over must be room for a header, or nothing.
                let step = if (1..HEADER_LEN).contains(&(gap - HEADER_LEN - step)) { step / 2 } else { step };
                expect(&mut writer, &[&long[..step]]);
                gap -= HEADER_LEN + step;
            }
            let (head, body) = payload.split_at(len / 3);
            expect(&mut writer, &[head, body]);
        }
    }

    assert_eq!(writer.frame(Kind::Done, 1, &[&vec![0; CAPACITY]]), Ok(false), "never");
    assert_eq!(writer.unpublished(), 0);
    let free = writer.free().unwrap();
    assert_eq!(writer.frame(Kind::Done, 1, &[&vec![0; free - HEADER_LEN]]), Ok(true));
    assert_eq!(writer.frame(Kind::Done, 2, &[]), Ok(false), "not now");
}

#[test]
fn a_sleeping_reader_is_rung_once() {
    let (mut writer, mut reader) = ring();
    assert_eq!(reader.arm(Wake::Each), Ok(true));
    stage_all(&mut writer, b"a");
    assert!(writer.publish());
    stage_all(&mut writer, b"b");
    assert!(!writer.publish() && !writer.ring_if_waiting(), "it has been rung");
    assert_eq!(reader.arm(Wake::Each), Ok(false), "there is something");
    stage_all(&mut writer, b"c");
    assert!(!writer.publish(), "it does not sleep");
    assert_eq!(read_all(&mut reader), b"abc");
    assert_eq!(reader.arm(Wake::Each), Ok(true));
    reader.disarm();
    stage_all(&mut writer, b"d");
    assert!(!writer.publish());
}

#[test]
fn a_reader_that_sleeps_deep_is_rung_for_half_a_ring_or_on_request() {
    let (mut writer, mut reader) = ring();
    let half = pattern(CAPACITY / 2, 3);
    for _ in 0..3 {
        assert_eq!(reader.arm(Wake::Low), Ok(true));
        stage_all(&mut writer, &half);
        assert!(!writer.publish());
        stage_all(&mut writer, b"x");
        assert!(writer.publish(), "more than half");
        stage_all(&mut writer, b"y");
        assert!(!writer.publish());
        assert_eq!(read_all(&mut reader).len(), half.len() + 2);
    }
    assert_eq!(reader.arm(Wake::Low), Ok(true));
    stage_all(&mut writer, b"x");
    assert!(!writer.publish());
    assert!(writer.ring_if_waiting());
    assert!(!writer.ring_if_waiting());
    assert_eq!(reader.arm(Wake::Low), Ok(false), "one byte is enough not to fall asleep");
}

#[test]
fn a_waiting_writer_is_rung_when_half_of_the_ring_is_free() {
    let (mut writer, mut reader) = ring();
    assert_eq!(writer.wait_for_room(CAPACITY), Ok(Room { now: true, ring: false }));
    stage_all(&mut writer, &vec![1; CAPACITY]);
    assert_eq!(writer.wait_for_room(1), Ok(Room { now: false, ring: false }), "and publishes");
    let mut found = Vec::new();
    assert_eq!(reader.read_into(&mut found, CAPACITY / 2 - 1), Ok((CAPACITY / 2 - 1, false)));
    assert_eq!(reader.read_into(&mut found, 1), Ok((1, true)));
    assert_eq!(reader.read_into(&mut found, 1), Ok((1, false)), "once");
    assert_eq!(writer.wait_for_room(CAPACITY / 2 + 1), Ok(Room { now: true, ring: false }));
    assert_eq!(reader.read_into(&mut found, 1), Ok((1, false)), "it did not sleep");
    assert_eq!(writer.wait_for_room(usize::MAX), Ok(Room { now: false, ring: false }), "all of it");
    assert_eq!(reader.read_into(&mut found, usize::MAX), Ok((CAPACITY / 2 - 2, true)));
    assert_eq!(writer.wait_for_room(usize::MAX), Ok(Room { now: true, ring: false }));
}

#[test]
fn a_writer_does_not_fall_asleep_beside_a_sleeping_reader() {
    let (mut writer, mut reader) = ring();
    assert_eq!(reader.arm(Wake::Low), Ok(true));
    stage_all(&mut writer, &vec![1; CAPACITY / 3]);
    assert!(!writer.publish());
    assert_eq!(writer.frame(Kind::Done, 1, &[&vec![2; 3 * CAPACITY / 4]]), Ok(false));
    assert_eq!(writer.wait_for_room(3 * CAPACITY / 4 + HEADER_LEN), Ok(Room { now: false, ring: true }));
    assert_eq!(read_all(&mut reader).len(), CAPACITY / 3);

    let (mut writer, mut reader) = ring();
    assert_eq!(reader.arm(Wake::Each), Ok(true));
    stage_all(&mut writer, &vec![1; CAPACITY / 3]);
    assert_eq!(
        writer.wait_for_room(CAPACITY),
        Ok(Room { now: false, ring: true }),
        "it has just been published"
    );
    assert_eq!(reader.arm(Wake::Each), Ok(false));
    stage_all(&mut writer, b"x");
    assert_eq!(writer.wait_for_room(1), Ok(Room { now: true, ring: false }));
}

#[test]
fn impossible_positions_of_the_other_side_are_refused() {
    let (mut writer, mut reader) = ring();
    stage_all(&mut writer, &[1; 100]);
    let _ = writer.publish();
    reader.read_into(&mut Vec::new(), 60).unwrap();
    assert_eq!(writer.free(), Ok(CAPACITY - 40));
    for head in [0, 59, 101, CAPACITY as u64, u64::MAX, 0xA5A5_A5A5_A5A5_A5A5] {
        writer.shared.head.set(head);
        let error = RingError { side: "reader's", found: head, least: 60, most: 100 };
        assert_eq!(writer.free(), Err(error));
        assert_eq!(writer.has_room(CAPACITY), Err(error));
        assert_eq!(writer.stage(&[0; CAPACITY]), Err(error));
        assert_eq!(writer.frame(Kind::Done, 1, &[&[0; CAPACITY - HEADER_LEN]]), Err(error));
        assert_eq!(writer.wait_for_room(1), Err(error));
    }
    let most = 60 + CAPACITY as u64;
    for tail in [0, 60, 99, most + 1, u64::MAX, 0xA5A5_A5A5_A5A5_A5A5] {
        reader.shared.tail.set(tail);
        let error = RingError { side: "writer's", found: tail, least: 100, most };
        assert_eq!(reader.available(), Err(error));
        assert_eq!(reader.read_into(&mut Vec::new(), 1), Err(error));
        assert_eq!(reader.arm(Wake::Each), Err(error));
        assert_eq!(reader.shared.reader_waits.look(), shared::AWAKE);
        let error = FrameReader::new(1).fill_from(&mut reader).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().starts_with("writer's position"));
    }
    reader.shared.tail.set(most);
    assert_eq!(reader.available(), Ok(CAPACITY), "possible, though it is a lie");
}

#[test]
fn ones_own_position_is_not_read_back() {
    let (mut writer, mut reader) = ring();
    stage_all(&mut writer, b"abc");
    let _ = writer.publish();
    writer.shared.tail.set(0xA5A5_A5A5);
    stage_all(&mut writer, b"def");
    let _ = writer.publish();
    reader.shared.head.set(0xA5A5_A5A5);
    assert_eq!(read_all(&mut reader), b"abcdef");
    assert_eq!(writer.free(), Ok(CAPACITY));
}

#[test]
fn scribbled_flags_ring_too_often_rather_than_never() {
    let (mut writer, mut reader) = ring();
    writer.shared.reader_waits.scribble(0xA5A5_A5A5);
    stage_all(&mut writer, b"abc");
    assert!(writer.publish());
    reader.shared.writer_waits.scribble(0xA5A5_A5A5);
    assert_eq!(reader.read_into(&mut Vec::new(), 1), Ok((1, true)));
    assert_eq!(reader.read_into(&mut Vec::new(), 1), Ok((1, false)));
}

#[test]
fn an_impossible_position_of_a_reader_that_sleeps_deep_wakes_it() {
    let (mut writer, mut reader) = ring();
    assert_eq!(reader.arm(Wake::Low), Ok(true));
    reader.shared.head.set(0xA5A5_A5A5);
    stage_all(&mut writer, &[1; CAPACITY / 2 + 1]);
    assert!(writer.publish(), "how much it has read is not known, so it may be nothing");
}

#[test]
fn frames_larger_than_the_ring_pass_through_it() {
    let (mut ring_writer, mut ring_reader) = ring();
    let (mut writer, mut reader) = (FrameWriter::new(), FrameReader::new(u32::MAX));
    let payloads =
        [0, 10, 5 * CAPACITY, 100, 100 << 10, CAPACITY - HEADER_LEN, 40 << 10].map(|len| pattern(len, len));
    for (payload, ticket) in payloads.iter().zip(1..) {
        writer.push(Kind::Done, ticket, b"head", &std::sync::Arc::new(payload.clone())).unwrap();
    }
    let total = writer.pending_bytes() as u64;
    let mut tickets = 0;
    while tickets < payloads.len() as u64 {
        let flush = writer.flush_into(&mut ring_writer).unwrap();
        assert_eq!(flush == Flush::Done, writer.is_empty());
        let _ = ring_writer.publish();
        while reader.fill_from(&mut ring_reader).unwrap().0 != Fill::WouldBlock {
            while let Some(frame) = reader.next_frame().unwrap() {
                tickets += 1;
                assert_eq!(frame.ticket, tickets);
                assert!(frame.payload == [b"head", &payloads[tickets as usize - 1][..]].concat());
            }
        }
    }
    assert_eq!((writer.written(), ring_writer.written(), ring_reader.read()), (total, total, total));
    assert_eq!(reader.end(), Ok(()));
}

#[derive(Clone, Debug)]
enum Op {
    Stage(usize),
    Frame(usize),
    Publish,
    Read(usize),
    WaitForRoom(usize),
    Arm(Wake),
}

fn op() -> impl Strategy<Value = Op> {
    let len = || prop_oneof![4 => 0..200_usize, 2 => 0..100_000_usize, 1 => 0..2 * CAPACITY];
    prop_oneof![
        3 => len().prop_map(Op::Stage),
        3 => len().prop_map(Op::Frame),
        3 => Just(Op::Publish),
        4 => len().prop_map(Op::Read),
        1 => len().prop_map(Op::WaitForRoom),
        1 => prop_oneof![Just(Wake::Each), Just(Wake::Low)].prop_map(Op::Arm),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A ring is a queue, and who sleeps is rung when there is a reason.
    #[test]
    fn any_sequence_of_steps_is_one_of_a_queue(ops in prop::collection::vec(op(), 1..120)) {
        let (mut writer, mut reader) = ring();
        let (mut staged, mut published) = (VecDeque::new(), VecDeque::new());
        let (mut armed, mut waits) = (None, false);
        for (seed, op) in ops.into_iter().enumerate() {
            let free = CAPACITY - staged.len() - published.len();
            let rung = match op {
                Op::Stage(len) => {
                    let bytes = pattern(len, seed);
                    let taken = writer.stage(&bytes).unwrap();
                    prop_assert_eq!(taken, len.min(free));
                    staged.extend(&bytes[..taken]);
                    None
                }
                Op::Frame(len) => {
                    let bytes = pattern(len, seed);
                    let fits = writer.frame(Kind::Done, 7, &[&bytes]).unwrap();
                    prop_assert_eq!(fits, len + HEADER_LEN <= free);
                    if fits {
                        staged.extend(crate::Header::new(Kind::Done, 7, &[&bytes]).unwrap().encode());
                        staged.extend(&bytes);
                    }
                    None
                }
                Op::Publish => {
                    let is_news = !staged.is_empty();
                    published.append(&mut staged);
                    Some((is_news, writer.publish()))
                }
                Op::Read(max) => {
                    let mut found = Vec::new();
                    let (len, rings) = reader.read_into(&mut found, max).unwrap();
                    prop_assert_eq!(len, max.min(published.len()));
                    prop_assert!(published.drain(..len).eq(found));
                    prop_assert_eq!(rings, waits && len > 0 && published.len() <= CAPACITY / 2);
                    waits &= !rings;
                    None
                }
                Op::WaitForRoom(len) => {
                    let is_news = !staged.is_empty();
                    published.append(&mut staged);
                    let room = writer.wait_for_room(len).unwrap();
                    prop_assert_eq!(room.now, len.min(CAPACITY) <= free);
                    waits = !room.now;
                    prop_assert!(room.now || armed.is_none() || room.ring, "both asleep");
                    if room.ring || is_news { Some((is_news, room.ring)) } else { None }
                }
                Op::Arm(wake) => {
                    let sleeps = reader.arm(wake).unwrap();
                    prop_assert_eq!(sleeps, published.is_empty());
                    armed = sleeps.then_some(wake);
                    None
                }
            };
            if let Some((is_news, rung)) = rung {
                match armed {
                    None => prop_assert!(!rung),
                    Some(Wake::Each) => prop_assert_eq!(rung, is_news || waits),
                    Some(Wake::Low) if published.len() > CAPACITY / 2 => prop_assert_eq!(rung, is_news || waits),
                    Some(Wake::Low) => prop_assert!(!rung || waits),
                }
                if rung {
                    armed = None;
                }
            }
        }
    }

    /// Whatever the other side writes over the words that are shared, nothing panics, and what is read is bounded.
    #[test]
    fn any_words_are_an_error_or_a_position(words in prop::collection::vec((0..4_usize, any::<u64>(), 0..300_000_u64), 1..40)) {
        let (mut writer, mut reader) = ring();
        let mut found = Vec::new();
        for (which, wild, near) in words {
            let word = if wild % 2 == 0 { wild } else { near };
            match which {
                0 => reader.shared.tail.set(word),
                1 => writer.shared.head.set(word),
                2 => writer.shared.reader_waits.scribble(word),
                _ => reader.shared.writer_waits.scribble(word),
            }
            let _ = writer.frame(Kind::Done, 1, &[&[1; 1000]]);
            let _ = writer.stage(&[2; 100_000]);
            let _ = writer.wait_for_room(5);
            found.clear();
            if let Ok((len, _)) = reader.read_into(&mut found, usize::MAX) {
                prop_assert!(len <= CAPACITY && len == found.len());
            }
            let _ = reader.arm(Wake::Low);
        }
    }
}
