//! The frame decoder.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use pool_ipc::{Fill, FrameError, FrameReader, HEADER_LEN, Header, Kind, pipe_pair, set_nonblocking};

use super::input::Input;

/// The longest stream.
const MOST: usize = 200 << 10;
/// The most writes that it comes in.
const MOST_WRITES: usize = 60;
const LIMITS: [u32; 4] = [0, 300, 50_000, 1 << 30];

/// A frame, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    kind: Kind,
    ticket: u64,
    payload: Vec<u8>,
}

/// A stream of frames, sound, damaged and cut, and of garbage, which comes in pieces of any size: the reader, which goes
/// looking for the next frame after each error, must find what a plain search through the whole stream finds.
pub fn frames(input: &[u8]) {
    let mut input = Input::new(input);
    let limit = LIMITS[usize::from(input.byte()) % LIMITS.len()];
    let (step, uneven) = (usize::from(input.short()), usize::from(input.byte()));
    let in_runs = input.byte() % 2 == 1;
    let stream = stream(&mut input);
    let (expected, left) = search(&stream, limit);

    let (pipe, end) = pipe_pair().expect("descriptors are left");
    set_nonblocking(pipe.as_fd()).expect("it is a pipe");
    let mut end = File::from(end);
    let mut reader = FrameReader::new(limit);
    let mut found = Vec::new();
    let mut rest = &stream[..];
    let least = stream.len() / MOST_WRITES + 1;
    let mut extra = 0;
    while !rest.is_empty() {
        extra = (extra * 5 + uneven) % (step % 40_000 + 1);
        let (now, later) = rest.split_at((least + extra).min(rest.len()));
        end.write_all(now).expect("it fits into the pipe, which is empty");
        rest = later;
        loop {
            match reader.fill(pipe.as_fd()).expect("it is a pipe, and the reader is not poisoned") {
                Fill::Bytes(_) => take(&mut reader, &mut found, &expected, in_runs),
                Fill::WouldBlock => break,
                Fill::Eof => panic!("the end is open"),
            }
        }
    }
    drop(end);
    assert_eq!(reader.fill(pipe.as_fd()).expect("it is a pipe"), Fill::Eof);
    assert_eq!(found, expected);
    let end = match left {
        Some(missing) => Err(FrameError::Truncated { missing }),
        None => Ok(()),
    };
    assert_eq!((reader.end(), reader.is_mid_frame()), (end, left.is_some()));
}

/// Takes all frames that have been read.
pub(crate) fn drain(reader: &mut FrameReader) -> usize {
    let mut found = Vec::new();
    take(reader, &mut found, &[], false);
    found.len()
}

fn take(reader: &mut FrameReader, found: &mut Vec<Found>, expected: &[Found], in_runs: bool) {
    loop {
        if in_runs && let Some(next) = expected.get(found.len()) {
            let run = reader.next_run(next.kind, next.ticket, 3).expect("the reader is not poisoned");
            for (place, payload) in (0..).zip(run.iter().flat_map(|run| run.payloads())) {
                let ticket = next.ticket.wrapping_add(place);
                found.push(Found { kind: next.kind, ticket, payload: payload.to_vec() });
            }
        }
        let has_frame = reader.has_frame();
        match reader.next_frame() {
            Ok(None) => {
                assert!(!has_frame);
                return;
            }
            Ok(Some(frame)) => found.push(Found {
                kind: frame.kind,
                ticket: frame.ticket,
                payload: frame.payload.into_owned(),
            }),
            Err(error) => {
                assert_eq!(reader.next_frame(), Err(error), "it stays poisoned");
                let unread = reader.unread();
                reader.resync();
                assert!(reader.unread() < unread || matches!(error, FrameError::Checksum { .. }));
            }
        }
    }
}

/// The frames of a whole stream, and how many bytes the last one lacks.
fn search(stream: &[u8], limit: u32) -> (Vec<Found>, Option<usize>) {
    let (mut frames, mut rest) = (Vec::new(), stream);
    while let Some((header, behind)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::decode(header, limit) else {
            rest = &rest[1..];
            continue;
        };
        let Some((payload, behind)) = behind.split_at_checked(header.len as usize) else {
            return (frames, Some(header.len as usize - behind.len()));
        };
        rest = behind;
        // One with a wrong sum is dropped whole.
        if header.matches(payload) {
            frames.push(Found { kind: header.kind, ticket: header.ticket, payload: payload.to_vec() });
        }
    }
    (frames, (!rest.is_empty()).then(|| HEADER_LEN - rest.len()))
}

/// Whatever a worker may write.
fn stream(input: &mut Input<'_>) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut ticket = 1;
    while !input.is_empty() && stream.len() < MOST {
        match input.byte() % 8 {
            // Garbage.
            0 => {
                let len = usize::from(input.byte());
                stream.extend_from_slice(input.bytes(len));
            }
            // The result that is due.
            1 => {
                let len = usize::from(input.byte());
                stream.extend(framed(Kind::Done, ticket, input.bytes(len)));
                ticket += 1;
            }
            // Any frame.
            2 => {
                let (kind, ticket, len) = (kind(input.byte()), input.long(), usize::from(input.byte()));
                stream.extend(framed(kind, ticket, input.bytes(len)));
            }
            // A damaged one.
            3 => {
                let len = usize::from(input.byte());
                let mut frame = framed(Kind::Done, ticket, input.bytes(len));
                let at = usize::from(input.short()) % frame.len();
                frame[at] ^= input.byte();
                stream.extend(frame);
            }
            // A cut one.
            4 => {
                let len = usize::from(input.byte());
                let frame = framed(Kind::Done, ticket, input.bytes(len));
                stream.extend_from_slice(&frame[..usize::from(input.short()) % frame.len()]);
            }
            // A large one.
            5 => {
                let len = input.word() as usize % (150 << 10);
                stream.extend(framed(Kind::Done, ticket, &vec![input.byte(); len]));
                ticket += 1;
            }
            // A header that promises anything.
            6 => {
                let kind = kind(input.byte());
                let header = Header { len: input.word(), kind, ticket: input.long(), sum: input.word() };
                stream.extend(header.encode());
            }
            // Something long that makes no sense.
            _ => {
                let len = usize::from(input.short());
                stream.extend(std::iter::repeat_n(input.byte(), len));
            }
        }
    }
    stream
}

pub(crate) fn kind(byte: u8) -> Kind {
    Kind::try_from(1 + byte % 16).expect("there are sixteen")
}

pub(crate) fn framed(kind: Kind, ticket: u64, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, ticket, &[payload]).expect("it is not too long");
    [&header.encode()[..], payload].concat()
}
