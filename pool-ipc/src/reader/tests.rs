use std::{
    fs::File,
    io::Write,
    os::fd::{AsFd, OwnedFd},
    thread,
};

use proptest::prelude::*;

use super::*;
use crate::{
    DEFAULT_FRAME_LIMIT, SUMMED_MAX,
    pipe::{pipe_pair, set_nonblocking},
};

#[test]
fn frames_behind_garbage_are_found_again() {
    let (reader, writer) = pipe_pair().expect("descriptors are left");
    set_nonblocking(reader.as_fd()).expect("it is a pipe");
    let mut stream = encoded(Kind::Done, 1, b"before");
    stream.extend(pattern(1000, 7));
    stream.extend(encoded(Kind::Done, 2, b"behind"));
    stream.extend([0xB7; 40]);
    stream.extend(encoded(Kind::Done, 3, b"further behind"));
    File::from(writer).write_all(&stream).expect("it fits into the pipe");
    let mut frames = FrameReader::new(DEFAULT_FRAME_LIMIT);
    let (mut tickets, mut errors) = (Vec::new(), 0);
    while !matches!(frames.fill(reader.as_fd()).expect("it is a pipe"), Fill::Eof) {
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => tickets.push(frame.ticket),
                Ok(None) => break,
                Err(_) => {
                    errors += 1;
                    frames.resync();
                }
            }
        }
    }
    assert_eq!((tickets, errors), (vec![1, 2, 3], 2));
}

