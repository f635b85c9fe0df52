//! Results that are stored: what runs and what need not, and who waits for whom. What is left when disks and programs fail is in
//! `store_programs`.

use std::future::{Future, IntoFuture};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use pool_core::{OnFailure, Pool, SharedBytes, Store, StoreKey, TaskError, task};
use pool_tests::{
    Scene, noted, noted_bytes, noted_held, noted_or_not, noted_slowly, noted_to_death, notes, wait_until,
};
use tempfile::TempDir;

use crate::programs::stock;

/// A directory with a store and a log.
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// Its leases hold for so long that whoever waited for the end of one would be noticed.
    pub(crate) fn store(&self) -> Store {
        Store::builder().lease_time(Duration::from_secs(3600)).open(self.path("store")).unwrap()
    }

    /// How many tasks have run.
    pub(crate) fn runs(&self) -> usize {
        notes(&self.log()).values().sum()
    }

    /// A task that runs until the test says so.
    fn held(&self, n: u64) -> pool_core::Call<u64> {
        noted_held(n, self.path(&format!("begun-{n}")), self.path(&format!("end-{n}")), &self.log())
    }

    fn wait_until_begun(&self, n: u64) {
        wait_until("the held task runs", || self.path(&format!("begun-{n}")).exists());
    }

    fn release(&self, n: u64) {
        std::fs::write(self.path(&format!("end-{n}")), []).unwrap();
    }

    /// Names of files that are no entries.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut dirs = vec![self.path("store/v1")];
        while let Some(dir) = dirs.pop() {
            for file in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let name = file.file_name().into_string().unwrap();
                match file.metadata().unwrap().is_dir() {
                    true => dirs.push(file.path()),
                    false if name.contains('.') => left.push(name),
                    false => {}
                }
            }
        }
        left
    }
}

fn pool(scene: &Scene) -> Pool {
    scene.builder().worker(stock()).build().unwrap()
}

#[test]
fn what_one_program_has_computed_another_one_finds_in_every_call_of_the_family() {
    let scene = Scene::new();
    let place = Place::new();
    let log = place.log();
    let expected: Vec<u64> = (0..100).map(|n| 3 * n + 1).collect();
    for call in 0..5 {
        let place = Place::new();
        for (round, hits) in [(0, 0), (1, 100)] {
            let (pool, store) = (pool(&scene), place.store());
            let (batch, run) = (pool.batch().store(&store), |n| noted(n, &log));
            let mut found = match call {
                0 => batch.map(run, 0..100).unwrap(),
                1 => batch.map_unordered(run, 0..100).unwrap(),
                2 => batch.imap(run, 0..100).map(Result::unwrap).collect(),
                3 => batch.imap_unordered(run, 0..100).map(Result::unwrap).collect(),
                _ => batch.map_settled(run, 0..100).into_iter().map(Result::unwrap).collect(),
            };
            if matches!(call, 1 | 3) {
                found.sort_unstable();
            }
            assert_eq!(found, expected, "call {call}, round {round}");
            let stats = store.stats();
            assert_eq!(
                (stats.hits, stats.misses, stats.stored),
                (hits, 100 - hits, 100 - hits),
                "call {call}"
            );
        }
        assert_eq!(place.leftovers(), Vec::<String>::new());
    }
    assert_eq!(place.runs(), 500);
}

