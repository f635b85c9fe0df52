//! Batches with a journal: what is done is not run again, whatever has become of the program, and nothing comes out wrong.
//!
//! `POOL_JOURNAL_ROUNDS=200 POOL_JOURNAL_SEED=1 cargo test -p pool-tests --test suite journal::a_program_killed -- --nocapture`
//! kills as many programs as you like.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pool_core::{Batch, Journal, JournalError, OnFailure, OnJournalError, Pool, Progress, TaskError};
use pool_store::journal::{Outcome, inspect};
use pool_tests::{
    DIARY, Ending, Scene, expect_healthy, pid_for, read_diary, skipped, wait_until, written, written_bytes,
    written_shared,
};
use pool_worker::drill;

use crate::programs::{resumed, stock, stock_path};

/// The longest that a program may take to get further.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with a journal and a diary.
struct Desk {
    directory: tempfile::TempDir,
}

impl Desk {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn journal(&self) -> PathBuf {
        self.at("journal")
    }

    fn pool(&self, scene: &Scene) -> Pool {
        scene.builder().worker(stock()).env(DIARY, self.at("diary")).build().unwrap()
    }

    /// What has run since this was asked last.
    fn ran(&self) -> BTreeSet<u64> {
        let numbers = read_diary(&self.at("diary"));
        let _ = fs::remove_file(self.at("diary"));
        let set: BTreeSet<u64> = numbers.iter().copied().collect();
        assert_eq!(set.len(), numbers.len(), "each at most once");
        set
    }

    /// The items whose results are in the journal.
    fn noted(&self) -> BTreeSet<u64> {
        noted(&self.journal())
    }
}

fn noted(journal: &Path) -> BTreeSet<u64> {
    let bytes = fs::read(journal).unwrap_or_default();
    let (noted, _) = inspect(&bytes).unwrap();
    noted.into_iter().filter(|noted| !noted.outcome.failed).map(|noted| noted.index).collect()
}

fn square(n: u64) -> u64 {
    n * n
}

fn squares(items: u64) -> Vec<u64> {
    (0..items).map(square).collect()
}

/// What each call of the family gives, in the order of the items.
fn by_call(call: usize, batch: Batch<'_>, items: u64) -> Vec<Result<u64, TaskError>> {
    let make = |n| written(n, Ending::Answer);
    let all = |map: Result<Vec<u64>, pool_core::MapError>| match map {
        Ok(values) => values.into_iter().map(Ok).collect(),
        Err(failed) => vec![Err(failed.error)],
    };
    let mut found: Vec<Result<u64, TaskError>> = match call {
        0 => all(batch.map(make, 0..items)),
        1 => all(batch.map_unordered(make, 0..items)),
        2 => batch.imap(make, 0..items).collect(),
        3 => batch.imap_unordered(make, 0..items).collect(),
        _ => batch.map_settled(make, 0..items),
    };
    if matches!(call, 1 | 3) {
        found.sort_by_key(|result| result.as_ref().map_or(u64::MAX, |value| *value));
    }
    found
}