/// Task code may write to a ring's memory, where the frames of others are on their way.
#[test]
fn a_payload_that_was_overwritten_is_dropped_and_what_stands_behind_it_is_found() {
    for damage in [0, 1, 7, 8, 39] {
        let mut second = encoded(Kind::Done, 2, &pattern(40, 2));
        second[HEADER_LEN + damage] ^= 0x10;
        let first = encoded(Kind::Done, 1, b"before");
        let third = encoded(Kind::Done, 3, b"behind");
        // Behind the damage or, where a payload has grown by what was written in between, behind its rest.
        for rest in [&b""[..], b"rest"] {
            let (mut reader, fd) = reader_of(&[&first, &second, rest, &third].concat(), DEFAULT_FRAME_LIMIT);
            reader.fill(fd.as_fd()).unwrap();
            assert_eq!(reader.next_frame().unwrap().unwrap().ticket, 1);
            let error = FrameError::Checksum { ticket: 2 };
            for _ in 0..2 {
                assert_eq!(reader.next_frame(), Err(error));
                assert_eq!(reader.next_run(Kind::Done, 3, 1), Err(error));
                assert_eq!(reader.fill(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
            }
            reader.resync();
            assert_eq!(reader.next_frame().unwrap().unwrap().payload, Cow::from(&b"behind"[..]));
            assert_eq!(reader.end(), Ok(()));
        }
    }
}

#[test]
fn a_large_payload_has_no_sum() {
    let mut bytes = encoded(Kind::Done, 1, &pattern(SUMMED_MAX + 1, 1));
    bytes[HEADER_LEN] ^= 1;
    let (mut reader, fd) = reader_of(&bytes, DEFAULT_FRAME_LIMIT);
    assert_eq!(drain(&mut reader, &fd).unwrap().len(), 1);
}

#[test]
fn whether_a_whole_frame_is_there_is_known_without_taking_it() {
    let bytes = encoded(Kind::Done, 1, b"payload");
    for cut in 0..=bytes.len() {
        let (mut reader, fd) = reader_of(&bytes[..cut], DEFAULT_FRAME_LIMIT);
        assert!(!reader.has_frame());
        reader.fill(fd.as_fd()).unwrap();
        assert_eq!((reader.has_frame(), reader.unread()), (cut == bytes.len(), cut));
    }
    let (mut reader, fd) = reader_of(&bytes.repeat(2), DEFAULT_FRAME_LIMIT);
    reader.fill(fd.as_fd()).unwrap();
    assert!(reader.next_frame().unwrap().is_some() && reader.has_frame());
    assert!(reader.next_frame().unwrap().is_some() && !reader.has_frame());
}

#[test]
fn a_run_ends_where_its_frames_do() {
    let small = |ticket| encoded(Kind::Done, ticket, &pattern(ticket as usize % 12, ticket));
    let good: Vec<u8> = (5..15).flat_map(small).collect();
    let mut damaged = small(15);
    *damaged.last_mut().unwrap() ^= 1;
    let ends = [
        encoded(Kind::Failed, 15, b"x"),
        small(14),
        small(16),
        small(15)[..20].to_vec(),
        small(15)[..19].to_vec(),
        damaged,
        vec![0; 30],
        encoded(Kind::Done, 15, &pattern(60_000, 1))[..40_000].to_vec(),
        vec![],
    ];
    for (number, end) in ends.iter().enumerate() {
        let (mut reader, fd) = reader_of(&[&good[..], end].concat(), DEFAULT_FRAME_LIMIT);
        reader.fill(fd.as_fd()).unwrap();
        assert_eq!(reader.next_run(Kind::Failed, 5, 100), Ok(None), "another kind");
        assert_eq!(reader.next_run(Kind::Done, 6, 100), Ok(None), "another ticket");
        assert_eq!(reader.next_run(Kind::Done, 5, 0), Ok(None), "none wanted");
        let run = reader.next_run(Kind::Done, 5, 4).unwrap().unwrap();
        assert_eq!((run.count, run.payloads().count()), (4, 4), "no more wanted");
        let run = reader.next_run(Kind::Done, 9, u32::MAX).unwrap().unwrap();
        assert_eq!(run.count, 6, "end {number}");
        for (payload, ticket) in run.payloads().zip(9..) {
            assert_eq!(payload, pattern(ticket as usize % 12, ticket));
        }
        assert_eq!(reader.next_run(Kind::Done, 15, u32::MAX), Ok(None));
        assert_eq!(reader.unread(), end.len(), "what ends it is left to next_frame");
    }
}

/// What a steady stream of small frames needs is there after the first of them.
#[test]
fn a_stream_of_small_frames_moves_within_one_buffer() {
    let bytes = encoded(Kind::Done, 1, b"small").repeat(1000);
    let (read, write) = pipe_pair().unwrap();
    let mut file = File::from(write);
    let (mut reader, mut buffer) = (FrameReader::new(DEFAULT_FRAME_LIMIT), None);
    for round in 0..50 {
        file.write_all(&bytes[..bytes.len() - round % 2 * 10]).unwrap();
        file.write_all(&bytes[bytes.len() - round % 2 * 10..]).unwrap();
        let mut frames = 0;
        while frames < 1000 {
            reader.fill(read.as_fd()).unwrap();
            while reader.next_frame().unwrap().is_some() {
                frames += 1;
            }
        }
        let now = (reader.buffer.as_ptr(), reader.buffer.capacity());
        assert_eq!(*buffer.get_or_insert(now), now);
    }
}

fn encoded(kind: Kind, ticket: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, ticket, &[payload]).expect("it fits a frame");
    [&header.encode()[..], payload].concat()
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(31).wrapping_add(seed) ^ (i >> 8)) as u8).collect()
}

/// A reader that was given `bytes` and then the end of the stream.
fn reader_of(bytes: &[u8], limit: u32) -> (FrameReader, OwnedFd) {
    let (read, write) = pipe_pair().unwrap();
    File::from(write).write_all(bytes).unwrap();
    (FrameReader::new(limit), read)
}

/// Every frame up to the end of the stream.
fn drain(reader: &mut FrameReader, fd: &OwnedFd) -> Result<Vec<Frame<'static>>, FrameError> {
    let mut frames = Vec::new();
    loop {
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame.into_owned());
        }
        match reader.fill(fd.as_fd()).unwrap() {
            Fill::Bytes(bytes) => assert!(bytes > 0, "a reader whose frames are taken has room"),
            Fill::Eof => return reader.end().map(|()| frames),
            Fill::WouldBlock => unreachable!("the descriptor is blocking"),
        }
    }
}

#[test]
fn allocates_nothing_before_the_first_fill() {
    let mut reader = FrameReader::new(1);
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(reader.buffer.is_empty() && !reader.is_mid_frame());
    assert_eq!(reader.end(), Ok(()));
}

