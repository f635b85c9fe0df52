//! Faults of the pool itself: a panic in its own thread ends every task with `PoolBroken`, and every worker.

use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::faults::{Place, arm, armed};
use pool_core::{BrokenReason, TaskError};
use pool_tests::{Part, Scene, expect_healthy, is_signal, play, process, wait_until};

use crate::programs::stock;

/// Long enough for everything that does not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether it says that the pool itself is at fault.
fn is_fault(error: &TaskError) -> bool {
    matches!(error, TaskError::PoolBroken(reason) if matches!(&**reason, BrokenReason::Internal(_)))
}

/// No other test is to find what one has left that failed.
struct Disarm;

impl Drop for Disarm {
    fn drop(&mut self) {
        [Place::Turn, Place::Launch, Place::Locked, Place::Action].iter().for_each(|place| arm(*place, 0));
    }
}

/// Panics as often as it says, while tasks run, wait, are waited for, and are to be called back.
fn panics(place: Place, times: u32, ends_by_drop: bool) {
    let case = format!("{place:?}, {times} times");
    let (scene, _disarm) = (Scene::new(), Disarm);
    let pool = scene.builder().worker(stock()).build().unwrap();
    expect_healthy(&pool);
    let pids: Vec<u32> = pool.workers().iter().filter_map(|worker| worker.pid).collect();
    let handles: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Hang))).collect();
    let (tell, told) = channel();
    handles[49].on_complete(move |result| tell.send(result.err()).unwrap());
    wait_until("both are busy", || pool.workers().iter().all(|worker| worker.task.is_some()));
    std::thread::scope(|scope| {
        let map = scope.spawn(|| pool.map_settled(|n| play(n, Part::Hang), 0..20));
        let waiting = scope.spawn(|| handles[48].wait_timeout(PATIENCE));
        wait_until("the map is in flight", || pool.stats().pending == 70);
        arm(place, times);
        // Something for the thread to do: a death, and a launch.
        process::send(pids[0], Signal::SIGKILL);
        assert!(waiting.join().unwrap(), "{case}: it is waited for in vain");
        let outcomes = map.join().unwrap();
        assert_eq!(outcomes.len(), 20, "{case}");
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(is_fault)), "{case}: {outcomes:?}");
    });
    let called = told.recv_timeout(PATIENCE).expect("it is called back");
    assert!(called.as_ref().is_some_and(is_fault), "{case}: {called:?}");
    for handle in handles {
        match handle.get() {
            // The one that was killed, if it was settled before.
            Err(TaskError::WorkerDied(death)) => {
                assert!(is_signal(&death.cause, libc::SIGKILL) && death.pid == pids[0], "{case}: {death}");
            }
            outcome => assert!(outcome.as_ref().is_err_and(is_fault), "{case}: {outcome:?}"),
        }
    }
    assert!(pool.apply(play(1, Part::Innocent)).is_err_and(|error| is_fault(&error)), "{case}");
    assert_eq!(pool.stats().pending, 0, "{case}");
    wait_until("the workers are gone", || pids.iter().all(|pid| !process::is_alive(*pid)));
    if !ends_by_drop {
        pool.join();
    }
    drop(pool);
    assert!(times > 100 || armed(place) < times, "{case}: it has panicked");
    arm(place, 0);
    scene.expect_nothing_left();
}

#[test]
fn a_panic_in_the_reactor_ends_every_handle_and_every_worker() {
    for place in [Place::Turn, Place::Launch, Place::Locked] {
        for ends_by_drop in [false, true] {
            panics(place, 1, ends_by_drop);
        }
    }
}

#[test]
fn a_reactor_that_panics_again_and_again_ends_and_leaves_nothing() {
    for place in [Place::Turn, Place::Locked] {
        for (times, ends_by_drop) in [(2, false), (3, true), (u32::MAX, false), (u32::MAX, true)] {
            panics(place, times, ends_by_drop);
        }
    }
}

/// What was wanted besides the action that panics is still done.
#[test]
fn a_panic_in_the_midst_of_several_actions_loses_none_of_the_others() {
    let (scene, _disarm) = (Scene::new(), Disarm);
    let pool = scene.builder().worker(stock()).build().unwrap();
    expect_healthy(&pool);
    let mut handles: Vec<_> = (0..50).map(|n| pool.apply_async(play(n, Part::Hang))).collect();
    wait_until("both are busy", || pool.workers().iter().all(|worker| worker.task.is_some()));
    // What lies behind these is taken back when others come; after that there is nothing to be done until one dies.
    wait_until("nothing lies behind", || {
        handles.push(pool.apply_async(play(0, Part::Hang)));
        pool.workers().iter().all(|worker| worker.held == 1)
    });
    let (all, pid) = (handles.len(), pool.workers()[0].pid.expect("it is busy"));
    // The first action after a death is the launch of another worker; nobody waits, so it is the pool's thread that acts.
    arm(Place::Action, 1);
    process::send(pid, Signal::SIGKILL);
    wait_until("it has panicked", || armed(Place::Action) == 0);
    let (mut died, mut at_fault) = (0, 0);
    for handle in handles {
        assert!(handle.wait_timeout(PATIENCE), "it is waited for in vain");
        match handle.get() {
            Err(TaskError::WorkerDied(death)) if death.pid == pid => died += 1,
            outcome => {
                assert!(outcome.as_ref().is_err_and(is_fault), "{outcome:?}");
                at_fault += 1;
            }
        }
    }
    assert_eq!((died, at_fault), (1, all - 1));
    pool.join();
    assert_eq!(pool.stats().pending, 0);
}

#[test]
fn a_pool_whose_reactor_panics_while_it_is_built_breaks() {
    for place in [Place::Turn, Place::Launch] {
        let (scene, _disarm) = (Scene::new(), Disarm);
        arm(place, 1);
        let pool = scene.builder().worker(stock()).build().unwrap();
        let outcome = pool.apply(play(1, Part::Innocent));
        assert!(outcome.as_ref().is_err_and(is_fault), "{place:?}: {outcome:?}");
        assert_eq!(armed(place), 0);
        pool.join();
    }
}
