//! The map family: five calls, lazily pulled inputs, bounded results, options, and ends of every kind.

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use pool_core::{Batch, Elapsed, MapError, OnFailure, Pool, RetryOn, TaskError};
use pool_tests::{
    Answer, Part, Scene, expect_death, expect_healthy, once_there, play, right, running, wait_until,
};
use pool_worker::drill;

use crate::programs::stock;

const MIB: u64 = 1 << 20;
/// What keeps two workers busy: the most items that are held by default.
const WINDOW: u64 = 4 * 2 * 2048;

/// The sums of `n + 1` by each call of the family, brought into order.
fn successors(call: usize, batch: Batch<'_>, items: u64) -> Vec<u64> {
    let next = |n| drill::add(n, 1);
    let mut found = match call {
        0 => batch.map(next, 0..items).unwrap(),
        1 => batch.map_unordered(next, 0..items).unwrap(),
        2 => batch.imap(next, 0..items).map(Result::unwrap).collect(),
        3 => batch.imap_unordered(next, 0..items).map(Result::unwrap).collect(),
        _ => batch.map_settled(next, 0..items).into_iter().map(Result::unwrap).collect::<Vec<_>>(),
    };
    if matches!(call, 1 | 3) {
        found.sort_unstable();
    }
    found
}

#[test]
fn every_call_of_the_family_gives_what_a_loop_would() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    for items in [0, 1, 2, 100, 30_000] {
        let expected: Vec<u64> = (1..=items).collect();
        for call in 0..5 {
            assert_eq!(successors(call, pool.batch(), items), expected, "call {call}");
        }
    }
    let expected: Vec<u64> = (1..=500).collect();
    for call in 0..5 {
        for chunk in [1, 7, 100_000] {
            assert_eq!(successors(call, pool.batch().chunk_size(chunk), 500), expected, "chunks of {chunk}");
        }
        for most in [0, 1, 3, 1_000_000] {
            assert_eq!(successors(call, pool.batch().max_in_flight(most), 500), expected, "{most} at most");
        }
    }
    expect_healthy(&pool);
}

#[test]
fn an_item_that_ends_first_comes_first_where_order_does_not_matter() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let open = dir.path().join("open");
    fs::write(&open, "").unwrap();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let call = |n| once_there(if n == 0 { gate.clone() } else { open.clone() }, n);
    let mut results = pool.imap_unordered(call, 0..20);
    for _ in 1..20 {
        assert_ne!(results.next().unwrap().unwrap(), 0);
    }
    fs::write(&gate, "").unwrap();
    assert_eq!(results.next().unwrap().unwrap(), 0);
    assert_eq!(results.index(), Some(0));
    assert!(results.next().is_none());

    fs::remove_file(&gate).unwrap();
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            // The others do not wait for it.
            let before = pool.stats().succeeded;
            wait_until("all others have ended", || pool.stats().succeeded >= before.min(21) + 18);
            fs::write(&gate, "").unwrap();
        });
        pool.map_unordered(call, 0..20).unwrap()
    });
    assert_eq!(made.last(), Some(&0));
    expect_healthy(&pool);
}

#[test]
fn an_iterator_knows_how_many_are_left() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let mut isolated = pool.batch().on_failure(OnFailure::Isolate).imap(drill::echo_u64, 0..100);
    for left in (0..100).rev() {
        assert_eq!(isolated.size_hint(), (left + 1, Some(left + 1)));
        assert!(isolated.next().unwrap().is_ok());
    }
    assert_eq!(isolated.size_hint(), (0, Some(0)));
    assert!(isolated.next().is_none() && isolated.next().is_none());
    // The first failure may be the last result.
    assert_eq!(pool.imap_unordered(drill::echo_u64, 0..100).size_hint(), (0, Some(100)));
    expect_healthy(&pool);
}

// Bounds

/// Bytes of memory that this process has for itself.
fn private_memory() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<u64> = statm.split_whitespace().map(|pages| pages.parse().unwrap()).collect();
    (pages[1] - pages[2]) * 4096
}

#[test]
fn an_endless_input_and_a_slow_consumer_need_constant_memory_in_order() {
    needs_constant_memory(true);
}