fn values(found: Vec<Result<u64, TaskError>>) -> Vec<u64> {
    found.into_iter().map(Result::unwrap).collect()
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(error: &Result<T, TaskError>) -> Arc<JournalError> {
    match error {
        Err(TaskError::Journal(error)) => Arc::clone(error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_call_of_the_family_goes_on_where_it_was() {
    let scene = Scene::new();
    for call in 0..5 {
        for policy in [OnFailure::Abort, OnFailure::Isolate] {
            let desk = Desk::new();
            let pool = desk.pool(&scene);
            let batch = || pool.batch().on_failure(policy).journal(desk.journal());
            assert_eq!(values(by_call(call, batch(), 700)), squares(700), "call {call}");
            assert_eq!(desk.ran(), (0..700).collect());
            // What an earlier run has done is not run, and the rest is.
            assert_eq!(values(by_call(call, batch(), 1500)), squares(1500), "call {call}");
            assert_eq!(desk.ran(), (700..1500).collect());
            // Another call of the family may go on with it, also with fewer items.
            let other = (call + 1) % 5;
            assert_eq!(values(by_call(other, batch().chunk_size(7).order_tasks(true), 1200)), squares(1200));
            assert_eq!(desk.ran(), BTreeSet::new(), "nothing has run");
            expect_healthy(&pool);
        }
    }
}

#[test]
fn an_empty_batch_makes_no_journal() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    for call in 0..5 {
        assert!(by_call(call, pool.batch().journal(desk.journal()), 0).is_empty());
    }
    assert!(!desk.journal().exists());
}

#[test]
fn failed_items_run_again_unless_failures_are_kept() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let ending = |n| match n {
        5 => Ending::Crash,
        9 => Ending::Panic,
        _ => Ending::Answer,
    };
    let run =
        |journal: Journal| pool.batch().journal(journal).map_settled(|n| written(n, ending(n)), 0..20_u64);
    let first = run(Journal::at(desk.journal()));
    assert!(
        matches!(first[5], Err(TaskError::WorkerDied(_)))
            && matches!(first[9], Err(TaskError::Panicked { .. }))
    );
    assert_eq!(desk.ran(), (0..20).collect());
    let kept = run(Journal::at(desk.journal()).keep_failures(true));
    assert_eq!(desk.ran(), [5, 9].into(), "they were not kept the first time");
    let again = run(Journal::at(desk.journal()).keep_failures(true));
    assert_eq!(desk.ran(), BTreeSet::new());
    assert_eq!(format!("{again:?}"), format!("{kept:?}"), "the same errors, whole");
    let last = run(Journal::at(desk.journal()));
    assert_eq!(desk.ran(), [5, 9].into(), "kept failures run again when nobody asks for them");
    assert!(last[5].is_err() && last.iter().filter(|result| result.is_ok()).count() == 18);
    // A kept failure aborts as a fresh one does.
    let batch = pool.batch().journal(Journal::at(desk.journal()).keep_failures(true));
    let failed = batch.map(|n| written(n, ending(n)), 0..20_u64).unwrap_err();
    assert!(failed.index == 5 || failed.index == 9, "{failed}");
    assert_eq!(desk.ran(), BTreeSet::new());
}

#[test]
fn what_was_done_before_an_abort_is_not_done_again() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let run = |ending| {
        let ending = move |n| if n == 300 { ending } else { Ending::Answer };
        // One at a time, so that it is known what has been done.
        pool.batch().max_in_flight(1).journal(desk.journal()).map(|n| written(n, ending(n)), 0..400_u64)
    };
    assert_eq!(run(Ending::Crash).unwrap_err().index, 300);
    assert_eq!(desk.ran(), (0..=300).collect());
    // The failure is not noted, so this may be another call.
    assert_eq!(run(Ending::Answer).unwrap(), squares(400));
    assert_eq!(desk.ran(), (300..400).collect());
}

#[test]
fn a_result_is_noted_before_it_is_handed_out() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let mut results =
        pool.batch().journal(desk.journal()).imap_unordered(|n| written(n, Ending::Answer), 0_u64..);
    let mut had = BTreeSet::new();
    while had.len() < 2000 {
        results.next().unwrap().unwrap();
        had.insert(results.index().unwrap() as u64);
        if had.len() % 400 == 0 {
            assert!(had.is_subset(&desk.noted()));
        }
    }
    drop(results);
    assert!(had.is_subset(&desk.noted()));
    desk.ran();
    let noted = desk.noted();
    let batch = pool.batch().journal(desk.journal());
    assert_eq!(
        values(batch.imap(|n| written(n, Ending::Answer), 0_u64..).take(2500).collect()),
        squares(2500)
    );
    assert!(desk.ran().is_disjoint(&noted));
}

#[test]
fn what_has_come_when_an_iterator_is_dropped_is_noted_too() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    // An outcome is counted a moment before it can be taken, so this may have to be tried again.
    let noted_more_than_had = (0..100).any(|attempt| {
        let journal = desk.at(&attempt.to_string());
        let batch = pool.batch().max_in_flight(2).journal(&journal);
        let mut results = batch.imap(|n| written(n, Ending::Answer), 0..10_u64);
        results.next().unwrap().unwrap();
        wait_until("the other one has ended", || pool.stats().pending == 0);
        drop(results);
        noted(&journal).len() > 1
    });
    assert!(noted_more_than_had);
}

#[test]
fn large_results_come_back_whole() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let len = |n: u64| [0, 100, 70_000, 3 << 20][n as usize % 4];
    for _ in 0..2 {
        let batch = pool.batch().journal(desk.journal());
        let bytes = batch.map(|n| written_bytes(n, len(n)), 0..12_u64).unwrap();
        assert!((0..).zip(&bytes).all(|(n, bytes)| *bytes == vec![n as u8; len(n)]));
        let batch = pool.batch().journal(desk.at("shared"));
        let shared = batch.map(|n| written_shared(100 + n, len(n)), 0..12_u64).unwrap();
        assert!((0..).zip(&shared).all(|(n, bytes)| **bytes == vec![100 + n as u8; len(n)]));
    }
    assert_eq!(desk.ran(), (0..12).chain(100..112).collect(), "once, in the first of two rounds");
}

