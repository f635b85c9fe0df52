//! Attacks on the memory that a worker shares with its supervisor, by its tasks and by the worker itself.
//!
//! What must hold: they cost that worker, and the task that did it; a result is right or it is none; nothing that has run runs
//! again unasked; nothing hangs; the pool is whole afterwards.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pool_core::{DeathCause, Pool, RestartPolicy, TaskError};
use pool_ipc::{Kind, Region};
use pool_tests::region::{Place, Ring};
use pool_tests::{
    Ink, Mode, Scene, Then, Trial, expect_death, expect_healthy, innocent, leave_a_vandal, mark, marked,
    scribble, sevens, victim, wait_until, with_rings,
};
use pool_worker::drill;

use crate::misbehaviour::is_violation;
use crate::programs::{hostile, stock};

/// After so long a worker is looked at, whether it has rung or not.
const PATIENCE: Duration = Duration::from_millis(1000);
/// For tasks that hang.
const LIMIT: Duration = Duration::from_millis(100);

const THENS: [Then; 3] = [Then::Return, Then::Hang, Then::Exit(7)];

#[test]
fn the_tests_know_where_things_are() {
    let (ours, memory) = Region::create().unwrap();
    let theirs = Region::open(memory.as_fd()).unwrap();
    let file = std::fs::File::from(memory);
    let word = |place: Place| {
        let mut word = [0; 8];
        file.read_exact_at(&mut word, place.offset()).unwrap();
        u64::from_le_bytes(word)
    };
    assert!(Place::WORDS.iter().all(|place| word(*place) == 0));
    let len = file.metadata().unwrap().len();
    assert!(Place::Everything.size() as u64 <= len && len < Place::Everything.size() as u64 + 4096);
    let (mut tasks_in, mut results_out) = ours.supervisor();
    let (mut tasks_out, mut results_in) = theirs.worker();
    for (ring, writer, reader) in
        [(Ring::Tasks, &mut tasks_in, &mut tasks_out), (Ring::Results, &mut results_in, &mut results_out)]
    {
        assert!(writer.frame(Kind::Done, 7, &[b"seven"]).unwrap());
        assert!(!writer.publish());
        assert_eq!((word(Place::Tail(ring)), word(Place::Head(ring))), (writer.written(), 0));
        let mut bytes = vec![0; 25];
        file.read_exact_at(&mut bytes, Place::Bytes(ring).offset()).unwrap();
        assert!(bytes.ends_with(b"seven"));
        let mut read = Vec::new();
        reader.read_into(&mut read, usize::MAX).unwrap();
        assert_eq!((read, word(Place::Head(ring))), (bytes, writer.written()));
        assert!(reader.arm(pool_ipc::Wake::Each).unwrap());
        assert_eq!((word(Place::ReaderWaits(ring)), word(Place::WriterWaits(ring))), (1, 0));
        let full = vec![0; Place::Bytes(ring).size()];
        assert_eq!(writer.stage(&full).unwrap(), full.len());
        assert!(!writer.wait_for_room(1).unwrap().now);
        assert_eq!(word(Place::WriterWaits(ring)), 1);
    }
    ours.board().offer(1);
    assert!(theirs.board().claim(1, 1234));
    assert_eq!(word(Place::Board), 1234, "when the task was started");
}

// Tasks that scribble

/// Whether a task that has scribbled ended as it may.
#[track_caller]
fn check(then: Then, outcome: Result<u64, TaskError>, row: &str) {
    let found_out = |cause: &DeathCause| {
        matches!(cause, DeathCause::ProtocolViolation { .. } | DeathCause::Exited(102 | 103))
    };
    match (then, outcome) {
        (Then::Return, Ok(_)) | (Then::Hang, Err(TaskError::TimedOut { .. })) => {}
        (_, Err(TaskError::WorkerDied(death))) if found_out(&death.cause) => {}
        (Then::Exit(status), Err(TaskError::WorkerDied(death))) => {
            assert_eq!(death.cause, DeathCause::Exited(status), "{row}: {death}");
        }
        (_, other) => panic!("{row}: {other:?}"),
    }
}

