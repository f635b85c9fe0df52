//! What is told of workers while they live and die.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pool_core::{Builder, DeathCause, Pool, RetireReason, TaskError, WorkerEvent};
use pool_tests::{Part, Scene, is_signal, play, right, wait_until};
use pool_worker::drill;

use crate::programs::stock;

/// What the hook has been told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<WorkerEvent>>>);

impl Told {
    fn hook(&self) -> impl Fn(&WorkerEvent) + Send + Sync + 'static {
        let told = self.clone();
        move |event| told.lock().push(event.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<WorkerEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each event by its name.
    fn names(&self) -> Vec<String> {
        let name = |event: &WorkerEvent| {
            let shown = format!("{event:?}");
            shown.split([' ', '(']).next().unwrap_or_default().to_owned()
        };
        self.lock().iter().map(name).collect()
    }
}

#[test]
fn a_worker_dies_and_its_successor_retires() {
    let scene = Scene::new();
    let told = Told::default();
    let builder = scene.builder().worker(stock()).workers(1).on_worker_event(told.hook());
    let pool = builder.build().unwrap();
    pool.apply(play(1, Part::Segv)).unwrap_err();
    assert_eq!(pool.apply(play(2, Part::Innocent)).unwrap(), right(2));
    pool.join();
    let expected = ["Spawned", "Ready", "Died", "Spawned", "Ready", "Retiring", "Exited"];
    assert_eq!(told.names(), expected);
    let events = told.lock();
    let WorkerEvent::Died(death) = &events[2] else { unreachable!("see above") };
    assert!(is_signal(&death.cause, libc::SIGSEGV), "{death}");
    assert!(death.task.as_deref().is_some_and(|task| task.ends_with("::play")), "{death}");
    let pids: Vec<u32> = events.iter().filter_map(pid_of).collect();
    assert!(
        pids[..3].iter().all(|pid| *pid == pids[0]) && pids[3..].iter().all(|pid| *pid == pids[3]),
        "{pids:?}"
    );
}

#[test]
fn a_worker_that_retires_says_why() {
    let of = |told: &Told| {
        let reason = |event: &WorkerEvent| match event {
            WorkerEvent::Retiring { reason, .. } => Some(*reason),
            _ => None,
        };
        told.lock().iter().find_map(reason)
    };
    let scene = Scene::new();
    let build = |adjust: fn(Builder) -> Builder| {
        let told = Told::default();
        let builder = scene.builder().worker(stock()).workers(1).on_worker_event(told.hook());
        (adjust(builder).build().unwrap(), told)
    };
    let first = |(pool, told): &(Pool, Told), expected| {
        wait_until("a worker retires", || of(told).is_some());
        assert_eq!(of(told), Some(expected), "{:?}", pool.stats());
    };

    let pool = build(|builder| builder.max_tasks_per_worker(1));
    assert_eq!(pool.0.apply(play(1, Part::Innocent)).unwrap(), right(1));
    first(&pool, RetireReason::Tasks);

    let pool = build(|builder| builder.recycle_above(100 << 20));
    pool.0.apply(drill::leak(200 << 20)).unwrap();
    first(&pool, RetireReason::Memory);

    let pool = build(|builder| builder.workers(2));
    wait_until("both are ready", || pool.0.stats().workers_ready == 2);
    pool.0.resize(1).unwrap();
    first(&pool, RetireReason::Resized);

    let pool = build(|builder| builder.min_workers(0).idle_timeout(Duration::from_millis(20)));
    pool.0.apply(play(1, Part::Innocent)).unwrap();
    first(&pool, RetireReason::Idle);

    let pool = build(|builder| builder);
    pool.0.apply(play(1, Part::Innocent)).unwrap();
    pool.0.close();
    first(&pool, RetireReason::Closed);
}

fn pid_of(event: &WorkerEvent) -> Option<u32> {
    match event {
        WorkerEvent::Spawned { pid, .. }
        | WorkerEvent::Ready { pid, .. }
        | WorkerEvent::Retiring { pid, .. }
        | WorkerEvent::Exited { pid, .. } => Some(*pid),
        WorkerEvent::Died(death) => Some(death.pid),
        _ => None,
    }
}

#[test]
fn the_death_of_a_worker_that_is_killed_for_its_task_names_the_task() {
    let scene = Scene::new();
    let told = Told::default();
    let limit = Duration::from_millis(30);
    let builder = scene.builder().worker(stock()).workers(1).cancel_grace(Duration::ZERO);
    let pool = builder.on_worker_event(told.hook()).build().unwrap();
    let loud = Part::Say("it hangs".to_owned(), Box::new(Part::Hang));
    let error = pool.apply(play(1, loud).timeout(limit)).unwrap_err();
    assert!(matches!(error, TaskError::TimedOut { .. }), "{error}");
    assert_eq!(pool.apply(play(2, Part::Innocent)).unwrap(), right(2));
    pool.join();
    let events = told.lock();
    let death = events.iter().find_map(|event| match event {
        WorkerEvent::Died(death) => Some(death),
        _ => None,
    });
    let death = death.expect("the worker was killed");
    assert_eq!(death.cause, DeathCause::TaskTimeout);
    assert!(death.task.as_deref().is_some_and(|task| task.ends_with("::play")), "{death}");
    assert!(death.ran_for.is_some_and(|ran| ran >= limit), "{death}");
    assert_eq!(death.stderr_tail, "it hangs\n");
}

#[test]
fn every_process_ends_exactly_once_and_the_deaths_add_up() {
    let scene = Scene::new();
    let told = Told::default();
    let builder = scene.builder().worker(stock()).workers(3).spares(1).on_worker_event(told.hook());
    let pool = builder.build().unwrap();
    let part = |n| match n % 7 {
        1 => Part::Segv,
        3 => Part::Exit(3),
        _ => Part::Innocent,
    };
    let outcomes = pool.map_settled(|n| play(n, part(n)), 0..70);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 50);
    let hanging = pool.apply_async(play(0, Part::Hang).timeout(Duration::from_millis(20)));
    hanging.get().unwrap_err();
    pool.terminate();
    let mut alive: HashMap<u32, &'static str> = HashMap::new();
    let mut deaths = 0;
    for event in told.lock().iter() {
        let pid = pid_of(event).expect("nothing else happens here");
        match event {
            WorkerEvent::Spawned { .. } => assert_eq!(alive.insert(pid, "spawned"), None),
            WorkerEvent::Ready { .. } => assert_eq!(alive.insert(pid, "ready"), Some("spawned")),
            WorkerEvent::Died(_) => {
                assert!(alive.remove(&pid).is_some(), "{event:?}");
                deaths += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(alive.is_empty(), "{alive:?}");
    let stats = pool.stats();
    assert_eq!((deaths, stats.deaths.signalled, stats.deaths.exited), (stats.deaths.total(), 10, 10));
}

#[test]
fn the_hook_may_use_the_pool_panic_and_drop_it() {
    let scene = Scene::new();
    let pool = Arc::new(Mutex::new(None::<Pool>));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let hook = {
        let (pool, answers) = (Arc::clone(&pool), Arc::clone(&answers));
        move |event: &WorkerEvent| match event {
            // Its successor may become ready before the pool is dropped.
            WorkerEvent::Ready { .. } if answers.lock().unwrap().is_empty() => {
                wait_until("the pool has been built", || pool.lock().unwrap().is_some());
                let handle =
                    pool.lock().unwrap().as_ref().map(|pool| pool.apply_async(play(5, Part::Innocent)));
                answers.lock().unwrap().extend(handle.map(|handle| handle.get()));
                panic!("on purpose");
            }
            WorkerEvent::Died(_) => drop(pool.lock().unwrap().take()),
            _ => {}
        }
    };
    let built = scene.builder().worker(stock()).workers(1).on_worker_event(hook).build().unwrap();
    *pool.lock().unwrap() = Some(built.clone());
    wait_until("the hook has run a task", || !answers.lock().unwrap().is_empty());
    assert_eq!(answers.lock().unwrap()[0].as_ref().unwrap(), &right(5));
    drop(built.apply_async(play(6, Part::Segv)));
    drop(built);
    wait_until("the hook has dropped the pool", || pool.lock().unwrap().is_none());
}

#[test]
fn a_pool_that_breaks_says_so_last() {
    let scene = Scene::new();
    let told = Told::default();
    let builder = scene.builder().worker(pool_core::WorkerExe::path("/bin/false"));
    let pool = builder.on_worker_event(told.hook()).build().unwrap();
    let error = pool.apply(play(1, Part::Innocent)).unwrap_err();
    assert!(matches!(error, TaskError::PoolBroken(_)), "{error}");
    pool.join();
    let names = told.names();
    assert_eq!(names.iter().filter(|name| *name == "Broken").count(), 1, "{names:?}");
    assert!(
        names.iter().any(|name| name == "Died") && !names.iter().any(|name| name == "Ready"),
        "{names:?}"
    );
}
