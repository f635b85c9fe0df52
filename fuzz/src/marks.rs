//! Marks in what a worker prints.

use pool_ipc::mark::{self, Found};

use super::input::Input;

/// Output with marks, whole ones and others, in pieces: what is found must not depend on where it is cut.
pub fn marks(input: &[u8]) {
    let mut input = Input::new(input);
    let step = 1 + usize::from(input.byte());
    let text = text(&mut input);
    let whole = split(text.chunks(text.len().max(1)));
    assert_eq!(split(text.chunks(step)), whole);
    let marks = whole.iter().filter(|part| matches!(part, Part::Mark(_))).count();
    assert!(marks <= text.len() / mark::LEN);
}

/// Bytes as they are, and marks made to measure.
fn text(input: &mut Input<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    while !input.is_empty() && text.len() < 8192 {
        match input.byte() {
            tag @ 0x80..=0xff => {
                let mut bytes = mark::encode(input.long());
                if tag & 1 == 1 {
                    bytes[usize::from(input.byte()) % mark::LEN] = input.byte();
                }
                let end = if tag & 2 == 2 { usize::from(input.byte()) % mark::LEN } else { mark::LEN };
                text.extend_from_slice(&bytes[..end]);
            }
            len => text.extend_from_slice(input.bytes(usize::from(len))),
        }
    }
    text
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Mark(u64),
}

/// As who reads a pipe does it: what may be the start of a mark is held back until more has come.
fn split<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<Part> {
    let (mut parts, mut held) = (Vec::new(), Vec::new());
    for chunk in chunks {
        held.extend_from_slice(chunk);
        loop {
            let Found { start, held: back } = mark::find(&held);
            let Some((place, task)) = start else {
                assert!(back <= held.len() && back < mark::LEN);
                let rest = held.split_off(held.len() - back);
                say(&mut parts, &held);
                held = rest;
                break;
            };
            assert_eq!(held[place..][..mark::LEN], mark::encode(task));
            say(&mut parts, &held[..place]);
            parts.push(Part::Mark(task));
            held.drain(..place + mark::LEN);
        }
    }
    say(&mut parts, &held);
    parts
}

fn say(parts: &mut Vec<Part>, bytes: &[u8]) {
    match parts.last_mut() {
        _ if bytes.is_empty() => {}
        Some(Part::Text(text)) => text.extend_from_slice(bytes),
        _ => parts.push(Part::Text(bytes.to_vec())),
    }
}