#[test]
fn small_frames_are_borrowed_and_large_ones_are_owned() {
    let mut bytes = encoded(Kind::Done, 1, b"small");
    bytes.extend(encoded(Kind::Done, 2, &pattern(LARGE + 20_000, 2)));
    let (mut reader, fd) = reader_of(&bytes, DEFAULT_FRAME_LIMIT);
    reader.fill(fd.as_fd()).unwrap();
    assert!(matches!(reader.next_frame().unwrap().unwrap().payload, Cow::Borrowed(b"small")));
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(reader.is_mid_frame());
    reader.fill(fd.as_fd()).unwrap();
    let frame = reader.next_frame().unwrap().unwrap();
    assert!(matches!(frame.payload, Cow::Owned(_)));
    assert_eq!(frame.payload, pattern(LARGE + 20_000, 2));
    assert!(!reader.is_mid_frame());
}

#[test]
fn would_block_and_eof_are_told_apart() {
    let (read, write) = pipe_pair().unwrap();
    set_nonblocking(read.as_fd()).unwrap();
    let mut reader = FrameReader::new(10);
    assert_eq!(reader.fill(read.as_fd()).unwrap(), Fill::WouldBlock);
    drop(write);
    assert_eq!(reader.fill(read.as_fd()).unwrap(), Fill::Eof);
}

#[test]
fn a_full_buffer_of_untaken_frames_is_not_taken_for_eof() {
    let bytes = encoded(Kind::Done, 1, &[7; 8 << 10]).repeat(12);
    let (mut reader, fd) = reader_of(&bytes, DEFAULT_FRAME_LIMIT);
    assert_eq!(reader.fill(fd.as_fd()).unwrap(), Fill::Bytes(BUFFER));
    assert_eq!(reader.fill(fd.as_fd()).unwrap(), Fill::Bytes(0));
    assert_eq!(drain(&mut reader, &fd).unwrap().len(), 12);
}

#[test]
fn the_end_inside_a_frame_is_truncation_at_every_byte() {
    for (payload, name) in [(pattern(100, 0), "small"), (pattern(LARGE + 9_000, 0), "large")] {
        let bytes = encoded(Kind::Done, 1, &payload);
        for cut in [0, 1, 19, 20, 21, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
            let (mut reader, fd) = reader_of(&bytes[..cut], DEFAULT_FRAME_LIMIT);
            let outcome = drain(&mut reader, &fd);
            match cut {
                0 => assert_eq!(outcome, Ok(vec![]), "{name}"),
                cut if cut == bytes.len() => assert_eq!(outcome.unwrap()[0].payload, payload),
                cut => {
                    let missing = if cut < HEADER_LEN { HEADER_LEN } else { bytes.len() } - cut;
                    assert_eq!(outcome, Err(FrameError::Truncated { missing }), "{name} cut at {cut}");
                }
            }
            assert_eq!(reader.is_mid_frame(), cut != 0 && cut != bytes.len());
        }
    }
}