#[test]
fn single_calls_find_what_batches_have_stored_and_the_other_way_round() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store, log) = (pool(&scene), place.store(), place.log());
    assert_eq!(pool.apply(noted(1, &log).stored(&store)).unwrap(), 4);
    assert_eq!(pool.apply_async(noted(2, &log).stored(&store)).get().unwrap(), 7);
    assert_eq!(pool.batch().store(&store).map(|n| noted(n, &log), 0..4).unwrap(), [1, 4, 7, 10]);
    assert_eq!(pool.apply(noted(3, &log).stored(&store)).unwrap(), 10);
    let found = pool.apply_async(noted(1, &log).stored(&store));
    assert!(found.is_finished() && found.id() == pool_core::TaskId::new(0));
    // A batch may mix what is stored with what is not.
    let mixed = pool.map(|n| if n % 2 == 0 { noted(n, &log).stored(&store) } else { noted(n, &log) }, 0..4);
    assert_eq!(mixed.unwrap(), [1, 4, 7, 10]);
    assert_eq!(notes(&log).into_values().collect::<Vec<_>>(), [1, 2, 1, 2]);
    // Handles tell in all their ways.
    let handles: Vec<_> = (10..30).map(|n| pool.apply_async(noted(n, &log).stored(&store))).collect();
    let (sender, receiver) = mpsc::channel();
    handles[0].on_complete(move |result| sender.send(result).unwrap());
    assert_eq!(receiver.recv().unwrap().unwrap(), 31);
    let mut ended: Vec<_> = pool_core::as_completed(handles).map(|(_, result)| result.unwrap()).collect();
    ended.sort_unstable();
    assert_eq!(ended, (10..30).map(|n| 3 * n + 1).collect::<Vec<u64>>());
    pool.join();
    assert_eq!(store.stats().stored, 24);
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

/// As [`noted`] would be with another version.
#[task(version = 2)]
fn versioned(n: u64) -> u64 {
    n + 2
}

#[test]
fn a_result_of_another_version_or_of_other_types_is_not_found() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store) = (scene.builder().build().unwrap(), place.store());
    let name = versioned(5).task_name();
    let key = |version, types| StoreKey::of_call(name, version, types, &[5]);
    assert_eq!(versioned(5).store_key(), Some(key(2, "fn(u64) -> u64")));
    for (version, types) in [(1, "fn(u64) -> u64"), (2, "fn(u64) -> u32")] {
        store.put(&key(version, types), &[&[99]]).unwrap();
    }
    assert_eq!(pool.apply(versioned(5).stored(&store)).unwrap(), 7);
    assert_eq!(store.get(&key(2, "fn(u64) -> u64")), Some(vec![7]));
    // What does not decode is no result, and is not in the way.
    store.remove(&key(2, "fn(u64) -> u64")).unwrap();
    store.put(&key(2, "fn(u64) -> u64"), &[&[0xFF; 20]]).unwrap();
    assert_eq!(pool.apply(versioned(5).stored(&store)).unwrap(), 7);
    store.remove(&key(2, "fn(u64) -> u64")).unwrap();
    store.put(&key(2, "fn(u64) -> u64"), &[&[0xFF; 20]]).unwrap();
    assert_eq!(pool.batch().store(&store).map(versioned, [5]).unwrap(), [7]);
    assert_eq!(store.get(&key(2, "fn(u64) -> u64")), Some(vec![7]));
}

#[test]
fn failures_are_not_kept_and_an_err_only_if_it_is_wanted() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store, log) = (pool(&scene), place.store(), place.log());
    for _ in 0..2 {
        let results = pool.batch().store(&store).map_settled(|n| noted_to_death(n, 3, &log), 0..6);
        assert_eq!(
            results.iter().filter(|result| matches!(result, Err(TaskError::WorkerDied(_)))).count(),
            1
        );
        assert!(pool.apply(noted_to_death(3, 3, &log).stored(&store)).is_err());
    }
    assert_eq!(notes(&log).into_values().collect::<Vec<_>>(), [1, 1, 1, 4, 1, 1]);
    assert_eq!(place.leftovers(), Vec::<String>::new(), "no lease is left");
    let keeping = Store::builder().keep_errors(true).open(place.path("keeping")).unwrap();
    let (log, other) = (place.path("second"), place.path("third"));
    for _ in 0..2 {
        let results = pool.batch().store(&store).map(|n| noted_or_not(n, &log), 0..4).unwrap();
        assert_eq!(results[2..], [Ok(2), Err("3 is odd".to_owned())]);
        assert_eq!(pool.batch().store(&keeping).map(|n| noted_or_not(n, &other), 0..4).unwrap(), results);
    }
    assert_eq!(notes(&log).into_values().collect::<Vec<_>>(), [1, 2, 1, 2]);
    assert_eq!(notes(&other).into_values().collect::<Vec<_>>(), [1, 1, 1, 1]);
}

