//! The longest tasks are shown with what they were called with.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pool_core::{Insights, LongTask, Pool, TaskError, task};
use pool_tests::region::Place;
use pool_tests::{Ink, Leash, Part, Scene, Then, expect_healthy, play, scribble, wait_until};
use pool_worker::drill;
use serde::{Deserialize, Deserializer, Serialize};

use crate::programs::stock;

fn measured(scene: &Scene) -> Pool {
    scene.builder().workers(1).insights(true).build().unwrap()
}

/// The listed task of this name.
#[track_caller]
fn find<'a>(insights: &'a Insights, name: &str) -> &'a LongTask {
    let found = insights.longest.iter().find(|task| task.name.ends_with(name));
    found.unwrap_or_else(|| panic!("no {name} in {insights}"))
}

#[derive(Serialize, Deserialize)]
struct Silent(u64);

#[derive(Debug, Serialize, Deserialize)]
struct Loud<'a> {
    name: &'a str,
    more: Vec<Option<u8>>,
}

#[task]
fn called_with(r#in: u8, silent: Silent, loud: Loud<'_>, text: &str, list: &[i16]) -> u64 {
    u64::from(r#in) + silent.0 + loud.more.len() as u64 + (text.len() + list.len()) as u64
}

#[test]
fn each_argument_is_shown_by_its_debug_or_by_its_type() {
    let scene = Scene::new();
    let pool = measured(&scene);
    let loud = Loud { name: "a\nb", more: vec![Some(1), None] };
    pool.apply(called_with(7, Silent(1), loud, "c\"d", &[-1, 2])).unwrap();
    let insights = pool.insights();
    let expected = r#"in: 7, silent: <Silent>, loud: Loud { name: "a\nb", more: [Some(1), None] }, text: "c\"d", list: [-1, 2]"#;
    assert_eq!(find(&insights, "::called_with").arguments, expected);
    assert!(insights.to_string().ends_with(&format!("(task 1) on worker 0: {expected}")), "{insights}");
}

#[test]
fn each_item_of_a_map_has_its_own() {
    let scene = Scene::new();
    let pool = measured(&scene);
    let part = |n| if n % 10 == 3 { Part::Sleep(60) } else { Part::Innocent };
    pool.map(|n| play(n, part(n)), 0..50).unwrap();
    let mut found: Vec<String> = pool.insights().longest.into_iter().map(|task| task.arguments).collect();
    found.sort();
    assert_eq!(
        found,
        [
            "n: 13, part: Sleep(60)",
            "n: 23, part: Sleep(60)",
            "n: 3, part: Sleep(60)",
            "n: 33, part: Sleep(60)",
            "n: 43, part: Sleep(60)"
        ]
    );
}

#[test]
fn a_task_without_arguments_shows_none() {
    let scene = Scene::new();
    let pool = measured(&scene);
    pool.apply(drill::pid()).unwrap();
    let insights = pool.insights();
    assert_eq!(find(&insights, "::pid").arguments, "");
    assert!(insights.to_string().ends_with("on worker 0"), "{insights}");
}

#[test]
fn large_arguments_are_only_measured() {
    let scene = Scene::new();
    let pool = measured(&scene);
    for (len, shown) in
        [(1_000, "…"), (2_000, "data: <&[u8]> (2.0 KiB)"), (3 << 20, "data: <&[u8]> (3.0 MiB)")]
    {
        pool.apply(drill::length(&vec![5; len])).unwrap();
        let insights = pool.insights();
        let newest = insights.longest.iter().max_by_key(|task| task.task).unwrap();
        assert!(newest.arguments.ends_with(shown), "{len}: {}", newest.arguments);
        assert!(newest.arguments.chars().count() <= 201, "{}", newest.arguments);
    }
}

#[test]
fn tasks_that_kill_their_worker_are_shown_too() {
    let scene = Scene::new();
    let pool = measured(&scene);
    pool.apply(play(1, Part::After(60, Box::new(Part::Segv)))).unwrap_err();
    pool.apply(play(2, Part::After(60, Box::new(Part::Panic("on purpose".to_owned()))))).unwrap_err();
    let limit = Duration::from_millis(80);
    let error = pool.apply(play(3, Part::Hang).timeout(limit)).unwrap_err();
    assert!(matches!(error, TaskError::TimedOut { .. }), "{error}");
    let part = |n| if n == 27 { Part::After(60, Box::new(Part::Abort)) } else { Part::Innocent };
    pool.batch().chunk_size(10).map_settled(|n| play(n, part(n)), 10..40);
    wait_until("the deaths are known", || pool.stats().deaths.total() == 3);
    let insights = pool.insights();
    let arguments: Vec<&str> = insights.longest.iter().map(|task| &*task.arguments).collect();
    for expected in [
        "n: 1, part: After(60, Segv)",
        "n: 2, part: After(60, Panic(\"on purpose\"))",
        "n: 3, part: Hang",
        "n: 27, part: After(60, Abort)",
    ] {
        assert!(arguments.contains(&expected), "no {expected}: {insights}");
    }
}

/// Its decoder kills every process that it runs in.
#[test]
fn what_a_worker_could_not_decode_is_not_decoded_here() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(1).insights(true).build().unwrap();
    pool.apply(drill::die_while_decoding(drill::DieOnDecode)).unwrap_err();
    pool.apply(play(1, Part::DieOnDecode(drill::DieOnDecode))).unwrap_err();
    let insights = pool.insights();
    assert_eq!(find(&insights, "::die_while_decoding").arguments, "x: <DieOnDecode> (0 bytes)");
    assert!(
        insights.longest.iter().any(|task| task.arguments == "n: <u64>, part: <Part> (2 bytes)"),
        "{insights}"
    );
    expect_healthy(&pool);
}