#[test]
fn an_endless_input_and_a_slow_consumer_need_constant_memory_as_completed() {
    needs_constant_memory(false);
}

fn needs_constant_memory(ordered: bool) {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let pulled = Cell::new(0);
    let endless = (0_u64..).inspect(|n| pulled.set(n + 1));
    let call = |n| drill::add(n, 1);
    let mut results: Box<dyn Iterator<Item = Result<u64, TaskError>>> = match ordered {
        true => Box::new(pool.imap(call, endless)),
        false => Box::new(pool.imap_unordered(call, endless)),
    };
    let mut before = 0;
    for n in 0..400_000 {
        let sum = results.next().unwrap().unwrap();
        assert!(!ordered || sum == n + 1);
        assert!(pulled.get() - n <= WINDOW, "{} pulled, {n} taken", pulled.get());
        if n == 100_000 {
            before = private_memory();
        }
    }
    let grown = private_memory().saturating_sub(before);
    assert!(grown < 8 * MIB, "{} KiB for 300,000 items", grown >> 10);
    drop(results);
    wait_until("nothing is left", || pool.stats().pending == 0);
    expect_healthy(&pool);
}

#[test]
fn no_more_is_held_than_was_asked_for() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    for most in [1, 2, 50] {
        let pulled = Cell::new(0);
        let endless = || (0_u64..).inspect(|n| pulled.set(n + 1));
        let results = pool.batch().max_in_flight(most).imap(drill::echo_u64, endless());
        for (n, result) in (0..2000).zip(results) {
            assert_eq!(result.unwrap(), n);
            // This one has been handed out.
            assert!(pulled.get() - n <= most as u64 + 1, "{} pulled, {n} taken", pulled.get());
        }
    }
    expect_healthy(&pool);
}

#[test]
fn results_behind_a_stuck_one_are_bounded_too() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let open = dir.path().join("open");
    fs::write(&open, "").unwrap();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let pulled = Cell::new(0);
    let endless = (0_u64..).inspect(|n| pulled.set(n + 1));
    let call = |n| once_there(if n == 0 { gate.clone() } else { open.clone() }, n);
    let mut results = pool.batch().max_in_flight(50).imap(call, endless);
    wait_until("all others have ended", || {
        assert!(matches!(results.next_timeout(Duration::from_millis(1)), Err(Elapsed { .. })));
        pool.stats().succeeded == 49
    });
    assert!(matches!(results.next_timeout(Duration::from_millis(20)), Err(Elapsed { .. })));
    assert_eq!((pulled.get(), pool.stats().pending), (50, 1));
    fs::write(&gate, "").unwrap();
    for n in 0..1000 {
        assert_eq!(results.next().unwrap().unwrap(), n);
    }
    drop(results);
    expect_healthy(&pool);
}

#[test]
fn large_results_are_held_in_small_numbers() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let pulled = Cell::new(0);
    let endless = std::iter::repeat(4 * MIB).inspect(|_| pulled.set(pulled.get() + 1));
    for (taken, result) in (1..60).zip(pool.imap(drill::make_bytes, endless)) {
        assert_eq!(result.unwrap().len() as u64, 4 * MIB);
        assert!(pulled.get() - taken <= 16, "{} pulled, {taken} taken", pulled.get());
    }
    expect_healthy(&pool);
}

#[test]
fn nothing_is_pulled_before_a_result_is_asked_for() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let pulled = Cell::new(0);
    let items = (0..10_u64).inspect(|_| pulled.set(pulled.get() + 1));
    let mut results = pool.imap(drill::echo_u64, items);
    assert_eq!((pulled.get(), pool.stats().submitted), (0, 0));
    assert_eq!(results.next().unwrap().unwrap(), 0);
    assert!(pulled.get() > 0);
    drop(results);
    expect_healthy(&pool);
}