#[test]
fn a_journal_of_another_job_is_refused_by_every_call_and_left_as_it_was() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    pool.batch().journal(desk.journal()).map(|n| drill::add(n, 1), 0..100_u64).unwrap();
    let before = fs::read(desk.journal()).unwrap();
    for call in 0..5 {
        let found = by_call(call, pool.batch().journal(desk.journal()), 200);
        let error = refusal(found.last().unwrap());
        assert!(matches!(&*error, JournalError::OtherCall { index: 0, .. }), "call {call}: {error}");
        assert_eq!(found.len(), if call == 4 { 200 } else { 1 }, "call {call}");
        assert!(error.to_string().contains("was a call of `pool_worker::drill::values::add`"), "{error}");
    }
    // The same task, and other arguments from some item on.
    let batch = || pool.batch().journal(desk.journal());
    let failed = batch().map(|n| drill::add(n, if n < 50 { 1 } else { 2 }), 0..100_u64).unwrap_err();
    assert!(matches!(&*refusal::<()>(&Err(failed.error)), JournalError::OtherCall { index: 50, .. }));
    assert_eq!(failed.index, 50);
    let settled = batch().map_settled(|n| drill::add(n + 1, 1), 0..100_u64);
    assert!(
        settled.len() == 100 && settled.iter().all(|result| matches!(result, Err(TaskError::Journal(_))))
    );
    assert_eq!(desk.ran(), BTreeSet::new());
    assert!(fs::read(desk.journal()).unwrap() == before, "it is as it was");
    assert_eq!(batch().map(|n| drill::add(n, 1), 0..100_u64).unwrap(), (1..=100).collect::<Vec<_>>());
}

#[test]
fn a_journal_of_another_version_of_the_program_is_refused() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let name = written(0, Ending::Answer).task_name();
    let mut log = Journal::at(desk.journal()).open().unwrap();
    let task = log.task(name, 7, "fn(u64) -> u64").unwrap();
    let call = log.fingerprint(task, &[]);
    log.append(Outcome { index: 3, task, call, failed: false }, &[&[1]]).unwrap();
    log.close().unwrap();
    for call in 0..5 {
        let found = by_call(call, pool.batch().journal(desk.journal()), 10);
        let error = refusal(found.last().unwrap());
        let JournalError::OtherVersion { task, was, is, .. } = &*error else { panic!("{error}") };
        assert_eq!((task.as_str(), was.as_str()), (name, "version 7, `fn(u64) -> u64`"));
        assert_eq!(is, "version 0, `fn(u64, Ending) -> u64`");
    }
    assert_eq!(desk.ran(), BTreeSet::new(), "nothing has run");
}

#[test]
fn a_journal_is_of_one_batch_at_a_time() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let mut first = pool.batch().journal(desk.journal()).imap(|n| written(n, Ending::Answer), 0..10_u64);
    assert_eq!(first.next().unwrap().unwrap(), 0);
    let second = pool.batch().journal(desk.journal()).map(|n| written(n, Ending::Answer), 0..10_u64);
    let error = refusal(&second.map_err(|failed| failed.error));
    assert!(matches!(&*error, JournalError::Locked { .. }), "{error}");
    assert_eq!(values(first.collect()), squares(10)[1..]);
    let found = by_call(0, pool.batch().journal(desk.journal()), 10);
    assert_eq!(values(found), squares(10));
    assert_eq!(desk.ran(), (0..10).collect());
}

#[test]
fn what_is_no_journal_ends_the_batch_also_if_it_may_go_on_without_one() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    fs::write(desk.journal(), "notes").unwrap();
    let journal = Journal::at(desk.journal()).on_error(OnJournalError::GoOn);
    let found = by_call(0, pool.batch().journal(journal), 10);
    assert!(matches!(&*refusal(&found[0]), JournalError::NotAJournal { .. }));
    // A place where no file can be is an error of the system.
    let nowhere = Journal::at(desk.at("missing/journal"));
    let found = by_call(0, pool.batch().journal(nowhere.clone()), 10);
    assert!(refusal(&found[0]).is_io());
    let found = by_call(0, pool.batch().journal(nowhere.on_error(OnJournalError::GoOn)), 10);
    assert_eq!(values(found), squares(10));
}

