//! Progress reports of batches.

use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::pty::openpty;
use pool_core::{OnFailure, Pool, Progress, ProgressReport, TaskError};
use pool_tests::{Part, Scene, expect_healthy, play};
use pool_worker::drill;

use crate::programs::{host, stock, stock_path};

type Reports = Arc<Mutex<Vec<ProgressReport>>>;

/// Progress that is noted.
fn noted() -> (Progress, Reports) {
    let reports = Reports::default();
    let seen = Arc::clone(&reports);
    (Progress::with(move |report| seen.lock().unwrap().push(report.clone())), reports)
}

/// The last report; the others must have come before it, and say less.
#[track_caller]
fn last(reports: &Reports) -> ProgressReport {
    let reports = std::mem::take(&mut *reports.lock().unwrap());
    let (last, others) = reports.split_last().expect("there is one at least");
    assert!(last.finished && others.iter().all(|report| !report.finished), "{reports:?}");
    assert!(
        reports.windows(2).all(|pair| pair[0].done <= pair[1].done && pair[0].elapsed <= pair[1].elapsed)
    );
    last.clone()
}

/// Runs a batch to its end, by one of the five calls.
fn run(pool: &Pool, how: usize, progress: Progress, items: u64, part: impl Fn(u64) -> Part) {
    let batch = pool.batch().on_failure(OnFailure::Isolate).progress(progress);
    let call = |n| play(n, part(n));
    match how {
        0 => drop(batch.map(call, 0..items)),
        1 => drop(batch.map_unordered(call, 0..items)),
        2 => drop(batch.map_settled(call, 0..items)),
        3 => batch.imap(call, 0..items).for_each(drop),
        _ => batch.imap_unordered(call, 0..items).for_each(drop),
    }
}

#[test]
fn every_call_reports_its_counts_and_its_end() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let part = |n| match n {
        7 => Part::Exit(3),
        9 => Part::Panic("on purpose".to_owned()),
        _ => Part::Sleep(2),
    };
    for how in 0..5 {
        let (progress, reports) = noted();
        run(&pool, how, progress, 200, part);
        let several = reports.lock().unwrap().len();
        assert!((2..100).contains(&several), "{several} reports in about 200 ms");
        let report = last(&reports);
        assert_eq!((report.done, report.failed, report.total, report.deaths), (200, 2, Some(200), 1));
        assert!(report.last_failure.is_some() && report.rate > 0.0, "{report:?}");
        assert!(report.to_string().starts_with("200/200 in "), "{report}");
    }
    expect_healthy(&pool);
}

#[test]
fn single_tasks_are_reported_as_they_end() {
    let scene = Scene::new();
    let (pool, other) = (scene.builder().worker(stock()).build().unwrap(), scene.builder().build().unwrap());
    let (progress, reports) = noted();
    let part = |n| if n == 7 { Part::Exit(3) } else { Part::Sleep(5) };
    let handles = (0..100).map(|n| if n < 80 { &pool } else { &other }.apply_async(play(n, part(n))));
    let ended = pool_core::as_completed(handles).progress(progress);
    assert_eq!(ended.filter(|(_, result)| result.is_ok()).count(), 99);
    assert!(reports.lock().unwrap().len() >= 2);
    let report = last(&reports);
    assert_eq!((report.done, report.failed, report.total, report.deaths), (100, 1, Some(100), 1));

    // Nobody asks again after the last one.
    let (progress, reports) = noted();
    let hanging = pool.apply_async(play(1, Part::Hang).timeout(Duration::from_millis(300)));
    let mut ended = pool_core::as_completed([hanging]).progress(progress);
    assert!(ended.next().unwrap().1.is_err());
    assert!(reports.lock().unwrap().iter().any(|report| report.done == 0), "300 ms without a report");
    drop(ended);
    assert_eq!(last(&reports).failed, 1);
    expect_healthy(&pool);
    expect_healthy(&other);
}