#[test]
fn the_same_call_many_times_in_a_batch_runs_once() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store, log) = (pool(&scene), place.store(), place.log());
    let results = pool.batch().store(&store).map(|n| noted(n % 3, &log), 0..300).unwrap();
    assert!((0..300).zip(&results).all(|(n, result)| *result == n % 3 * 3 + 1));
    assert_eq!(place.runs(), 3);
    let handles: Vec<_> =
        (0..20).map(|_| pool.apply_async(noted_slowly(7, 20, &log).stored(&store))).collect();
    assert!(handles.into_iter().all(|handle| handle.get().unwrap() == noted_bytes(7)));
    assert_eq!(place.runs(), 4);
}

#[task]
fn shared(len: usize) -> Option<SharedBytes> {
    Some(SharedBytes::from(vec![7; len]))
}

#[test]
fn a_batch_may_have_a_journal_as_well() {
    let scene = Scene::new();
    let place = Place::new();
    let (store, log, journal) = (place.store(), place.log(), place.path("journal"));
    let run = |items: u64| {
        let pool = pool(&scene);
        let results =
            pool.batch().journal(&*journal).store(&store).map(|n| noted(n, &log), 0..items).unwrap();
        assert_eq!(results, (0..items).map(|n| 3 * n + 1).collect::<Vec<_>>());
    };
    run(20);
    run(40);
    assert_eq!(
        (place.runs(), store.stats().hits, store.stats().stored),
        (40, 0, 40),
        "the journal comes first"
    );
    std::fs::remove_file(&journal).unwrap();
    run(40);
    assert_eq!((place.runs(), store.stats().hits), (40, 40));
    // What was found is noted, too.
    store.clear().unwrap();
    run(40);
    assert_eq!((place.runs(), store.stats().hits), (40, 40));
}

#[test]
fn large_results_are_found_as_they_were() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store, log) = (scene.builder().build().unwrap(), place.store(), place.log());
    for round in 0..2 {
        for len in [0, 10, 100_000, 5 << 20] {
            let bytes = pool.apply(shared(len).stored(&store)).unwrap().unwrap();
            assert!(bytes.len() == len && bytes.iter().all(|byte| *byte == 7), "{len}, round {round}");
        }
        let all = pool.batch().store(&store).map(|n| noted_slowly(100 * n + 7, 0, &log), 0..8).unwrap();
        assert!((0..8).zip(&all).all(|(n, bytes)| *bytes == noted_bytes(100 * n + 7)));
        assert_eq!(store.stats().stored, 12);
    }
    assert_eq!(place.runs(), 8);
}

#[test]
fn damaged_entries_are_computed_again() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store, log) = (pool(&scene), place.store(), place.log());
    let run = |store: &Store| pool.batch().store(store).map(|n| noted(n, &log), 0..50).unwrap();
    let expected = run(&store);
    let mut damaged = 0;
    for shard in std::fs::read_dir(place.path("store/v1"))
        .unwrap()
        .map(Result::unwrap)
        .filter(|dir| dir.path().is_dir())
    {
        for file in std::fs::read_dir(shard.path()).unwrap() {
            let (path, len) = (file.unwrap().path(), damaged % 82);
            let mut bytes = std::fs::read(&path).unwrap();
            match damaged % 3 {
                0 => bytes.truncate(len),
                1 => bytes[len % 81] ^= 0x10,
                _ => bytes.fill(0),
            }
            std::fs::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 50);
    let again = place.store();
    assert_eq!(run(&again), expected);
    assert_eq!((again.stats().bad_entries, again.stats().stored), (50, 50));
    assert_eq!(place.runs(), 100);
}

