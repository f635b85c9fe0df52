//! An entry of a store, and the lease beside it, after all that may happen to a file.

use pool_store::{StoreKey, body_of_entry, entry_of_body, lease_of};

use super::input::Input;

/// What a disk loses together.
const PAGE: usize = 4096;

fn key(version: u32) -> StoreKey {
    StoreKey::of_call("task", version, "fn()", b"arguments")
}

/// Takes any bytes for an entry or for a lease, or changes an entry as faults of disks and people do.
pub fn entry(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 3 {
        0 => {
            let bytes = input.rest();
            if let Some(body) = body_of_entry(bytes, &key(1)) {
                assert!(entry_of_body(&body, &key(1)) == bytes, "an entry has one form");
            }
        }
        1 => {
            if let Some(lease) = lease_of(input.rest()) {
                assert_eq!(lease_of(lease.as_bytes()).as_ref(), Some(&lease), "it is read as it was written");
            }
        }
        _ => {
            let body: Vec<u8> = (0..input.short()).map(|at| (at >> 2) as u8).collect();
            let sound = entry_of_body(&body, &key(1));
            let other = entry_of_body(&body, &key(2));
            let mut bytes = sound.clone();
            while !input.is_empty() {
                change(&mut bytes, &mut input, &other);
            }
            let found = body_of_entry(&bytes, &key(1));
            assert_eq!(found.is_some(), bytes == sound, "nothing but what was written is read");
            assert!(found.is_none_or(|found| found == body));
        }
    }
}

fn change(bytes: &mut Vec<u8>, input: &mut Input<'_>, other: &[u8]) {
    let action = input.byte();
    let at = input.word() as usize % (bytes.len() + 1);
    let page = at - at % PAGE..bytes.len().min(at - at % PAGE + PAGE);
    match action % 5 {
        0 => bytes.truncate(at),
        1 => bytes[page].fill(0),
        // Another entry's page.
        2 => {
            for place in page {
                bytes[place] = other.get(place).copied().unwrap_or(0);
            }
        }
        3 => {
            let more = input.bytes(usize::from(action));
            bytes.splice(at..at, more.iter().copied());
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= input.byte();
            }
        }
    }
}

/// The first inputs: their names, and their bytes.
#[must_use]
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let lease = "pool-store lease 1\nnonce 000102030405060708090a0b0c0d0e0f\nhost alpha\nboot 1-2\npid-namespace 7\n\
                 time-namespace 8\npid 9\nstart 10\nholds-ms 30000\n";
    let changed = |len: u16, actions: &[u8]| [&[2][..], &len.to_le_bytes(), actions].concat();
    vec![
        ("seed-entry", [&[0][..], &entry_of_body(b"a result", &key(1))].concat()),
        ("seed-empty", [&[0][..], &entry_of_body(b"", &key(1))].concat()),
        ("seed-of-another-key", [&[0][..], &entry_of_body(b"a result", &key(2))].concat()),
        ("seed-lease", [&[1][..], lease.as_bytes()].concat()),
        ("seed-sound", changed(10_000, &[])),
        ("seed-cut", changed(10_000, &[0, 0, 16, 0, 0])),
        ("seed-lost-page", changed(10_000, &[1, 0, 32, 0, 0])),
        ("seed-foreign-page", changed(10_000, &[2, 9, 0, 0, 0])),
        ("seed-longer", changed(100, &[3, 180, 0, 0, 0, 1, 2, 3])),
        ("seed-bent", changed(100, &[4, 40, 0, 0, 0, 1])),
    ]
}