#[test]
fn a_slow_input_does_not_delay_results() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let taken = Cell::new(0);
    let items = (0..200_u64).inspect(|n| {
        // Slow: everything that was begun has ended by the time that it comes.
        let begun = Instant::now();
        wait_until("the earlier ones have ended", || {
            pool.stats().pending == 0 && begun.elapsed() > Duration::from_millis(1)
        });
        assert!(n - taken.get() <= 10, "{n} are pulled, and {} handed out", taken.get());
    });
    for result in pool.imap(drill::echo_u64, items) {
        result.unwrap();
        taken.set(taken.get() + 1);
    }
    assert_eq!(taken.get(), 200);
    drop(pool);
}

// Ends

#[test]
fn an_iterator_that_is_dropped_cancels_what_it_had_in_flight() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let beside = pool.apply_async(play(7, Part::Sleep(50)));
    for ordered in [true, false] {
        let part = |n| play(n, if n == 5 { Part::Innocent } else { Part::Hang });
        if ordered {
            let mut results = pool.imap(part, 0..);
            assert!(results.next_timeout(Duration::from_millis(20)).is_err());
            wait_until("they run", || running(&pool) == 2);
        } else {
            let mut results = pool.imap_unordered(part, 0..);
            assert!(results.next_timeout(Duration::from_millis(20)).is_err());
            wait_until("they run", || running(&pool) == 2);
        }
        wait_until("nothing is left", || pool.stats().pending == 0);
    }
    assert_eq!(beside.get().unwrap(), right(7));
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), pool.stats().deaths.cancelled);
}

#[test]
fn an_input_that_panics_passes_the_panic_on() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let input = || (0..2000).inspect(|n| assert!(*n != 700, "on purpose"));
    let call = |n| play(n, Part::Sleep(1));
    let run = |mode| match mode {
        0 => drop(pool.map(call, input())),
        1 => drop(pool.map_unordered(call, input())),
        2 => drop(pool.map_settled(call, input())),
        3 => pool.imap(call, input()).for_each(drop),
        4 => pool.imap_unordered(call, input()).for_each(drop),
        5 => drop(pool.map_unordered(|n| call(if n == 300 { panic!("on purpose") } else { n }), 0..400)),
        _ => pool.imap(|n| call(if n == 300 { panic!("on purpose") } else { n }), 0..400).for_each(drop),
    };
    for mode in 0..7 {
        let payload = catch_unwind(AssertUnwindSafe(|| run(mode))).expect_err("it unwinds to the caller");
        assert_eq!(payload.downcast_ref(), Some(&"on purpose"));
        wait_until("what was in flight is gone", || pool.stats().pending == 0);
    }
    // Caught, and asked again.
    let mut results = pool.imap(call, input());
    let mut taken = 0;
    while let Ok(result) = catch_unwind(AssertUnwindSafe(|| results.next())) {
        assert_eq!(result.unwrap().unwrap(), right(taken));
        taken += 1;
    }
    assert!(taken <= 700);
    assert!(results.next().is_none() && results.next().is_none());
    wait_until("what was in flight is gone", || pool.stats().pending == 0);
    expect_healthy(&pool);
}