#[test]
fn damage_costs_what_is_damaged_and_makes_nothing_wrong() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let run = || values(by_call(0, pool.batch().journal(desk.journal()), 2000));
    assert_eq!(run(), squares(2000));
    desk.ran();
    let whole = fs::read(desk.journal()).unwrap();
    for (at, len) in [(64, 1), (5000, 1), (whole.len() - 1, 1), (8192, 4096), (whole.len() / 2, 40_000)] {
        let mut bytes = whole.clone();
        bytes[at..at + len].iter_mut().for_each(|byte| *byte = !*byte);
        fs::write(desk.journal(), &bytes).unwrap();
        assert_eq!(run(), squares(2000));
        let ran = desk.ran().len();
        assert!((1..=2 + len / 50).contains(&ran) || at == 64, "{ran} ran after {len} bytes at {at}");
        assert_eq!(run(), squares(2000));
        assert_eq!(desk.ran(), BTreeSet::new(), "it is noted again");
    }
}

#[test]
fn progress_adds_up_and_its_rate_is_that_of_what_runs() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let run = |items: u64| {
        let last = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&last);
        let progress = Progress::with(move |report| *seen.lock().unwrap() = Some(report.clone()));
        let batch = pool.batch().journal(desk.journal()).progress(progress);
        batch.map(|n| written(n, Ending::Answer), 0..items).unwrap();
        let report = last.lock().unwrap().take().expect("the last report");
        assert!(report.finished);
        report
    };
    run(3000);
    let report = run(3001);
    assert_eq!((report.done, report.total, report.failed), (3001, Some(3001), 0));
    let ran = report.rate * report.elapsed.as_secs_f64();
    assert!((0.99..1.01).contains(&ran), "{ran} items have run");
}

#[test]
fn calls_of_several_tasks_share_a_journal() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let run = || {
        let batch = pool.batch().journal(desk.journal());
        batch
            .map(|n| if n % 2 == 0 { drill::add(n, 1) } else { written(n, Ending::Answer) }, 0..500_u64)
            .unwrap()
    };
    let first = run();
    assert_eq!((first[10], first[11], desk.ran().len()), (11, 121, 250));
    assert_eq!((run(), desk.ran().len()), (first, 0));
}

/// A small file system of its own, for as long as this is there.
struct Disk<'a> {
    at: &'a Path,
}

impl<'a> Disk<'a> {
    fn mount(at: &'a Path, size: &str) -> Result<Self, String> {
        fs::create_dir(at).unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"], at)?;
        Ok(Self { at })
    }

    fn remount(&self, options: &str) -> Result<(), String> {
        mount(&["-o", &format!("remount,{options}")], self.at)
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(at).output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.at).status();
    }
}

#[test]
fn a_full_disk_stops_the_batch_or_not_as_asked_and_nothing_is_damaged() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let at = desk.at("disk");
    let disk = match Disk::mount(&at, "256k") {
        Ok(disk) => disk,
        Err(why) => return skipped(&format!("no file system can be mounted: {why}")),
    };
    let pool = desk.pool(&scene);
    let journal = || Journal::at(at.join("journal"));
    for call in 0..5 {
        let found = by_call(call, pool.batch().journal(journal()), 20_000);
        let error = refusal(found.last().unwrap());
        assert!(error.is_io() && error.to_string().contains("No space left"), "call {call}: {error}");
        if call == 4 {
            assert_eq!(found.len(), 20_000, "every item has its outcome");
        }
        assert!(desk.ran().len() < 20_000, "call {call} has stopped");
    }
    let found = by_call(0, pool.batch().journal(journal().on_error(OnJournalError::GoOn)), 20_000);
    assert_eq!(values(found), squares(20_000));
    desk.ran();
    // What was noted while there was room is there, and with more room the rest is, too.
    let before = noted(&at.join("journal"));
    assert!(before.len() > 1000, "{}", before.len());
    disk.remount("size=16m").unwrap();
    assert_eq!(values(by_call(0, pool.batch().journal(journal()), 20_000)), squares(20_000));
    assert!(desk.ran().is_disjoint(&before));
    expect_healthy(&pool);
    drop(pool);
}

#[test]
fn a_file_system_that_becomes_read_only_gives_a_clear_error() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let at = desk.at("disk");
    let disk = match Disk::mount(&at, "1m") {
        Ok(disk) => disk,
        Err(why) => return skipped(&format!("no file system can be mounted: {why}")),
    };
    let pool = desk.pool(&scene);
    let journal = || Journal::at(at.join("journal"));
    assert_eq!(values(by_call(0, pool.batch().journal(journal()), 100)), squares(100));
    desk.ran();
    disk.remount("ro").unwrap();
    let error = refusal(&by_call(0, pool.batch().journal(journal()), 200)[0]);
    assert!(error.is_io() && error.to_string().contains("Read-only file system"), "{error}");
    assert_eq!(desk.ran(), BTreeSet::new());
    let found = by_call(4, pool.batch().journal(journal().on_error(OnJournalError::GoOn)), 200);
    assert_eq!((values(found), desk.ran().len()), (squares(200), 200));
    disk.remount("rw").unwrap();
    assert_eq!(values(by_call(0, pool.batch().journal(journal()), 200)), squares(200));
    assert_eq!(desk.ran(), (100..200).collect());
    drop(pool);
}