/// Lets a task scribble among innocents that may run again.
#[track_caller]
fn scribble_among_innocents(place: Place, ink: Ink, then: Then, mode: Mode) {
    let row = format!("{place:?}, {ink:?}, {then:?}, {mode:?}");
    let start = Instant::now();
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).start_timeout(PATIENCE).build().unwrap();
    let victim = || {
        let call = scribble(0, place, ink, then);
        if then == Then::Hang { call.timeout(LIMIT) } else { call }
    };
    let trial = Trial { victim, innocent: |n| drill::echo_u64(n).retries(3) };
    check(then, trial.run(&pool, mode, |n| n), &row);
    expect_healthy(&pool);
    // Whatever it is that is looked at late, it is not looked at for ever.
    assert!(start.elapsed() < 15 * PATIENCE, "{row}: {:?}", start.elapsed());
}

#[test]
fn scribbled_positions_and_flags_are_not_believed() {
    if !with_rings() {
        return;
    }
    let inks = [Ink::Set(0), Ink::Set(u64::MAX), Ink::Add(1), Ink::Add(-1), Ink::Add(1 << 12)];
    let mut modes = Mode::ALL.into_iter().cycle();
    for place in Place::WORDS {
        for ink in inks {
            for then in THENS {
                scribble_among_innocents(place, ink, then, modes.next().expect("it goes round"));
            }
            // So that rows and modes meet in all ways.
            modes.next();
        }
    }
}

#[test]
fn scribbled_bytes_of_rings_are_not_believed() {
    if !with_rings() {
        return;
    }
    for place in [Place::Bytes(Ring::Tasks), Place::Bytes(Ring::Results), Place::Board, Place::Everything] {
        for ink in [Ink::Fill(0xA5), Ink::Fill(0), Ink::Fill(0xFF), Ink::Speckle] {
            for then in THENS {
                for mode in Mode::ALL {
                    scribble_among_innocents(place, ink, then, mode);
                }
            }
        }
    }
}

/// One worker runs them in order, so it is known which had run when the memory was overwritten.
#[test]
fn what_has_run_does_not_run_again_and_what_has_not_run_is_not_blamed() {
    if !with_rings() {
        return;
    }
    const TASKS: u64 = 40;
    const SCRIBBLER: u64 = 20;
    let places = [
        Place::Everything,
        Place::Board,
        Place::Bytes(Ring::Results),
        Place::Bytes(Ring::Tasks),
        Place::Tail(Ring::Results),
        Place::Head(Ring::Results),
        Place::Tail(Ring::Tasks),
        Place::Head(Ring::Tasks),
    ];
    let mut unread = 0;
    for place in places {
        for then in [Then::Return, Then::Exit(7)] {
            for round in 0..6 {
                let row = format!("{place:?}, {then:?}, round {round}");
                // With results and board both gone, nobody knows what has run: then not to run it again comes first.
                let is_known = !matches!(place, Place::Everything);
                let scene = Scene::new();
                let dir = tempfile::tempdir().unwrap();
                let file = dir.path().join("marks");
                let pool =
                    scene.builder().workers(1).worker(stock()).start_timeout(PATIENCE).build().unwrap();
                // Long enough for the one who waits to fall asleep, and short enough for it not to be woken for each.
                let call = |n| match n {
                    SCRIBBLER => scribble(0, place, Ink::Fill(0xA5), then),
                    _ => mark(n, file.clone(), 60 + 10 * round),
                };
                let results = pool.map_settled(call, 0..TASKS);
                let runs = runs(&file);
                assert!(runs.values().all(|runs| *runs == 1), "{row}: {runs:?}");
                let (mut blamed, mut unmarked) = (Vec::new(), Vec::new());
                for (n, result) in (0..).zip(results) {
                    match result {
                        _ if n == SCRIBBLER => {
                            unread += u64::from(result.as_ref().is_ok_and(|unread| *unread > 0));
                            check(then, result, &row);
                        }
                        Ok(result) => assert_eq!((result, runs.get(&n)), (marked(n), Some(&1)), "{row}: {n}"),
                        Err(TaskError::WorkerDied(death)) => {
                            if !runs.contains_key(&n) {
                                unmarked.push((n, death.to_string()));
                            }
                            blamed.push(n);
                        }
                        Err(other) => panic!("{row}: {n}: {other:?}"),
                    }
                }
                // Behind it, at most the one that was running when the worker was killed.
                let behind = blamed.iter().filter(|n| **n > SCRIBBLER).count();
                assert!(!is_known || behind <= 1, "{row}: {blamed:?}");
                // The one that was running then, and no other, may not have come to its mark.
                let unmarked_running = unmarked.iter().all(|(n, _)| blamed.last() == Some(n));
                assert!(!is_known || unmarked_running, "{row}: they have not run: {unmarked:?}");
                expect_healthy(&pool);
            }
        }
    }
    assert!(unread > 0, "there was never anything to be destroyed");
}