#[test]
fn isolate_and_abort_in_every_call() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).worker(stock()).build().unwrap();
    let part = |n| if matches!(n, 70 | 150) { Part::Exit(3) } else { Part::Innocent };
    let call = |n| play(n, part(n));
    let aborting = || pool.batch().on_failure(OnFailure::Abort);
    let isolating = || pool.batch().on_failure(OnFailure::Isolate);
    let is_death = |error| expect_death::<()>(Err(error));

    for outcome in [aborting().map(call, 0..200), aborting().map_unordered(call, 0..200)] {
        let MapError { index, error, completed, .. } = outcome.unwrap_err();
        assert_eq!((index, completed), (70, 70));
        is_death(error);
    }
    for outcome in [isolating().map(call, 0..200), isolating().map_unordered(call, 0..200)] {
        let MapError { index, error, completed, .. } = outcome.unwrap_err();
        assert_eq!((index, completed), (70, 198), "all have run");
        is_death(error);
    }

    let (mut ordered, mut unordered) = (pool.imap(call, 0..200), pool.imap_unordered(call, 0..200));
    for n in 0..70 {
        assert_eq!(ordered.next().unwrap().unwrap(), right(n));
    }
    is_death(ordered.next().unwrap().unwrap_err());
    assert_eq!(ordered.index(), Some(70));
    assert!(ordered.next().is_none() && ordered.next().is_none());
    let fine = unordered.by_ref().take_while(Result::is_ok).count();
    assert_eq!((fine, unordered.index()), (70, Some(70)));
    assert!(unordered.next().is_none() && unordered.next().is_none());

    let ordered: Vec<_> = isolating().imap(call, 0..200).collect();
    let settled = pool.map_settled(call, 0..200);
    let mut unordered: Vec<_> = (0..200).map(|_| None).collect();
    let mut results = isolating().imap_unordered(call, 0..200);
    while let Some(result) = results.next() {
        unordered[results.index().unwrap()] = Some(result);
    }
    let mut indexed: Vec<_> = (0..200).map(|_| None).collect();
    for (index, result) in isolating().imap_unordered(call, 0..200).indexed() {
        assert!(indexed[index].replace(result).is_none(), "{index} came twice");
    }
    let indexed = indexed.into_iter().flatten().collect();
    for results in [ordered, settled, unordered.into_iter().flatten().collect(), indexed] {
        assert_eq!(results.len(), 200);
        for (n, result) in (0..).zip(results) {
            match result {
                Ok(answer) => assert_eq!(answer, right(n)),
                Err(error) => assert!(matches!(n, 70 | 150) && is_death(error).pid > 0),
            }
        }
    }

    // Everybody gets an outcome, and the closure is not called for what is of no use any more.
    let calls = Cell::new(0);
    let counted = |n| {
        calls.set(calls.get() + 1);
        call(n)
    };
    let results = aborting().map_settled(counted, 0..100_000);
    assert_eq!(results.len(), 100_000);
    assert!(calls.get() < 50_000, "{}", calls.get());
    for (n, result) in (0..).zip(results) {
        match result {
            Ok(answer) => assert!(n < 70 && answer == right(n)),
            Err(TaskError::Cancelled) => assert!(n > 70, "{n}"),
            Err(error) => assert!(n == 70 && is_death(error).pid > 0),
        }
    }
    expect_healthy(&pool);
}

#[test]
fn arguments_that_cannot_be_sent_are_a_failure_of_their_item() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).frame_limit(64 << 10).build().unwrap();
    let len = |n: u64| if n == 30 { 100 << 10 } else { 10 };
    let call = |n| drill::length(&vec![1; len(n)]);
    let is_encode = |error: &TaskError| matches!(error, TaskError::Encode { .. });
    let error = pool.map_unordered(call, 0..100).unwrap_err();
    assert!(error.index == 30 && is_encode(&error.error), "{error:?}");
    let results: Vec<_> = pool.imap(call, 0..100).collect();
    let (last, fine) = results.split_last().unwrap();
    assert!(fine.len() <= 30 && fine.iter().all(Result::is_ok));
    assert!(last.as_ref().is_err_and(is_encode));
    let isolated = pool.batch().on_failure(OnFailure::Isolate).imap(call, 0..100);
    for (n, result) in (0..).zip(isolated) {
        assert_eq!(result.as_ref().is_err_and(is_encode), n == 30, "{n}: {result:?}");
    }
    expect_healthy(&pool);
}

#[test]
fn when_the_pool_ends_so_does_what_runs_on_it() {
    for isolate in [true, false] {
        let scene = Scene::new();
        let pool = scene.builder().worker(stock()).build().unwrap();
        let policy = if isolate { OnFailure::Isolate } else { OnFailure::Abort };
        let mut results = pool.batch().on_failure(policy).imap(|n| play(n, Part::Hang), 0..);
        assert!(results.next_timeout(Duration::from_millis(20)).is_err());
        drop(pool);
        let rest: Vec<_> = results.by_ref().collect();
        assert!(rest.iter().all(|result| matches!(result, Err(TaskError::PoolClosed))), "{rest:?}");
        assert!(if isolate { rest.len() > 1 } else { rest.len() == 1 }, "{}", rest.len());
        assert!(results.next().is_none());
    }
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    pool.join();
    for error in [pool.map(drill::echo_u64, 0..9), pool.map_unordered(drill::echo_u64, 0..9)] {
        assert!(matches!(error.unwrap_err().error, TaskError::PoolClosed));
    }
    let results: Vec<_> = pool.imap(drill::echo_u64, 0..9).collect();
    assert!(matches!(results[..], [Err(TaskError::PoolClosed)]), "{results:?}");
    let settled = pool.map_settled(drill::echo_u64, 0..100_000);
    assert_eq!(settled.len(), 100_000);
    assert!(settled.iter().all(|result| matches!(result, Err(TaskError::PoolClosed))));
}

