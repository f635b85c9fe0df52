//! A journal as a file among others: what it may be, who may use it, and what it refuses.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pool_store::journal::{Journal, JournalError, Log, Outcome};

const SQUARE: (&str, u32, &str) = ("tests::square", 0, "fn(u64) -> u64");

/// Notes the squares of these numbers, as if each were the item of its number.
fn note(log: &mut Log, items: std::ops::Range<u64>) {
    let task = log.task(SQUARE.0, SQUARE.1, SQUARE.2).unwrap();
    for index in items {
        let call = log.fingerprint(task, &index.to_le_bytes());
        let body = (index * index).to_le_bytes();
        log.append(Outcome { index, task, call, failed: index % 2 == 1 }, &[&body]).unwrap();
    }
    log.commit().unwrap();
}

/// What is remembered of an item, as a number.
fn square(log: &mut Log, index: u64) -> Option<u64> {
    let task = log.task(SQUARE.0, SQUARE.1, SQUARE.2).unwrap();
    let call = log.fingerprint(task, &index.to_le_bytes());
    let remembered = log.recall(index, task, &call).unwrap()?;
    assert_eq!(remembered.failed, index % 2 == 1);
    Some(u64::from_le_bytes(remembered.body.try_into().unwrap()))
}

#[track_caller]
fn refused(path: &Path) -> JournalError {
    Journal::at(path).open().map(drop).expect_err("it is refused")
}

#[test]
fn what_was_committed_is_there_without_a_close() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::at(directory.path().join("journal"));
    let mut log = journal.open().unwrap();
    note(&mut log, 0..1000);
    drop(log);
    let (mut log, opened) = journal.open_and_tell().unwrap();
    assert_eq!((opened.items, opened.cut, opened.damaged), (1000, 0, 0));
    assert_eq!(
        (square(&mut log, 998), square(&mut log, 0), square(&mut log, 1000)),
        (Some(998 * 998), Some(0), None)
    );
    assert_eq!(square(&mut log, 999), None, "it has failed, and runs again");
    drop(log);
    let mut log = journal.keep_failures(true).open().unwrap();
    assert_eq!(square(&mut log, 999), Some(999 * 999));
}

#[test]
fn a_journal_is_of_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let log = Journal::at(&path).open().unwrap();
    let error = refused(&path);
    assert!(matches!(error, JournalError::Locked { .. }) && error.to_string().contains("in use"), "{error}");
    // A program that is dying has it for a moment.
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || Journal::at(path).open().map(drop)
    });
    drop(log);
    waiting.join().unwrap().unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused_and_nothing_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir(at("directory")).unwrap();
    symlink("journal", at("link")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let _listener = UnixListener::bind(at("socket")).unwrap();
    for (name, kind) in [
        ("directory", "a directory"),
        ("link", "a symbolic link"),
        ("pipe", "a pipe"),
        ("socket", "a socket"),
    ] {
        let error = refused(&at(name));
        assert!(
            matches!(&error, JournalError::NotAFile { kind: found, .. } if *found == kind),
            "{name}: {error}"
        );
    }
    assert!(!at("journal").exists(), "nothing was made through the link");
    assert!(matches!(refused(Path::new("/dev/null")), JournalError::NotAFile { kind: "a device", .. }));
    let missing = refused(&at("missing/journal"));
    assert!(missing.is_io() && missing.to_string().contains("No such file"), "{missing}");
}

#[test]
fn a_file_that_is_something_else_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes");
    fs::write(&path, "my notes").unwrap();
    assert!(matches!(refused(&path), JournalError::NotAJournal { .. }));
    assert_eq!(fs::read(&path).unwrap(), b"my notes");
    // An empty one becomes a journal, and one whose making was interrupted.
    for text in ["", "\u{8A}PoolJ"] {
        let bytes: Vec<u8> = text.chars().map(|c| c as u8).collect();
        fs::write(&path, bytes).unwrap();
        note(&mut Journal::at(&path).open().unwrap(), 0..3);
        assert_eq!(Journal::at(&path).open_and_tell().unwrap().1.items, 3);
    }
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] += 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(refused(&path), JournalError::NewerFormat { format: 2, known: 1, .. }));
    (bytes[8], bytes[20]) = (1, bytes[20] ^ 1);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(refused(&path), JournalError::Damaged { .. }));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_torn_end_is_cut_and_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    note(&mut Journal::at(&path).open().unwrap(), 0..10);
    let whole = fs::metadata(&path).unwrap().len();
    File::options().write(true).open(&path).unwrap().set_len(whole - 1).unwrap();
    let (mut log, opened) = Journal::at(&path).keep_failures(true).open_and_tell().unwrap();
    assert_eq!((opened.items, opened.cut), (9, 48 + 8 - 1));
    assert_eq!(fs::metadata(&path).unwrap().len(), whole - 48 - 8);
    assert_eq!((square(&mut log, 8), square(&mut log, 9)), (Some(64), None));
    note(&mut log, 9..10);
    drop(log);
    assert_eq!(fs::metadata(&path).unwrap().len(), whole);
    assert_eq!(square(&mut Journal::at(&path).keep_failures(true).open().unwrap(), 9), Some(81));
}