/// A thread that a task has left behind scribbles while other tasks are run, sent and answered.
#[test]
fn whatever_is_scribbled_at_whatever_moment_results_are_right_or_none() {
    if !with_rings() {
        return;
    }
    const TASKS: u64 = 2000;
    const VANDALS: u64 = 100;
    let places = [
        Place::Everything,
        Place::Board,
        Place::Bytes(Ring::Tasks),
        Place::Bytes(Ring::Results),
        Place::Tail(Ring::Results),
        Place::Head(Ring::Results),
        Place::Tail(Ring::Tasks),
        Place::Head(Ring::Tasks),
        Place::ReaderWaits(Ring::Tasks),
        Place::WriterWaits(Ring::Results),
    ];
    for (seed, place) in (1..).zip(places) {
        for pause_us in [0, 200] {
            let row = format!("{place:?}, {pause_us} us");
            let scene = Scene::new();
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("marks");
            // Deaths that no task is to blame for are what this is about.
            let restart = RestartPolicy {
                max_restarts: 1000,
                first_delay: Duration::from_millis(1),
                ..RestartPolicy::default()
            };
            let builder = scene.builder().worker(stock()).start_timeout(PATIENCE).restart(restart);
            let pool = builder.build().unwrap();
            let is_vandal = |n: u64| n % VANDALS == VANDALS / 2;
            let call = |n| match n {
                _ if is_vandal(n) => leave_a_vandal(seed * 977 + n, place, 100, pause_us),
                _ => mark(n, file.clone(), n % 7 * 30),
            };
            let results = pool.map_settled(call, 0..TASKS);
            let runs = runs(&file);
            let mut lost = 0;
            for (n, result) in (0..).zip(results) {
                let runs = runs.get(&n).copied().unwrap_or_default();
                match result {
                    Ok(result) if is_vandal(n) => assert_eq!(result, seed * 977 + n, "{row}: {n}"),
                    Ok(result) => assert_eq!((result, runs), (marked(n), 1), "{row}: {n}"),
                    Err(TaskError::WorkerDied(death)) => {
                        assert!(runs <= 1, "{row}: {n} has run {runs} times: {death}");
                        lost += 1;
                    }
                    Err(other) => panic!("{row}: {n}: {other:?}"),
                }
            }
            assert!(lost < TASKS / 4, "{row}: {lost} are lost");
            // Vandals that are left go on for a while.
            wait_until("the last vandal has ended", || no_thread_is_called("vandal", &pool));
            expect_healthy(&pool);
        }
    }
}

/// How often each task has run, from the marks that they leave.
fn runs(file: &Path) -> HashMap<u64, u32> {
    let mut runs = HashMap::new();
    let marks = std::fs::read_to_string(file).unwrap();
    marks.lines().for_each(|line| *runs.entry(line.trim_start().parse().unwrap()).or_default() += 1);
    runs
}