#[test]
fn the_end_is_reported_however_it_comes() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    // Aborted.
    let (progress, reports) = noted();
    let part = |n| if n == 20 { Part::Exit(1) } else { Part::Innocent };
    pool.batch().progress(progress.total(500)).map(|n| play(n, part(n)), 0..).unwrap_err();
    let report = last(&reports);
    assert!(report.failed > 0 && report.total == Some(500), "{report:?}");
    assert!(report.last_failure.is_some_and(|failure| failure.contains("exited with status 1")));
    // What is cancelled because of that is counted, and is not the news.
    let (progress, reports) = noted();
    let part = |n| if n == 20 { Part::Exit(1) } else { Part::Sleep(1) };
    let batch = pool.batch().on_failure(OnFailure::Abort).progress(progress);
    let outcomes = batch.map_settled(|n| play(n, part(n)), 0..500);
    assert!(outcomes.iter().filter(|outcome| matches!(outcome, Err(TaskError::Cancelled))).count() > 1);
    let report = last(&reports);
    assert!(report.failed > 1, "{report:?}");
    assert!(report.last_failure.is_some_and(|failure| failure.contains("exited with status 1")));
    // Dropped half-way.
    let (progress, reports) = noted();
    assert_eq!(pool.batch().progress(progress).imap(drill::echo_u64, 0..).take(30).count(), 30);
    let report = last(&reports);
    assert!(report.done >= 30 && report.total.is_none(), "{report:?}");
    // Nothing to do.
    let (progress, reports) = noted();
    assert!(pool.batch().progress(progress).map(drill::echo_u64, []).unwrap().is_empty());
    assert_eq!(reports.lock().unwrap().len(), 1);
    assert_eq!(last(&reports).done, 0);
    // The input panics.
    let (progress, reports) = noted();
    let input = (0..100).inspect(|n| assert!(*n != 50, "on purpose"));
    let batch = pool.batch().progress(progress);
    assert!(catch_unwind(AssertUnwindSafe(|| batch.map(drill::echo_u64, input))).is_err());
    assert!(last(&reports).done <= 50);
    expect_healthy(&pool);
}

#[test]
fn a_report_that_panics_harms_nobody() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let calls = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&calls);
    let progress = Progress::with(move |_| {
        *counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
        panic!("on purpose");
    });
    let sums = pool.batch().progress(progress).map(|n| play(n, Part::Sleep(2)), 0..200).unwrap();
    assert_eq!(sums.len(), 200);
    assert_eq!(*calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner), 1, "it is not called again");
    expect_healthy(&pool);
}

#[test]
fn a_report_may_use_the_pool_and_several_batches_may_share_one() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let reports = Reports::default();
    let (seen, used) = (Arc::clone(&reports), pool.clone());
    let progress = Progress::with(move |report| {
        assert_eq!(used.apply(drill::add(1, 2)).unwrap(), 3);
        seen.lock().unwrap().push(report.clone());
    });
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| run(&pool, 3, progress.clone(), 100, |_| Part::Sleep(2)));
        }
    });
    drop(progress);
    let reports = std::mem::take(&mut *reports.lock().unwrap());
    let ends: Vec<_> = reports.iter().filter(|report| report.finished).map(|report| report.done).collect();
    assert_eq!(ends, [100, 100, 100]);
    expect_healthy(&pool);
}

#[test]
fn a_batch_that_waits_goes_on_reporting() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let (progress, reports) = noted();
    let batch = pool.batch().progress(progress).timeout(Duration::from_millis(600));
    let error = batch.map(|n| play(n, Part::Hang), 0..1).unwrap_err();
    assert_eq!(error.index, 0);
    let times: Vec<_> =
        reports.lock().unwrap().iter().filter(|it| it.done == 0).map(|it| it.elapsed).collect();
    assert!(!times.is_empty(), "600 ms without a report");
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(90)), "{times:?}");
    assert_eq!(last(&reports).failed, 1);
    expect_healthy(&pool);
}

/// A program that runs two batches with bars.
fn with_bars(scene: &Scene) -> Command {
    let (key, value) = scene.mark().split_once('=').unwrap();
    let mut command = Command::new(host());
    command.args(["progress", stock_path().to_str().unwrap()]).env(key, value).env("TERM", "xterm");
    command.stdin(Stdio::null());
    command
}

#[test]
fn bars_are_silent_where_there_is_no_terminal() {
    let scene = Scene::new();
    let output = with_bars(&scene).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert_eq!((&*stdout, &*stderr), ("done\n", ""));
}

#[test]
fn bars_share_a_terminal_and_leave_a_line_each() {
    let scene = Scene::new();
    let pty = openpty(None, None).unwrap();
    let child = with_bars(&scene).stdout(Stdio::null()).stderr(pty.slave).spawn();
    let mut screen = File::from(pty.master);
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    // EIO: nobody has the other end any more.
    while let Ok(read) = screen.read(&mut buffer)
        && read > 0
    {
        shown.extend_from_slice(&buffer[..read]);
    }
    assert!(child.unwrap().wait().unwrap().success());
    let shown = String::from_utf8_lossy(&shown);
    // Each line begins on one that has been cleared, or on a new one, and is filled up with blanks; then a bar may follow.
    let pieces = shown.split("\u{1b}[2K").flat_map(|cleared| cleared.split('\n'));
    let lines = pieces.map(|piece| piece.split("  ").next().unwrap_or_default());
    let find = |name: &str| lines.clone().find(|line| line.starts_with(name));
    let left = ["first: ", "second: "].map(|name| find(name).unwrap_or_else(|| panic!("{shown:?}")));
    assert!(left[0].contains("100/100 in ") && left[0].contains("1 failed (last: "), "{left:?}");
    assert!(left[1].contains("60/60 in ") && !left[1].contains("failed"), "{left:?}");
}
