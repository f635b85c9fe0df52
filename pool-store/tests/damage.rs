//! Whatever becomes of the file of a journal: no outcome is found that was not noted, and none is lost before the damage.

#[allow(unreachable_pub, missing_docs, dead_code, reason = "the fuzz targets include it as well")]
#[path = "../../fuzz/src/durable/mod.rs"]
mod durable;

use std::fs;
use std::path::Path;

use durable::journal::{PAGE, Sample};
use pool_store::journal::{Journal, Noted, Outcome, inspect};
use proptest::prelude::*;

#[test]
fn a_sound_journal_has_the_latest_outcome_of_every_item() {
    let sample = Sample::make(60, 900);
    sample.check(&sample.bytes, sample.bytes.len());
    let (found, opened) = inspect(&sample.bytes).unwrap();
    assert_eq!((found.len(), opened.items, opened.cut, opened.damaged), (60, 60, 0, 0));
    for one in found {
        let latest = sample.noted.iter().rfind(|(noted, _)| noted.index == one.index);
        assert_eq!(latest.map(|(noted, _)| noted), Some(&one));
    }
}

#[test]
fn a_file_that_ends_anywhere() {
    let sample = Sample::make(30, 120);
    for len in 0..=sample.bytes.len() {
        sample.check(&sample.bytes[..len], len);
    }
}

#[test]
fn a_byte_that_is_another_one() {
    let sample = Sample::make(16, 60);
    for at in 0..sample.bytes.len() {
        for change in [1, 0x80, 0xff, sample.bytes[at]] {
            let mut bytes = sample.bytes.clone();
            bytes[at] ^= change;
            sample.check(&bytes, if change == 0 { bytes.len() } else { at });
        }
    }
}

#[test]
fn one_damaged_byte_costs_one_item_and_at_most_the_name_of_a_task() {
    let sample = Sample::make(16, 60);
    let all = inspect(&sample.bytes).unwrap().0.len();
    for at in durable::journal::HEADER..sample.bytes.len() {
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 0xff;
        let (found, opened) = inspect(&bytes).unwrap();
        // What was noted of the item before may be found in place of it.
        assert!(found.len() >= all - 1, "byte {at}: {} of {all}, {opened:?}", found.len());
    }
}

#[test]
fn a_page_that_is_lost_or_old() {
    let sample = Sample::make(120, 700);
    assert!(sample.bytes.len() > 8 * PAGE);
    for start in (0..sample.bytes.len()).step_by(PAGE) {
        let page = start..sample.bytes.len().min(start + PAGE);
        let mut bytes = sample.bytes.clone();
        bytes[page.clone()].fill(0);
        sample.check(&bytes, start);
        for earlier in &sample.earlier {
            for (place, byte) in page.clone().zip(&mut bytes[page.clone()]) {
                *byte = earlier.get(place).copied().unwrap_or(0);
            }
            sample.check(&bytes, start);
        }
    }
}

#[test]
fn a_large_result_whose_page_is_lost_costs_that_result_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut log = Journal::at(&path).open().unwrap();
    let task = log.task("tests::large", 0, "fn(u64) -> Vec<u8>").unwrap();
    for index in 0..3_u64 {
        let call = log.fingerprint(task, &[index as u8]);
        log.append(Outcome { index, task, call, failed: false }, &[&[1], &vec![index as u8 + 1; 300_000]])
            .unwrap();
    }
    log.close().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[500_000..504_096].fill(0);
    let (found, opened) = inspect(&bytes).unwrap();
    assert_eq!(found.iter().map(|noted| noted.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!((opened.items, opened.damaged), (3, 0), "its head is sound");
    fs::write(&path, &bytes).unwrap();
    let mut log = Journal::at(&path).open().unwrap();
    let task = log.task("tests::large", 0, "fn(u64) -> Vec<u8>").unwrap();
    let lens: Vec<_> = (0..3_u64)
        .map(|index| {
            let call = log.fingerprint(task, &[index as u8]);
            log.recall(index, task, &call).unwrap().map(|remembered| remembered.body.len())
        })
        .collect();
    assert_eq!(lens, [Some(300_001), None, Some(300_001)]);
}

/// What becomes of a journal between two openings.
#[derive(Debug, Clone)]
enum Fate {
    Note(Vec<(u8, Vec<u8>, bool)>),
    Cut(u16),
    Flip(u16, u8),
    Zero(u8),
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let outcome = (0..40_u8, prop::collection::vec(any::<u8>(), 0..300), any::<bool>());
    let fate = prop_oneof![
        4 => prop::collection::vec(outcome, 1..30).prop_map(Fate::Note),
        1 => any::<u16>().prop_map(Fate::Cut),
        1 => (64_u16.., 1_u8..).prop_map(|(at, change)| Fate::Flip(at, change)),
        1 => (1_u8..).prop_map(Fate::Zero),
    ];
    prop::collection::vec(fate, 1..12)
}

/// What this opening finds must have been noted at some time.
fn open_and_compare(path: &Path, history: &mut Vec<Noted>, more: &[(u8, Vec<u8>, bool)]) {
    let mut log = Journal::at(path).keep_failures(true).open().unwrap();
    let task = log.task("tests::any", 0, "fn(u8) -> Vec<u8>").unwrap();
    for index in 0..40_u64 {
        let call = log.fingerprint(task, &[index as u8]);
        if let Some(outcome) = log.recall(index, task, &call).unwrap() {
            let noted = Noted { index, call, outcome };
            assert!(history.contains(&noted), "never noted: {noted:?}");
        }
    }
    for (index, body, failed) in more {
        let (index, failed) = (u64::from(*index), *failed);
        let call = log.fingerprint(task, &[index as u8]);
        log.append(
            Outcome { index, task, call, failed },
            &[&body[..body.len() / 2], &body[body.len() / 2..]],
        )
        .unwrap();
        let outcome = pool_store::journal::Remembered { failed, body: body.clone() };
        history.push(Noted { index, call, outcome });
    }
    log.close().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_journal_goes_on_after_anything(fates in fates()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut history = Vec::new();
        open_and_compare(&path, &mut history, &[]);
        for fate in fates {
            let mut bytes = fs::read(&path).unwrap();
            match fate {
                Fate::Note(more) => {
                    open_and_compare(&path, &mut history, &more);
                    // Nothing has happened since: the latest of each item is there.
                    let found = inspect(&fs::read(&path).unwrap()).unwrap().0;
                    for (index, _, _) in more {
                        let latest = history.iter().rfind(|noted| noted.index == u64::from(index));
                        prop_assert!(found.iter().any(|one| Some(one) == latest));
                    }
                    continue;
                }
                Fate::Cut(at) => bytes.truncate(64.max(usize::from(at) % (bytes.len() + 1))),
                Fate::Flip(at, change) => {
                    if let Some(byte) = bytes.get_mut(usize::from(at)) {
                        *byte ^= change;
                    }
                }
                Fate::Zero(page) => {
                    let end = bytes.len();
                    let start = (usize::from(page) * 512).min(end);
                    bytes[start..end.min(start + 512)].fill(0);
                }
            }
            fs::write(&path, &bytes).unwrap();
            open_and_compare(&path, &mut history, &[]);
        }
    }
}

#[test]
fn a_journal_of_format_1_is_read() {
    // Written once by `Sample::make(16, 60)`; only the salt differs from what is written now.
    let (found, opened) = inspect(include_bytes!("data/format-1.journal")).unwrap();
    assert_eq!((opened.items, opened.cut, opened.damaged), (16, 0, 0));
    let now = inspect(&Sample::make(16, 60).bytes).unwrap().0;
    assert_eq!(found, now);
}