// Deadlines

fn is_overdue(error: &TaskError, limit: Duration) -> bool {
    matches!(error, TaskError::DeadlineExceeded { limit: told, .. } if *told == limit)
}

#[test]
fn a_deadline_ends_the_whole_with_nobody_asking() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let limit = Duration::from_millis(150);
    let isolated = || pool.batch().on_failure(OnFailure::Isolate);
    let mut results = isolated().deadline(limit).imap(|n| play(n, Part::Hang), 0..);
    assert!(results.next_timeout(Duration::from_millis(1)).is_err());
    wait_until("all have ended", || pool.stats().pending == 0);
    let ended: Vec<_> = results.collect();
    assert!(ended.len() >= 2);
    assert!(ended.iter().all(|result| is_overdue(result.as_ref().unwrap_err(), limit)), "{ended:?}");

    // The results were there in time, also on a busy machine, and the next ones are not begun.
    let limit = 5 * limit;
    let mut results = pool.batch().deadline(limit).max_in_flight(4).imap_unordered(drill::echo_u64, 0..);
    assert!(results.next().unwrap().is_ok());
    let submitted = pool.stats().submitted;
    let begun = Instant::now();
    wait_until("the deadline has passed", || begun.elapsed() > 2 * limit);
    let last = results.by_ref().find_map(Result::err);
    assert!(is_overdue(&last.unwrap(), limit));
    assert!(results.next().is_none());
    assert_eq!(pool.stats().submitted, submitted);
    expect_healthy(&pool);
}

#[test]
fn a_deadline_holds_in_every_call() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).cancel_grace(Duration::ZERO).build().unwrap();
    for limit in [Duration::from_millis(400), Duration::ZERO] {
        let batch = || pool.batch().deadline(limit);
        let part = |n| play(n, if n < 10 { Part::Innocent } else { Part::Hang });
        let mut before = pool.stats().submitted;
        for error in [batch().map(part, 0..), batch().map_unordered(part, 0..)] {
            let MapError { error, completed, .. } = error.unwrap_err();
            assert!(is_overdue(&error, limit) && completed <= 10, "{error:?}");
        }
        for last in [batch().imap(part, 0..).last(), batch().imap_unordered(part, 0..).last()] {
            assert!(is_overdue(&last.unwrap().unwrap_err(), limit));
        }
        assert_eq!(pool.stats().submitted == before, limit.is_zero(), "what has no time is not begun");
        expect_healthy(&pool);
        before = pool.stats().submitted;
        let settled = batch().map_settled(part, 0..50_000);
        assert_eq!(settled.len(), 50_000);
        for (n, result) in (0..).zip(settled) {
            match result {
                Ok(answer) => assert!(n < 10 && answer == right(n) && !limit.is_zero()),
                Err(error) => assert!((n >= 10 || limit.is_zero()) && is_overdue(&error, limit)),
            }
        }
        assert_eq!(pool.stats().submitted == before, limit.is_zero(), "what has no time is not begun");
    }
    // In time.
    assert_eq!(successors(0, pool.batch().deadline(Duration::from_secs(30)), 100).len(), 100);
    assert_eq!(successors(2, pool.batch().deadline(Duration::MAX), 100).len(), 100);
    expect_healthy(&pool);
    assert_eq!(pool.stats().deaths.total(), pool.stats().deaths.cancelled);
}