#[test]
fn what_somebody_else_computes_holds_up_nothing_else() {
    let scene = Scene::new();
    let place = Place::new();
    let (first, second, log) = (pool(&scene), pool(&scene), place.log());
    let (own, other) = (place.store(), place.store());
    let holder = first.apply_async(place.held(0).stored(&own));
    place.wait_until_begun(0);
    let waiting = second.apply_async(place.held(0).stored(&other));
    let mut results = second
        .batch()
        .store(&other)
        .imap_unordered(|n| if n == 0 { place.held(0) } else { noted(n, &log) }, 0..200);
    let before: Vec<_> = results.by_ref().take(199).map(Result::unwrap).collect();
    assert!(!before.contains(&1) && !waiting.is_finished() && !holder.is_finished());
    place.release(0);
    assert_eq!(results.next().unwrap().unwrap(), 1);
    assert!(results.next().is_none());
    assert_eq!((holder.get().unwrap(), waiting.get().unwrap()), (1, 1));
    assert_eq!((notes(&log)[&0], other.stats().waited), (1, 2));
}

#[test]
fn a_call_that_waits_can_be_cancelled_and_ends_with_its_pool_or_its_deadline() {
    let scene = Scene::new();
    let place = Place::new();
    let (first, second, store) = (pool(&scene), pool(&scene), place.store());
    let holder = first.apply_async(place.held(0).stored(&store));
    place.wait_until_begun(0);
    let cancelled = second.apply_async(place.held(0).stored(&store));
    let dropped = second.apply_async(place.held(0).stored(&store)).cancel_on_drop();
    let left = second.apply_async(place.held(0).stored(&store));
    assert!(!cancelled.wait_timeout(Duration::from_millis(50)));
    cancelled.cancel();
    assert!(matches!(cancelled.get(), Err(TaskError::Cancelled)));
    drop(dropped);
    let batch = || second.batch().store(&store).deadline(Duration::from_millis(100));
    let failed = batch().map(|n| place.held(n), [0]).unwrap_err();
    assert!(matches!(failed.error, TaskError::DeadlineExceeded { .. }), "{failed}");
    let settled = batch().map_settled(|n| place.held(n), [0, 0]);
    assert!(
        settled.iter().all(|result| matches!(result, Err(TaskError::DeadlineExceeded { .. }))),
        "{settled:?}"
    );
    // A task that is cancelled while it runs leaves its lease.
    let running = second.apply_async(place.held(1).stored(&store));
    place.wait_until_begun(1);
    running.cancel();
    assert!(matches!(running.get(), Err(TaskError::Cancelled)));
    let waits = std::thread::scope(|scope| {
        let waits = scope.spawn(|| second.batch().store(&store).map(|n| place.held(n), [0]));
        wait_until("the batch waits", || store.stats().waited >= 6);
        second.terminate();
        waits.join().unwrap()
    });
    assert!(matches!(waits.unwrap_err().error, TaskError::PoolClosed));
    assert!(matches!(left.get(), Err(TaskError::PoolClosed)));
    place.release(0);
    assert_eq!(holder.get().unwrap(), 1);
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

/// Waits until a lease in this directory has been renewed so often.
fn wait_for_renewals(dir: &Path, times: usize) {
    let lease = || {
        let shards =
            std::fs::read_dir(dir.join("v1")).unwrap().map(Result::unwrap).filter(|dir| dir.path().is_dir());
        let files = shards.flat_map(|shard| std::fs::read_dir(shard.path()).unwrap()).map(Result::unwrap);
        let lease =
            files.map(|file| file.path()).find(|path| path.extension().is_some_and(|end| end == "lease"))?;
        lease.metadata().and_then(|meta| meta.modified()).ok()
    };
    let mut seen = std::collections::BTreeSet::new();
    wait_until("the lease is renewed", || {
        seen.extend(lease());
        seen.len() > times
    });
}

#[test]
fn a_task_may_take_longer_than_its_lease_holds() {
    let scene = Scene::new();
    let place = Place::new();
    let (first, second) = (pool(&scene), pool(&scene));
    let open = || Store::builder().lease_time(Duration::from_millis(600)).open(place.path("store")).unwrap();
    let (own, other) = (open(), open());
    // Renewed three times while it holds: six renewals are two leases.
    let holder = first.apply_async(place.held(0).stored(&own));
    place.wait_until_begun(0);
    let waiting = second.apply_async(place.held(0).stored(&other));
    wait_for_renewals(&place.path("store"), 6);
    place.release(0);
    assert_eq!((holder.get().unwrap(), waiting.get().unwrap()), (1, 1));
    let results = std::thread::scope(|scope| {
        let map = scope.spawn(|| first.batch().store(&own).map(|n| place.held(n), [1]).unwrap());
        place.wait_until_begun(1);
        let waiting = second.apply_async(place.held(1).stored(&other));
        wait_for_renewals(&place.path("store"), 6);
        place.release(1);
        (map.join().unwrap(), waiting.get().unwrap())
    });
    assert_eq!(results, (vec![4], 4));
    assert_eq!((place.runs(), other.stats().taken_over), (2, 0));
}

#[test]
fn an_iterator_that_nobody_asks_holds_up_no_other_of_the_same_thread() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store, log) = (pool(&scene), place.store(), place.log());
    let mut parked = pool.batch().store(&store).imap(|n| noted(n, &log), 0..100);
    assert_eq!(parked.next().unwrap().unwrap(), 1);
    assert_eq!(pool.batch().store(&store).map(|n| noted(n, &log), 0..100).unwrap().len(), 100);
    assert_eq!(pool.apply(noted(99, &log).stored(&store)).unwrap(), 298);
    assert_eq!(parked.map(Result::unwrap).last(), Some(298));
}

