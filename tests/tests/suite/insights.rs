//! Where the time goes.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pool_core::{Insights, Pool, StateContext, WorkerEvent, WorkerState, task};
use pool_tests::region::Place;
use pool_tests::{Ink, Part, Scene, Then, expect_healthy, play, right, scribble, wait_until};
use pool_worker::drill;

use crate::programs::stock;

fn measured(scene: &Scene) -> Pool {
    scene.builder().insights(true).build().unwrap()
}

fn tasks(insights: &Insights) -> u64 {
    insights.workers.iter().map(|worker| worker.tasks).sum()
}

#[test]
fn the_figures_add_up() {
    let scene = Scene::new();
    let pool = measured(&scene);
    let nap = Duration::from_millis(10);
    pool.map(|n| play(n, Part::Sleep(10)), 0..20).unwrap();
    let insights = pool.insights();
    assert!(insights.measured);
    assert_eq!((insights.run.count, insights.wait.count, tasks(&insights)), (20, 20, 20), "{insights}");
    assert_eq!(insights.stats.succeeded, 20);
    assert!(insights.run.p50 >= nap && insights.run.mean >= nap && insights.run.p99 <= insights.run.max);
    assert!(insights.working.total >= 20 * nap && insights.start.total > Duration::ZERO, "{insights}");
    // Of 20 tasks on two workers, some have waited for others.
    assert!(insights.wait.max >= 5 * nap, "{insights}");
    let Insights { start, init, waiting, working, exit, .. } = &insights;
    let ratio: f64 = [start, init, waiting, working, exit].iter().map(|spread| spread.ratio).sum();
    assert!((ratio - 1.0).abs() < 1e-6, "{ratio}: {insights}");
    assert_eq!(insights.longest.len(), 5);
    assert!(insights.longest.iter().all(|task| task.name.ends_with("::play") && task.ran_for >= nap));
    assert!(insights.longest.is_sorted_by(|longer, shorter| longer.ran_for >= shorter.ran_for));
    assert!(insights.peak_memory.is_some_and(|bytes| bytes > 100_000), "{insights}");

    pool.map(|n| drill::add(n, n), 0..5000).unwrap();
    assert_eq!(pool.insights().run.count, 5020, "tasks that are handed out together count one by one");
}

#[test]
fn what_dead_workers_did_is_kept() {
    let scene = Scene::new();
    let pool = measured(&scene);
    let part = |n| if n % 5 == 4 { Part::After(10, Box::new(Part::Segv)) } else { Part::Innocent };
    let outcomes = pool.map_settled(|n| play(n, part(n)), 0..20);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), 4);
    let limit = Duration::from_millis(40);
    pool.apply(play(0, Part::Hang).timeout(limit)).unwrap_err();
    // Its death is reported later than its error.
    expect_healthy(&pool);
    pool.join();
    let insights = pool.insights();
    let deaths = insights.stats.deaths;
    assert_eq!((deaths.signalled, deaths.task_timeout, deaths.total()), (4, 1, 5), "{insights}");
    let processes: u64 = insights.workers.iter().map(|worker| worker.processes).sum();
    assert_eq!(processes, 2 + 5);
    assert_eq!(insights.run.count, insights.stats.submitted, "each ran once: {insights}");
    assert_eq!(
        tasks(&insights),
        insights.stats.succeeded,
        "what killed its worker was not brought to an end"
    );
    assert!(insights.run.max >= limit && insights.longest[0].name.ends_with("::play"), "{insights}");
    assert!(insights.exit.total > Duration::ZERO, "they were asked to exit: {insights}");
}

#[test]
fn retries_are_runs_and_no_waits() {
    let scene = Scene::new();
    let pool = measured(&scene);
    let twice = Part::UpToAttempt(2, Box::new(Part::Exit(1)));
    assert_eq!(pool.apply(play(1, twice).retries(2)).unwrap(), right(1));
    let insights = pool.insights();
    assert_eq!((insights.stats.retried, insights.stats.deaths.exited), (2, 2));
    assert!(
        insights.to_string().contains("2 retried, 0 requeued, 0 taken back; 2 workers died (2 exited)"),
        "{insights}"
    );
    assert_eq!((insights.run.count, insights.wait.count), (3, 1), "{insights}");
}

