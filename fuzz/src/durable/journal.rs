//! A journal after all that may happen to a file.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::OnceLock;

use pool_store::journal::{Journal, JournalError, Log, Noted, Outcome, Remembered, inspect};

use super::input::Input;

/// Bytes of a header.
pub const HEADER: usize = 64;
/// What a disk loses together.
pub const PAGE: usize = 4096;

/// A journal, and how it came to be.
#[derive(Debug)]
pub struct Sample {
    /// The file at the end.
    pub bytes: Vec<u8>,
    /// The file at earlier times.
    pub earlier: Vec<Vec<u8>>,
    /// Everything that was ever noted, in this order, and where it ends if it is there at the end.
    pub noted: Vec<(Noted, Option<usize>)>,
}

impl Sample {
    /// Notes outcomes, loses a torn end, and goes on; with results of up to so many bytes.
    ///
    /// # Panics
    /// When a temporary file cannot be written.
    #[must_use]
    pub fn make(items: u64, largest: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("journal");
        let mut sample = Self { bytes: Vec::new(), earlier: Vec::new(), noted: Vec::new() };
        sample.note(&path, 0..items / 2, largest);
        let torn = fs::metadata(&path).expect("it is there").len() - 7;
        OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(torn)).expect("it is a file");
        for (_, end) in &mut sample.noted {
            *end = end.filter(|end| *end as u64 <= torn);
        }
        // Some items again.
        sample.note(&path, items / 3..items, largest);
        sample.bytes = fs::read(&path).expect("it is there");
        sample
    }

    fn note(&mut self, path: &Path, items: std::ops::Range<u64>, largest: usize) {
        let mut log = Journal::at(path).open().expect("a journal");
        for index in items {
            let noted = append(&mut log, index, self.noted.len(), largest);
            log.commit().expect("room");
            let bytes = fs::read(path).expect("it is there");
            self.noted.push((noted, Some(bytes.len())));
            if index.is_multiple_of(7) {
                self.earlier.push(bytes);
            }
        }
        log.close().expect("a disk");
    }

    /// What is read of these bytes, which are this sample up to `changed`, must be what was noted: all of it up to there, and
    /// nothing that was not.
    ///
    /// # Panics
    /// When it is not.
    pub fn check(&self, bytes: &[u8], changed: usize) {
        let found = match inspect(bytes) {
            Ok((found, _)) => found,
            Err(JournalError::Io { source, .. }) => panic!("{source}"),
            Err(refusal) => return assert!(changed < HEADER, "{refusal}"),
        };
        for one in &found {
            assert!(self.noted.iter().any(|(noted, _)| noted == one), "never noted: {one:?}");
        }
        for (at, (noted, end)) in self.noted.iter().enumerate() {
            if end.is_some_and(|end| end <= changed) {
                let later = self.noted[at..].iter().filter(|(later, _)| later.index == noted.index);
                let is_there = |later: &(Noted, _)| found.contains(&later.0);
                assert!(later.clone().any(is_there), "lost: {noted:?}");
            }
        }
    }
}

/// Notes an outcome, the `count`th.
fn append(log: &mut Log, index: u64, count: usize, largest: usize) -> Noted {
    let tasks = [("tests::one", 0, "fn(u64) -> Vec<u8>"), ("tests::other", 2, "fn() -> Vec<u8>")];
    let (name, version, types) = tasks[index as usize % 2];
    let task = log.task(name, version, types).expect("no other version");
    let call = log.fingerprint(task, &index.to_le_bytes());
    let body: Vec<u8> = (0..index as usize * 37 % (largest + 1)).map(|at| (at + count) as u8).collect();
    let failed = index.is_multiple_of(5);
    log.append(Outcome { index, task, call, failed }, &[&body]).expect("room");
    Noted { index, call, outcome: Remembered { failed, body } }
}

/// Changes a journal as faults of disks and people do, or takes any bytes for one.
pub fn journal(input: &[u8]) {
    static SAMPLES: OnceLock<[Sample; 2]> = OnceLock::new();
    let [sample, other] = SAMPLES.get_or_init(|| [Sample::make(60, 900), Sample::make(60, 900)]);
    let mut input = Input::new(input);
    if input.byte() & 1 == 1 {
        let bytes = input.rest();
        if let Ok((found, _)) = inspect(bytes) {
            assert!(found.iter().map(|noted| noted.outcome.body.len()).sum::<usize>() <= bytes.len());
        }
        return;
    }
    let mut bytes = sample.bytes.clone();
    while !input.is_empty() {
        change(&mut bytes, &mut input, sample, other);
    }
    let changed = bytes.iter().zip(&sample.bytes).take_while(|(one, other)| one == other).count();
    sample.check(&bytes, changed);
}

fn change(bytes: &mut Vec<u8>, input: &mut Input<'_>, sample: &Sample, other: &Sample) {
    let action = input.byte();
    let at = input.word() as usize % (bytes.len() + 1);
    let page = at - at % PAGE..bytes.len().min(at - at % PAGE + PAGE);
    match action % 7 {
        0 => bytes.truncate(at),
        1 => bytes[page].fill(0),
        2 => {
            let earlier = &sample.earlier[usize::from(input.byte()) % sample.earlier.len()];
            for place in page {
                bytes[place] = earlier.get(place).copied().unwrap_or(0);
            }
        }
        // Another file's page.
        3 => {
            for place in page {
                bytes[place] = other.bytes.get(place).copied().unwrap_or(0);
            }
        }
        // What is there, elsewhere.
        4 => {
            let to = input.word() as usize % (bytes.len() + 1);
            let len = usize::from(input.short()).min(bytes.len() - at).min(bytes.len() - to);
            bytes.copy_within(at..at + len, to);
        }
        5 => {
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