#[test]
fn next_timeout_gives_up_and_goes_on() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let pool = scene.builder().worker(stock()).build().unwrap();
    let mut ordered = pool.imap(|n| once_there(gate.clone(), n), 0..10);
    let mut unordered = pool.imap_unordered(|n| once_there(gate.clone(), n), 0..10);
    for wait in [Duration::ZERO, Duration::from_millis(5)] {
        assert!(ordered.next_timeout(wait).is_err());
        assert!(unordered.next_timeout(wait).is_err());
    }
    fs::write(&gate, "").unwrap();
    for n in 0..10 {
        assert_eq!(ordered.next_timeout(Duration::MAX).unwrap().unwrap().unwrap(), n);
    }
    assert!(ordered.next_timeout(Duration::ZERO).unwrap().is_none());
    let mut rest: Vec<_> = unordered.map(Result::unwrap).collect();
    rest.sort_unstable();
    assert_eq!(rest, (0..10).collect::<Vec<_>>());
    expect_healthy(&pool);
}

// Together

#[test]
fn an_iterator_of_an_iterator() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    let squares = pool.imap(|n| drill::add(n, n), 0..5000).map(Result::unwrap);
    let twice = pool.imap(|n| drill::add(n, n), squares).map(Result::unwrap);
    let thrice = pool.map(|n| drill::add(n, n), twice).unwrap();
    assert_eq!(thrice, (0..5000).map(|n| 8 * n).collect::<Vec<_>>());
    expect_healthy(&pool);
}

#[test]
fn a_hundred_batches_at_once() {
    let scene = Scene::new();
    let pool = scene.builder().worker(stock()).build().unwrap();
    // On one thread, which goes round.
    let mut iterators: Vec<_> = (0..50_u64).map(|k| pool.imap(move |n| drill::add(n, k), 0..100)).collect();
    let run_maps = |pool: &Pool| {
        for k in 0..5 {
            let sums = pool.map(|n| drill::add(n, k), 0..500).unwrap();
            assert!((k..).zip(sums).all(|(n, sum)| n == sum));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| run_maps(&pool));
        }
        for n in 0..100 {
            for (k, iterator) in (0..).zip(&mut iterators) {
                assert_eq!(iterator.next().unwrap().unwrap(), n + k);
            }
        }
    });
    assert!(iterators.iter_mut().all(|iterator| iterator.next().is_none()));
    drop(iterators);
    expect_healthy(&pool);
}

#[test]
fn options_that_are_nearest_to_the_call_win() {
    let scene = Scene::new();
    let short = Duration::from_millis(150);
    let pool = scene.builder().worker(stock()).task_timeout(short).build().unwrap();
    let patient = || pool.batch().timeout(Duration::from_secs(30));
    // Of the batch before that of the pool, and of the call before that.
    assert_eq!(patient().map(|n| play(n, Part::Sleep(400)), 0..2).unwrap(), [right(0), right(1)]);
    let error = patient().map(|n| play(n, Part::Hang).timeout(short), 0..2).unwrap_err().error;
    assert!(matches!(error, TaskError::TimedOut { limit, .. } if limit == short));
    let error = pool.map(|n| play(n, Part::Hang), 0..2).unwrap_err().error;
    assert!(matches!(error, TaskError::TimedOut { limit, .. } if limit == short));

    let once = |part: Part| Part::UpToAttempt(1, Box::new(part));
    let results: Vec<Answer> =
        patient().retries(1).imap(|n| play(n, once(Part::Exit(1))), 0..6).map(Result::unwrap).collect();
    assert_eq!(results, (0..6).map(right).collect::<Vec<_>>());
    let error = patient().retries(1).map(|n| play(n, once(Part::Exit(1))).retries(0), 0..6).unwrap_err();
    assert!(matches!(error.error, TaskError::WorkerDied(_)), "{error:?}");
    let panics = |n| play(n, once(Part::Panic("once".to_owned())));
    let batch = || patient().retries(1).retry_on(RetryOn::PANIC);
    assert_eq!(batch().map(panics, 0..3).unwrap().len(), 3);
    let error = batch().map(|n| panics(n).retry_on(RetryOn::DEATH), 0..3).unwrap_err();
    assert!(matches!(error.error, TaskError::Panicked { .. }), "{error:?}");
    expect_healthy(&pool);
}