/// What it takes to build a [`Slow`].
const BUILDING: Duration = Duration::from_millis(60);

struct Slow;

impl WorkerState for Slow {
    fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
        std::thread::sleep(BUILDING);
        Ok(Self)
    }
}

#[task]
fn with_slow_state(#[state] state: &mut Slow) {
    let Slow = state;
}

#[test]
fn the_time_to_build_states_is_told_apart() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).insights(true).build().unwrap();
    for _ in 0..3 {
        pool.apply(with_slow_state()).unwrap();
    }
    let insights = pool.insights();
    assert!((BUILDING..2 * BUILDING).contains(&insights.init.total), "built once: {insights}");
    assert_eq!(insights.run.count, 3);
    assert!(insights.working.total < insights.init.total, "{insights}");
}

#[test]
fn states_that_are_built_at_the_start_are_no_part_of_it() {
    let scene = Scene::new();
    let ready = Arc::new(Mutex::new(None));
    let hook = {
        let ready = Arc::clone(&ready);
        move |event: &WorkerEvent| {
            if let WorkerEvent::Ready { after, .. } = event {
                *ready.lock().unwrap() = Some(*after);
            }
        }
    };
    let builder = scene.builder().workers(1).insights(true).state::<Slow>();
    let pool = builder.on_worker_event(hook).build().unwrap();
    wait_until("the worker is ready", || ready.lock().unwrap().is_some());
    let insights = pool.insights();
    let after = ready.lock().unwrap().unwrap();
    assert!(insights.init.total >= BUILDING, "{insights}");
    assert_eq!(insights.start.total + insights.init.total, after, "{insights}");
    pool.apply(with_slow_state()).unwrap();
    assert_eq!(pool.insights().init.total, insights.init.total, "it was there");
}

#[test]
fn retirements_are_shown_by_reason() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).workers(2).max_tasks_per_worker(5).build().unwrap();
    pool.map(|n| play(n, Part::Innocent), 0..20).unwrap();
    pool.join();
    let insights = pool.insights();
    let retired = insights.stats.retired;
    assert!(retired.tasks >= 3, "{insights}");
    assert_eq!(retired.total(), retired.tasks + retired.closed);
    let closed = if retired.closed > 0 { format!(", {} closed", retired.closed) } else { String::new() };
    let shown = format!(", {} retired ({} tasks{closed})\n", retired.total(), retired.tasks);
    assert!(insights.to_string().contains(&shown), "no {shown}: {insights}");
}

#[test]
fn a_worker_that_scribbles_over_its_gauges_harms_nobody() {
    for ink in [Ink::Fill(0xff), Ink::Fill(1), Ink::Speckle] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).insights(true).build().unwrap();
        pool.map(|n| play(n, Part::Innocent), 0..10).unwrap();
        assert_eq!(pool.insights().run.count, 10);
        pool.apply(scribble(0, Place::Gauges, ink, Then::Return)).unwrap();
        let insights = pool.insights();
        assert_eq!(
            (insights.run.count, insights.longest.len(), tasks(&insights)),
            (0, 0, 11),
            "{ink:?}: {insights}"
        );
        pool.apply(play(1, Part::Segv)).unwrap_err();
        expect_healthy(&pool);
        let insights = pool.insights();
        // The one that died, and what its successor ran.
        assert_eq!(insights.run.count, insights.stats.submitted - 11, "{ink:?}: {insights}");
    }
}

#[test]
fn unmeasured_says_so() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    pool.map(|n| play(n, Part::Innocent), 0..10).unwrap();
    let insights = pool.insights();
    assert!(!insights.measured);
    assert_eq!((insights.run.count, insights.wait.count, tasks(&insights)), (0, 0, 10), "{insights}");
    assert_eq!(insights.working.total, Duration::ZERO);
    assert!(insights.waiting.total > Duration::ZERO && insights.start.total > Duration::ZERO);
    assert!(insights.to_string().ends_with("tasks are not measured: see `Builder::insights`"), "{insights}");
}