#[test]
fn an_error_poisons_the_reader_after_the_good_frames() {
    let mut bytes = encoded(Kind::Done, 1, b"good");
    bytes.extend(b"thread 'main' panicked at src/main.rs");
    bytes.extend(encoded(Kind::Done, 2, b"unreachable"));
    let (mut reader, fd) = reader_of(&bytes, DEFAULT_FRAME_LIMIT);
    reader.fill(fd.as_fd()).unwrap();
    assert_eq!(reader.next_frame().unwrap().unwrap().ticket, 1);
    for _ in 0..3 {
        assert_eq!(reader.next_frame(), Err(FrameError::BadMagic { found: b'd' }));
        assert_eq!(reader.fill(fd.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(reader.end(), Err(FrameError::BadMagic { found: b'd' }));
    }
}

#[test]
fn the_limit_holds_to_the_byte_and_a_lying_header_costs_no_memory() {
    let header = Header { len: 100, kind: Kind::Done, ticket: 1, sum: 0 }.encode();
    let (mut reader, fd) = reader_of(&header, 99);
    assert_eq!(drain(&mut reader, &fd), Err(FrameError::TooLong { len: 100, limit: 99 }));
    assert!(reader.large.is_none());
    let (mut reader, fd) = reader_of(&encoded(Kind::Done, 1, &[0; 100]), 100);
    assert_eq!(drain(&mut reader, &fd).unwrap().len(), 1);

    let header = Header { len: DEFAULT_FRAME_LIMIT, kind: Kind::Done, ticket: 1, sum: 0 }.encode();
    let (mut reader, fd) = reader_of(&[&header[..], &[1; 50]].concat(), DEFAULT_FRAME_LIMIT);
    let missing = DEFAULT_FRAME_LIMIT as usize - 50;
    assert_eq!(drain(&mut reader, &fd), Err(FrameError::Truncated { missing }));
    assert!(reader.large.unwrap().payload.capacity() <= FIRST_RESERVE);
}

#[test]
fn a_payload_reserves_at_most_twice_what_has_arrived() {
    let arrived = 3 << 20;
    let header = Header { len: DEFAULT_FRAME_LIMIT, kind: Kind::Done, ticket: 1, sum: 0 }.encode();
    let (read, write) = pipe_pair().unwrap();
    let sender =
        thread::spawn(move || File::from(write).write_all(&[&header[..], &vec![1; arrived]].concat()));
    let mut reader = FrameReader::new(DEFAULT_FRAME_LIMIT);
    let missing = DEFAULT_FRAME_LIMIT as usize - arrived;
    assert_eq!(drain(&mut reader, &read), Err(FrameError::Truncated { missing }));
    sender.join().unwrap().unwrap();
    let capacity = reader.large.unwrap().payload.capacity();
    assert!(capacity <= 2 * arrived, "{capacity} bytes for {arrived}");
}

#[test]
fn a_sum_that_no_payload_can_have_is_noticed_whether_the_payload_fits_the_buffer_or_not() {
    for len in [SUMMED_MAX + 1, LARGE + 1, BUFFER, 3 * BUFFER] {
        let wrong = Header { len: len as u32, kind: Kind::Done, ticket: 1, sum: 1 }.encode();
        let bytes = [&wrong[..], &pattern(len, 1), &encoded(Kind::Done, 2, b"behind")].concat();
        let (read, write) = pipe_pair().unwrap();
        let sender = thread::spawn(move || File::from(write).write_all(&bytes));
        let mut reader = FrameReader::new(DEFAULT_FRAME_LIMIT);
        let mut found = Vec::new();
        while reader.fill(read.as_fd()).unwrap() != Fill::Eof {
            loop {
                match reader.next_frame() {
                    Ok(Some(frame)) => found.push(Ok(frame.ticket)),
                    Ok(None) => break,
                    Err(error) => {
                        found.push(Err(error));
                        reader.resync();
                    }
                }
            }
        }
        sender.join().unwrap().unwrap();
        assert_eq!(found, [Err(FrameError::Checksum { ticket: 1 }), Ok(2)], "{len} bytes");
    }
}

#[test]
fn a_payload_of_many_growth_steps_arrives_whole_in_memory_of_its_size() {
    let payload = pattern(9 << 20, 5);
    let bytes = [encoded(Kind::Done, 1, &payload), encoded(Kind::Bye, 0, b"")].concat();
    let (read, write) = pipe_pair().unwrap();
    let sender = thread::spawn(move || File::from(write).write_all(&bytes));
    let frames = drain(&mut FrameReader::new(DEFAULT_FRAME_LIMIT), &read).unwrap();
    sender.join().unwrap().unwrap();
    let [done, bye] = &frames[..] else { panic!("two frames were sent: {frames:?}") };
    assert_eq!(bye.kind, Kind::Bye);
    let Cow::Owned(received) = &done.payload else { panic!("large payloads are owned") };
    assert!(*received == payload);
    assert_eq!(received.capacity(), payload.len());
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 0..200_usize,
        2 => 4_000..4_200_usize,
        1 => LARGE - 40..LARGE + 40,
        1 => BUFFER - 40..BUFFER + 40,
        1 => 0..200_000_usize,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_survive_any_split(lengths in prop::collection::vec(length(), 0..24),
                                cuts in prop::collection::vec(1..40_000_usize, 1..40)) {
        let sent: Vec<_> =
            lengths.iter().zip(1..).map(|(&len, ticket)| (ticket, pattern(len, ticket))).collect();
        let bytes: Vec<u8> =
            sent.iter().flat_map(|(ticket, payload)| encoded(Kind::Done, *ticket, payload)).collect();
        let (read, write) = pipe_pair().unwrap();
        let sender = thread::spawn(move || {
            let (mut file, mut rest) = (File::from(write), &bytes[..]);
            for cut in cuts.into_iter().cycle() {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                file.write_all(now)?;
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            io::Result::Ok(())
        });
        let received = drain(&mut FrameReader::new(DEFAULT_FRAME_LIMIT), &read).unwrap();
        sender.join().unwrap().unwrap();
        prop_assert_eq!(received.len(), sent.len());
        for (frame, (ticket, payload)) in received.iter().zip(&sent) {
            prop_assert_eq!(frame.ticket, *ticket);
            prop_assert!(frame.payload == *payload);
        }
    }

    /// Runs and single frames are the same frames.
    #[test]
    fn runs_skip_and_repeat_nothing(frames in prop::collection::vec((0..3_u64, 0..4_u8, 0..30_usize), 0..200),
                                    max in 1..20_u32) {
        let mut ticket = 0;
        let sent: Vec<_> = frames
            .into_iter()
            .map(|(skip, kind, len)| {
                ticket += u64::from(skip != 0) + u64::from(skip == 2);
                (if kind == 0 { Kind::Failed } else { Kind::Done }, ticket, pattern(len, ticket))
            })
            .collect();
        let bytes: Vec<u8> =
            sent.iter().flat_map(|(kind, ticket, payload)| encoded(*kind, *ticket, payload)).collect();
        let (mut reader, fd) = reader_of(&bytes, DEFAULT_FRAME_LIMIT);
        reader.fill(fd.as_fd()).unwrap();
        let mut left = sent.iter();
        while let Some((kind, ticket, _)) = left.as_slice().first() {
            match reader.next_run(Kind::Done, *ticket, max).unwrap() {
                Some(run) => {
                    prop_assert!((1..=max).contains(&run.count));
                    prop_assert_eq!(run.payloads().count(), run.count as usize);
                    for (payload, expected) in run.payloads().zip(*ticket..) {
                        let (kind, ticket, sent) = left.next().unwrap();
                        prop_assert_eq!((*kind, *ticket, &sent[..]), (Kind::Done, expected, payload));
                    }
                }
                None => {
                    prop_assert_eq!(*kind, Kind::Failed);
                    let frame = reader.next_frame().unwrap().unwrap();
                    let (_, ticket, payload) = left.next().unwrap();
                    prop_assert_eq!((frame.ticket, &frame.payload[..]), (*ticket, &payload[..]));
                }
            }
        }
        prop_assert_eq!(reader.next_frame(), Ok(None));
    }

    #[test]
    fn single_bytes_are_enough(lengths in prop::collection::vec(0..40_usize, 1..6)) {
        let (read, write) = pipe_pair().unwrap();
        let (mut file, mut reader) = (File::from(write), FrameReader::new(40));
        for (&len, ticket) in lengths.iter().zip(1..) {
            let bytes = encoded(Kind::Failed, ticket, &pattern(len, ticket));
            for (index, byte) in bytes.iter().enumerate() {
                prop_assert_eq!(reader.next_frame(), Ok(None));
                prop_assert_eq!(reader.is_mid_frame(), index > 0);
                file.write_all(&[*byte]).unwrap();
                prop_assert_eq!(reader.fill(read.as_fd()).unwrap(), Fill::Bytes(1));
            }
            let frame = reader.next_frame().unwrap().unwrap();
            prop_assert_eq!(&frame.payload[..], &pattern(len, ticket)[..]);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(prefix in 0..4_usize,
                                   bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let bytes = [encoded(Kind::Done, 1, b"ok").repeat(prefix), bytes].concat();
        let (mut reader, fd) = reader_of(&bytes, DEFAULT_FRAME_LIMIT);
        let mut good = 0;
        let outcome = loop {
            match reader.next_frame() {
                Ok(Some(_)) => good += 1,
                Err(error) => break Err(error),
                Ok(None) => {
                    let fill = reader.fill(fd.as_fd()).unwrap();
                    prop_assert_ne!(fill, Fill::Bytes(0), "a reader whose frames are taken has room");
                    if fill == Fill::Eof {
                        break reader.end();
                    }
                }
            }
        };
        prop_assert!(good >= prefix);
        prop_assert!(outcome.is_err() || good * HEADER_LEN <= bytes.len());
    }
}