#[test]
fn a_batch_that_fails_has_stored_what_was_done() {
    let scene = Scene::new();
    let place = Place::new();
    let (pool, store, log) = (pool(&scene), place.store(), place.log());
    let batch = pool.batch().store(&store).max_in_flight(4).on_failure(OnFailure::Abort);
    let failed = batch.map(|n| noted_to_death(n, 50, &log), 0..100).unwrap_err();
    assert_eq!(failed.index, 50);
    assert!(
        store.stats().stored >= failed.completed as u64 && failed.completed >= 46,
        "{failed} {:?}",
        store.stats()
    );
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn a_bounded_queue_has_its_places_back() {
    let scene = Scene::new();
    let place = Place::new();
    let pool = scene.builder().worker(stock()).workers(1).queue_limit(1).build().unwrap();
    let (store, log) = (place.store(), place.log());
    let holder = pool.apply_async(place.held(0).stored(&store));
    place.wait_until_begun(0);
    let waiting = pool.apply_async(place.held(0).stored(&store));
    assert!(pool.try_apply_async(noted(1, &log)).is_err(), "who waits for a result has a place");
    waiting.cancel();
    assert!(matches!(waiting.get(), Err(TaskError::Cancelled)));
    let waiting = pool.try_apply_async(place.held(0).stored(&store)).expect("its place is free");
    place.release(0);
    assert_eq!((holder.get().unwrap(), waiting.get().unwrap()), (1, 1));
    for round in 0..3 {
        for n in 0..5 {
            assert_eq!(pool.apply(noted(n, &log).stored(&store)).unwrap(), 3 * n + 1, "round {round}");
        }
    }
    assert_eq!(place.runs(), 6);
}

/// Ends its pool when it is woken, wherever that is.
struct EndsThePool(Mutex<Option<Pool>>, mpsc::Sender<Duration>);

impl Wake for EndsThePool {
    fn wake(self: Arc<Self>) {
        let pool = self.0.lock().unwrap().take();
        if let Some(pool) = pool {
            let begun = Instant::now();
            drop(pool);
            let _ = self.1.send(begun.elapsed());
        }
    }
}

#[test]
fn a_waker_that_is_told_of_a_stored_result_may_end_the_pool() {
    let scene = Scene::new();
    let place = Place::new();
    let pool = pool(&scene);
    let handle = pool.apply_async(place.held(1).stored(&place.store()));
    place.wait_until_begun(1);
    let (ended, has_ended) = mpsc::channel();
    let waker = Waker::from(Arc::new(EndsThePool(Mutex::new(Some(pool)), ended)));
    let mut result = Box::pin(handle.into_future());
    assert!(result.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    place.release(1);
    let took = has_ended.recv_timeout(Duration::from_secs(60)).expect("the result is told");
    assert!(
        took < Duration::from_secs(9),
        "it has waited for itself, until its patience of 10 s was at its end"
    );
    assert!(result.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
}