/// Whether no thread of a worker has this name.
fn no_thread_is_called(name: &str, pool: &Pool) -> bool {
    let pids = pool.workers().into_iter().filter_map(|worker| worker.pid);
    let mut threads =
        pids.flat_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    threads.all(|thread| {
        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|found| found.trim() != name)
    })
}

/// The bell is what a task can silence without a trace. What it silences is found when workers are looked at.
#[test]
fn a_result_whose_bell_was_silenced_comes_late_and_does_not_stay_away() {
    if !with_rings() {
        return;
    }
    // Before the worker is looked at for the first time, and after it.
    for after in [0, 2 * PATIENCE.as_millis() as u64] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).worker(stock()).start_timeout(PATIENCE).build().unwrap();
        expect_healthy(&pool);
        let start = Instant::now();
        let handle =
            pool.apply_async(scribble(after, Place::ReaderWaits(Ring::Results), Ink::Set(0), Then::Return));
        assert!(handle.wait_timeout(20 * PATIENCE), "it stays away");
        handle.get().unwrap();
        assert!(start.elapsed() < Duration::from_millis(after) + 8 * PATIENCE, "{:?}", start.elapsed());
        expect_healthy(&pool);
    }
}

// Workers that do

#[test]
fn impossible_positions_cost_the_worker() {
    if !with_rings() {
        return;
    }
    for trick in ["tail-ahead", "tail-back"] {
        for mode in Mode::ALL {
            let scene = Scene::new();
            let pool = scene.builder().worker(hostile(trick)).start_timeout(PATIENCE).build().unwrap();
            let outcome = Trial { victim: || victim(1000), innocent }.run(&pool, mode, sevens);
            let death = expect_death(outcome);
            // A position may be wrong and possible: then it is a result that has not come.
            let what = ["has been overwritten", "claimed before an older one had its result"];
            assert!(what.iter().any(|what| is_violation(&death.cause, what)), "{trick}, {mode:?}: {death}");
            assert!(death.task.is_some_and(|task| task.ends_with("::victim")), "{trick}, {mode:?}");
            expect_healthy(&pool);
        }
    }
    // Whoever writes looks at the reader's position only when there is need of room.
    for trick in ["head-ahead", "head-back"] {
        for mode in Mode::ALL {
            let scene = Scene::new();
            let pool = scene.builder().worker(hostile(trick)).start_timeout(PATIENCE).build().unwrap();
            let outcome = Trial { victim: || victim(1000), innocent: |n| innocent(n).retries(1) }
                .run(&pool, mode, sevens);
            match outcome {
                Ok(result) => assert_eq!(result, sevens(1000)),
                Err(TaskError::WorkerDied(death)) => {
                    assert!(is_violation(&death.cause, "has been overwritten"), "{trick}, {mode:?}: {death}");
                }
                other => panic!("{trick}, {mode:?}: {other:?}"),
            }
            expect_healthy(&pool);
        }
    }
}

#[test]
fn a_worker_that_never_rings_is_slow_and_does_not_hang() {
    if !with_rings() {
        return;
    }
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(hostile("fall-silent")).start_timeout(PATIENCE).build().unwrap();
        let outcome = Trial { victim: || victim(1000), innocent }.run(&pool, mode, sevens);
        assert_eq!(outcome.unwrap(), sevens(1000), "{mode:?}");
        let results = pool.map(innocent, 0..50).unwrap();
        assert_eq!(results, (0..50).map(sevens).collect::<Vec<_>>());
    }
}

#[test]
fn a_worker_that_rings_without_end_harms_nobody() {
    if !with_rings() {
        return;
    }
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = scene.builder().worker(hostile("ring-for-ever")).build().unwrap();
        let outcome = Trial { victim: || victim(1000), innocent }.run(&pool, mode, sevens);
        assert_eq!(outcome.unwrap(), sevens(1000), "{mode:?}");
        expect_healthy(&pool);
        assert_eq!(pool.stats().deaths.total(), 0);
    }
}
