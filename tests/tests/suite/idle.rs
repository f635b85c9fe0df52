//! An idle pool uses no processor time: nothing of it wakes up.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pool_core::Builder;
use pool_tests::{Scene, wait_until};
use pool_worker::drill;

use crate::programs::stock;

/// How often a thread has gone to sleep, from its directory in `/proc`.
fn sleeps(task: &Path) -> u64 {
    let status = fs::read_to_string(task.join("status")).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
    count.trim().parse().unwrap()
}

/// The same, for every thread of the pool and of its workers.
pub(crate) fn all_sleeps(pool: &pool_core::Pool) -> Vec<u64> {
    let threads = |dir: String| -> Vec<_> {
        let mut threads: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        threads.sort();
        threads
    };
    let own = threads("/proc/self/task".to_owned()).into_iter().filter(|task| {
        // Threads of other tests may end while they are looked at.
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.starts_with("idle-"))
    });
    let of_workers = pool.workers().into_iter().flat_map(|worker| {
        threads(format!("/proc/{}/task", worker.pid.expect("an idle worker is a process")))
    });
    own.chain(of_workers).map(|task| sleeps(&task)).collect()
}

#[test]
fn nothing_of_an_idle_pool_wakes_up() {
    let scene = Scene::new();
    stays_idle(&scene, scene.builder());
}

#[test]
fn nothing_of_an_idle_pool_with_a_memory_limit_wakes_up() {
    let scene = Scene::new();
    stays_idle(&scene, scene.builder().memory_limit(1 << 30));
}

fn stays_idle(scene: &Scene, builder: Builder) {
    let pool = builder.name("idle").workers(2).worker(stock()).build().unwrap();
    assert_eq!(pool.map(drill::echo_u64, 0..1000).unwrap(), (0..1000).collect::<Vec<_>>());
    pool.apply(drill::echo_u64(1).timeout(Duration::from_secs(3600))).unwrap();
    let mut before = all_sleeps(&pool);
    wait_until("the last wake-ups of the work are over", || {
        // Workers with a limit are looked at for the last time a tenth of a second after their work.
        std::thread::sleep(Duration::from_millis(150));
        let now = all_sleeps(&pool);
        std::mem::replace(&mut before, now.clone()) == now
    });
    // The reactor, and one thread in each worker.
    assert_eq!(before.len(), 1 + 2);
    // Time passing is the subject here: a pool that polls would wake up many times meanwhile.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(all_sleeps(&pool), before);
    drop(pool);
    scene.expect_nothing_left();
}