/// Can be decoded and shown in processes that have run [`mark_as_worker`].
#[derive(Serialize)]
struct Shy;

static IS_WORKER: AtomicBool = AtomicBool::new(false);

impl<'de> Deserialize<'de> for Shy {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        assert!(IS_WORKER.load(Ordering::Relaxed), "on purpose: decoded where it was made");
        Ok(Self)
    }
}

#[derive(Serialize, Deserialize)]
struct Touchy;

impl fmt::Debug for Touchy {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("on purpose: shown")
    }
}

/// Kills workers that decode it.
#[derive(Serialize)]
struct Fatal;

impl<'de> Deserialize<'de> for Fatal {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        assert!(IS_WORKER.load(Ordering::Relaxed), "on purpose: decoded where it was made");
        std::process::abort()
    }
}

#[task]
fn take_fatal(fatal: Fatal) {
    let Fatal = fatal;
}

/// Runs another task, and kills the worker that decodes it.
#[derive(Serialize)]
struct Busy;

impl<'de> Deserialize<'de> for Busy {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        drill::length(b"of another task").run_here().map_err(serde::de::Error::custom)?;
        Fatal::deserialize(from).map(|Fatal| Self)
    }
}

#[task]
fn take_busy(busy: Busy) {
    let Busy = busy;
}

#[test]
fn what_a_decoder_runs_does_not_count_as_decoded() {
    let scene = Scene::new();
    let pool = measured(&scene);
    pool.apply(mark_as_worker()).unwrap();
    let error = pool.apply(take_busy(Busy)).unwrap_err();
    assert!(matches!(error, TaskError::WorkerDied { .. }), "{error}");
    let insights = pool.insights();
    assert_eq!(find(&insights, "::take_busy").arguments, "busy: <Busy> (0 bytes)");
    expect_healthy(&pool);
}

#[test]
fn a_stray_write_does_not_have_them_decoded_here() {
    let scene = Scene::new();
    let pool = measured(&scene);
    for by in [1, -1, 2, 1 << 40] {
        pool.apply(mark_as_worker()).unwrap();
        // The next task would have been decoded, if the number of a task stood there.
        pool.apply(scribble(0, Place::Decoded, Ink::Add(by), Then::Return)).unwrap();
        let error = pool.apply(take_fatal(Fatal)).unwrap_err();
        assert!(matches!(error, TaskError::WorkerDied { .. }), "{error}");
        let insights = pool.insights();
        let fatal = insights.longest.iter().filter(|task| task.name.ends_with("::take_fatal"));
        assert!(fatal.clone().count() > 0, "{insights}");
        fatal.for_each(|task| assert_eq!(task.arguments, "fatal: <Fatal> (0 bytes)", "{insights}"));
    }
    expect_healthy(&pool);
}

#[task]
fn mark_as_worker() {
    IS_WORKER.store(true, Ordering::Relaxed);
}

#[task]
fn take_shy(shy: Shy) {
    let Shy = shy;
}

#[task]
fn take_touchy(touchy: Touchy) {
    let Touchy = touchy;
}

#[test]
fn a_panic_while_they_are_shown_harms_nobody() {
    let scene = Scene::new();
    let pool = measured(&scene);
    pool.apply(mark_as_worker()).unwrap();
    pool.apply(take_shy(Shy)).unwrap();
    pool.apply(take_touchy(Touchy)).unwrap();
    let insights = pool.insights();
    assert_eq!(find(&insights, "::take_shy").arguments, "<unknown>");
    assert_eq!(find(&insights, "::take_touchy").arguments, "<unknown>");
    assert_eq!(find(&insights, "::mark_as_worker").arguments, "");
    expect_healthy(&pool);
}

#[test]
fn they_are_there_while_others_run_and_after_the_worker_is_gone() {
    let scene = Scene::new();
    let pool = measured(&scene);
    pool.apply(play(8, Part::Sleep(5))).unwrap();
    let leash = Leash::new();
    let held = pool.apply_async(leash.task(1));
    wait_until("the other one runs", || leash.has_begun(1));
    assert_eq!(find(&pool.insights(), "::play").arguments, "n: 8, part: Sleep(5)");
    leash.release(1);
    held.get().unwrap();
    pool.join();
    assert_eq!(find(&pool.insights(), "::play").arguments, "n: 8, part: Sleep(5)");
}