#[test]
fn slow_items_are_noted_one_by_one() {
    let (scene, desk) = (Scene::new(), Desk::new());
    let pool = desk.pool(&scene);
    let leash = pool_tests::Leash::new();
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let batch = pool.batch().journal(desk.journal());
        // Two workers are held; the map waits for many more than what comes.
        let map = scope.spawn(|| batch.map(|n| leash.task(n), 0..40_u64));
        for n in 0..40 {
            leash.release(n);
            let start = Instant::now();
            while !desk.noted().contains(&n) {
                assert!(start.elapsed() < PATIENCE, "item {n} is not noted");
                std::thread::sleep(Duration::from_millis(1));
            }
            done.store(n, Ordering::Relaxed);
        }
        assert_eq!(map.join().unwrap().unwrap().len(), 40);
    });
    assert_eq!(done.into_inner(), 39);
    expect_healthy(&pool);
    assert!(pool.apply(pid_for(0)).is_ok());
}

/// Numbers by chance, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text} is no number: {error}")),
        Err(_) => otherwise,
    }
}

/// Items of the killed job.
const ITEMS: u64 = 10_000;

/// The killed job, started for the `run`th time.
fn start(scene: &Scene, desk: &Desk, run: usize) -> Child {
    let (key, value) = scene.mark().split_once('=').unwrap();
    Command::new(resumed())
        .arg(stock_path())
        .args([desk.journal(), desk.at("output")])
        .arg(ITEMS.to_string())
        .env(key, value)
        .env(DIARY, desk.at(&format!("diary-{run}")))
        .spawn()
        .unwrap()
}

/// Kills the job when it has come to some point by chance, unless it ends before; whether it has ended.
fn kill_somewhere(mut child: Child, diary: &Path, dice: &mut Dice) -> bool {
    // Some before they have begun to run anything, and most while they do.
    let lines = if dice.below(4) == 0 { 0 } else { dice.below(3 * ITEMS / 4) };
    let moment = Instant::now() + Duration::from_micros(dice.below(20_000));
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return true;
        }
        assert!(start.elapsed() < PATIENCE, "the job gets no further");
        let written = fs::metadata(diary).map_or(0, |file| file.len());
        if Instant::now() >= moment && written >= 5 * lines {
            break;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

#[test]
fn a_program_killed_at_any_moment_goes_on_where_it_was() {
    let (rounds, seed) = (number("POOL_JOURNAL_ROUNDS", 10), number("POOL_JOURNAL_SEED", 1));
    let scene = Scene::of(Duration::from_secs(60 + 10 * rounds));
    let expected: Vec<String> = squares(ITEMS).iter().map(u64::to_string).collect();
    let (mut kills, mut runs) = (0, 0);
    for round in 0..rounds {
        let mut dice = Dice((seed + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let desk = Desk::new();
        let mut done = BTreeSet::new();
        for run in 0.. {
            let child = start(&scene, &desk, run);
            let diary = desk.at(&format!("diary-{run}"));
            let most = 2 + dice.below(5) as usize;
            let ended = if run < most {
                kill_somewhere(child, &diary, &mut dice)
            } else {
                let mut child = child;
                assert!(child.wait().unwrap().success());
                true
            };
            // Its workers die with it.
            scene.expect_nothing_left();
            let again: Vec<_> = read_diary(&diary).into_iter().filter(|n| done.contains(n)).collect();
            assert!(
                again.is_empty(),
                "seed {}, run {run}: done before, and run again: {again:?}",
                seed + round
            );
            let now = noted(&desk.journal());
            assert!(done.is_subset(&now), "seed {}, run {run}: noted before, and lost", seed + round);
            done = now;
            runs += 1;
            if ended {
                break;
            }
            kills += 1;
        }
        let output = fs::read_to_string(desk.at("output")).unwrap();
        assert!(output.lines().eq(expected.iter().map(String::as_str)), "seed {}", seed + round);
        assert_eq!(done, (0..ITEMS).collect());
    }
    assert!(kills >= rounds, "{kills} kills in {rounds} rounds");
    eprintln!("{rounds} rounds, {runs} runs, {kills} of them killed");
}