#[test]
fn another_version_of_a_task_is_refused_and_another_task_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    note(&mut Journal::at(&path).open().unwrap(), 0..1);
    let mut log = Journal::at(&path).open().unwrap();
    for (version, types) in [(1, SQUARE.2), (0, "fn(u64) -> u32")] {
        let error = log.task(SQUARE.0, version, types).unwrap_err();
        let JournalError::OtherVersion { task, was, is, .. } = &error else { panic!("{error}") };
        assert_eq!((task.as_str(), was.as_str()), (SQUARE.0, "version 0, `fn(u64) -> u64`"));
        assert_eq!(*is, format!("version {version}, `{types}`"));
    }
    let other = log.task("tests::other", 1, SQUARE.2).unwrap();
    let same = log.task(SQUARE.0, SQUARE.1, SQUARE.2).unwrap();
    assert_ne!(log.fingerprint(other, b"x"), log.fingerprint(same, b"x"));
}

#[test]
fn another_jobs_journal_is_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    note(&mut Journal::at(&path).open().unwrap(), 5..10);
    let before = fs::read(&path).unwrap();
    let mut log = Journal::at(&path).open().unwrap();
    // Items that are not noted yet have run before it is noticed.
    note(&mut log, 0..5);
    assert!(fs::metadata(&path).unwrap().len() > before.len() as u64);
    let task = log.task(SQUARE.0, SQUARE.1, SQUARE.2).unwrap();
    let call = log.fingerprint(task, b"other");
    let error = log.recall(6, task, &call).unwrap_err();
    assert!(matches!(&*error, JournalError::OtherCall { index: 6, .. }));
    assert!(error.to_string().contains("item 6, a call of `tests::square`, had other arguments"), "{error}");
    let outcome = Outcome { index: 20, task, call, failed: false };
    assert!(log.append(outcome, &[&[0; 9]]).and_then(|()| log.commit()).is_err(), "nothing more is written");
    assert!(log.close().is_err());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_fitted_before_the_refusal_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    note(&mut Journal::at(&path).open().unwrap(), 0..10);
    let mut log = Journal::at(&path).open().unwrap();
    assert_eq!(square(&mut log, 2), Some(4));
    note(&mut log, 10..20);
    let other = log.task("tests::other", 0, "fn()").unwrap();
    let call = log.fingerprint(other, b"");
    let error = log.recall(3, other, &call).unwrap_err().to_string();
    assert!(
        error.contains("item 3 was a call of `tests::square`, and is one of `tests::other` now"),
        "{error}"
    );
    drop(log);
    assert_eq!(Journal::at(&path).open_and_tell().unwrap().1.items, 20);
}

#[test]
fn many_items_are_found_again_whatever_they_are_written_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    // Each is synced before the next, by far more than the disk would be asked for.
    let slow = Journal::at(&path).sync_items(1).sync_every(Duration::ZERO);
    let mut log = slow.open().unwrap();
    for index in 0..20 {
        note(&mut log, index..index + 1);
    }
    log.close().unwrap();
    let mut log = Journal::at(&path).sync_every(Duration::MAX).keep_failures(true).open().unwrap();
    note(&mut log, 20..50_000);
    assert_eq!(square(&mut log, 20), None, "what this opening has noted is not asked for");
    log.close().unwrap();
    let (mut log, opened) = Journal::at(&path).keep_failures(true).open_and_tell().unwrap();
    assert_eq!((opened.items, opened.cut, opened.damaged), (50_000, 0, 0));
    for index in (0..50_000).rev().step_by(977).chain(0..100) {
        assert_eq!(square(&mut log, index), Some(index * index));
    }
}

#[test]
fn one_without_records_is_begun_again_because_its_making_may_not_have_come_to_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let journal = Journal::at(&path);
    drop(journal.open().unwrap());
    let first = fs::read(&path).unwrap();
    drop(journal.open().unwrap());
    let again = fs::read(&path).unwrap();
    assert!(again != first && again.len() == first.len(), "it is written, and synced, once more");
    note(&mut journal.open().unwrap(), 0..2);
    let noted = fs::read(&path).unwrap();
    drop(journal.open().unwrap());
    assert_eq!(fs::read(&path).unwrap(), noted, "from then on it stays");
}
