use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

use super::files::Found;
use super::*;

/// No wait takes longer.
const LIMIT: Duration = Duration::from_secs(60);

fn scene() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn key(n: u64) -> StoreKey {
    StoreKey::of_call("task", 0, "fn()", &n.to_le_bytes())
}

fn path(store: &Store, key: &StoreKey) -> PathBuf {
    store.inner.files.entry(key)
}

/// Makes it look as if it had not been touched for so long.
fn age(path: &Path, by: Duration) {
    File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - by).unwrap();
}

/// Every file of the store, but the one that says when it was swept.
fn names(store: &Store) -> BTreeSet<String> {
    let mut dirs = store.inner.files.shards().unwrap();
    dirs.push(store.inner.files.root().to_owned());
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap()).map(|file| file.unwrap());
    let files = files.filter(|file| file.metadata().unwrap().is_file());
    files.map(|file| file.file_name().into_string().unwrap()).filter(|name| name != "swept").collect()
}

/// Looks again until it is no longer busy.
fn wait(store: &Store, mut waiting: Box<Waiting>) -> Claim {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < LIMIT, "it stayed busy");
        thread::sleep(waiting.due().saturating_duration_since(Instant::now()));
        match store.look_again(waiting) {
            Claim::Busy(again) => waiting = again,
            claim => return claim,
        }
    }
}

#[test]
fn what_was_put_is_found_by_others_and_later() {
    let (dir, store) = scene();
    assert_eq!(store.get(&key(1)), None);
    assert!(store.put(&key(1), &[b"one", b"", b"part"]).unwrap());
    assert!(!store.put(&key(1), &[b"another"]).unwrap(), "the first one stays");
    let other = Store::open(dir.path()).unwrap();
    assert_eq!(other.get(&key(1)).as_deref(), Some(&b"onepart"[..]));
    assert_eq!(other.get(&key(2)), None);
    let stats = store.stats();
    assert_eq!((stats.misses, stats.stored, stats.stored_by_others, stats.bytes_written), (1, 1, 1, 7));
    assert_eq!((other.stats().hits, other.stats().misses, other.stats().bytes_read), (1, 1, 7));
    assert!(store.remove(&key(1)).unwrap() && !store.remove(&key(1)).unwrap());
    assert_eq!(other.get(&key(1)), None);
    (0..20).for_each(|n| assert!(store.put(&key(n), &[b"x"]).unwrap()));
    store.clear().unwrap();
    assert_eq!(names(&store), BTreeSet::new());
}

#[test]
fn of_many_that_publish_at_once_one_wins_and_readers_see_that_one() {
    let (dir, _) = scene();
    let (writers, rounds) = (8, 20);
    let barrier = Barrier::new(writers);
    let won = Mutex::new(vec![Vec::new(); rounds]);
    thread::scope(|scope| {
        for writer in 0..writers {
            let (barrier, won, dir) = (&barrier, &won, dir.path());
            scope.spawn(move || {
                let store = Store::builder().sync(false).open(dir).unwrap();
                let body = vec![writer as u8; 10_000];
                for round in 0..rounds {
                    barrier.wait();
                    if store.put(&key(round as u64), &[&body]).unwrap() {
                        won.lock().unwrap()[round].push(writer as u8);
                    }
                    let found = store.get(&key(round as u64)).expect("somebody has published");
                    assert!(found.len() == 10_000 && found.iter().all(|byte| *byte == found[0]), "a mixture");
                }
            });
        }
    });
    let store = Store::open(dir.path()).unwrap();
    for (round, winners) in won.into_inner().unwrap().into_iter().enumerate() {
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(store.get(&key(round as u64)).unwrap()[0], winners[0]);
    }
    assert!(names(&store).iter().all(|name| Found::of(name) == Some(Found::Entry)), "{:?}", names(&store));
}

#[test]
fn a_damaged_entry_is_absent_and_gone_and_a_good_one_can_take_its_place() {
    let (_dir, store) = scene();
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("cut", |path| File::options().write(true).open(path).unwrap().set_len(40).unwrap()),
        ("emptied", |path| File::options().write(true).open(path).unwrap().set_len(0).unwrap()),
        ("changed", |path| {
            let mut bytes = fs::read(path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("lengthened", |path| File::options().write(true).open(path).unwrap().set_len(1 << 30).unwrap()),
        ("exchanged", |path| fs::write(path, entry_of_body(b"body", &key(99))).unwrap()),
        ("a FIFO", |path| {
            fs::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
    ];
    for ((name, damage), n) in damages.into_iter().zip(0..) {
        let path = path(&store, &key(n));
        store.put(&key(n), &[b"body"]).unwrap();
        damage(&path);
        assert_eq!(store.get(&key(n)), None, "{name}");
        assert!(path.symlink_metadata().is_err(), "{name}: it is left");
        assert!(store.put(&key(n), &[b"body"]).unwrap());
        damage(&path);
        assert!(store.put(&key(n), &[b"better"]).unwrap(), "{name}: it is in the way");
        assert_eq!(store.get(&key(n)).as_deref(), Some(&b"better"[..]), "{name}");
    }
    assert_eq!(store.stats().bad_entries, 6);
    assert!(names(&store).iter().all(|name| Found::of(name) == Some(Found::Entry)), "{:?}", names(&store));
}

#[test]
fn what_cannot_be_read_for_another_reason_is_absent_and_left() {
    let (_dir, store) = scene();
    let path = path(&store, &key(1));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert_eq!(store.get(&key(1)), None);
    assert_eq!((store.stats().read_errors, store.stats().bad_entries), (1, 0));
    assert!(store.put(&key(1), &[b"body"]).unwrap(), "a link is no entry");
    assert_eq!(store.get(&key(1)).as_deref(), Some(&b"body"[..]));
}

#[test]
fn a_good_entry_that_was_published_in_place_of_a_bad_one_is_not_removed() {
    let (_dir, store) = scene();
    store.put(&key(1), &[b"good"]).unwrap();
    let path = path(&store, &key(1));
    // As if the bad one had been seen before.
    store.inner.remove_bad(&key(1), &path);
    assert_eq!(store.get(&key(1)).as_deref(), Some(&b"good"[..]));
    // A newer one has come while it was away.
    let aside = fs::read(&path).unwrap();
    let removed = files::remove_if(&path, |_| {
        fs::write(&path, &aside).unwrap();
        false
    });
    assert!(!removed.unwrap());
    assert_eq!(store.get(&key(1)).as_deref(), Some(&b"good"[..]));
    assert_eq!(names(&store).len(), 1, "{:?}", names(&store));
}

#[test]
fn what_is_removed_while_it_is_read_can_be_read_to_its_end() {
    let (dir, store) = scene();
    let body = vec![7; 1 << 20];
    store.put(&key(1), &[&body]).unwrap();
    let mut open = files::open(&path(&store, &key(1))).unwrap();
    let mut first = [0; entry::HEADER];
    open.read_exact(&mut first).unwrap();
    let small = Store::builder().max_bytes(10).open(dir.path()).unwrap();
    let swept = small.sweep().unwrap();
    assert_eq!((swept.evicted, swept.entries, swept.bytes), (1, 0, 0));
    assert_eq!(small.stats().bytes_evicted, (entry::HEADER + body.len()) as u64);
    let rest = entry::read(&mut (&first[..]).chain(open), &key(1), (entry::HEADER + body.len()) as u64);
    assert!(rest.unwrap() == body);
    assert_eq!(store.get(&key(1)), None);
}

#[test]
fn what_was_not_used_for_longest_goes_first_until_there_is_room() {
    let (dir, _) = scene();
    let size = (entry::HEADER + 20) as u64;
    let store = Store::builder().max_bytes(100 * size).open(dir.path()).unwrap();
    for n in 0..100 {
        store.put(&key(n), &[&[1; 20]]).unwrap();
        age(&path(&store, &key(n)), Duration::from_secs(1000 + n));
    }
    assert_eq!(store.sweep().unwrap(), Swept { entries: 100, bytes: 100 * size, ..Swept::default() });
    // The oldest ones are used, so that they are old no longer.
    (95..100).for_each(|n| assert!(store.get(&key(n)).is_some()));
    store.put(&key(100), &[&[1; 20]]).unwrap();
    let swept = store.sweep().unwrap();
    assert_eq!((swept.entries, swept.evicted, swept.bytes), (90, 11, 90 * size));
    assert_eq!(store.stats().evictions, 11);
    let left: Vec<u64> = (0..=100).filter(|n| path(&store, &key(*n)).exists()).collect();
    assert!(left.iter().filter(|n| **n >= 95).count() == 6, "{left:?}");
    // Steps of age are not finer than a fiftieth.
    assert!((0..60).all(|n| left.contains(&n)), "{left:?}");
}

#[test]
fn publishing_sweeps_when_a_tenth_of_the_limit_was_written() {
    let (dir, _) = scene();
    let store = Store::builder().max_bytes(100_000).sync(false).open(dir.path()).unwrap();
    for n in 0..200 {
        store.put(&key(n), &[&[1; 5000]]).unwrap();
        age(&path(&store, &key(n)), Duration::from_secs(10_000 - 10 * n));
    }
    let swept = store.sweep().unwrap();
    assert!(swept.bytes <= 100_000 && store.stats().evictions >= 180, "{swept:?} {:?}", store.stats());
    assert!(store.get(&key(199)).is_some());
}

#[test]
fn what_nobody_has_used_for_long_and_what_the_dead_have_left_is_swept() {
    let (dir, _) = scene();
    let options = Store::builder().max_age(Duration::from_secs(100)).stale_age(Duration::from_secs(50));
    let store = options.open(dir.path()).unwrap();
    for n in 0..3 {
        store.put(&key(n), &[b"x"]).unwrap();
    }
    age(&path(&store, &key(1)), Duration::from_secs(101));
    age(&path(&store, &key(2)), Duration::from_secs(99));
    let shard = store.inner.files.shard(&key(0));
    let leftover = |dir: &Path, ago| {
        let (_, path) = files::temporary(dir).unwrap().keep().unwrap();
        age(&path, Duration::from_secs(ago));
        path
    };
    let left = [leftover(&shard, 51), leftover(store.inner.files.root(), 51)];
    let fresh = leftover(&shard, 49);
    let lease = store.inner.files.lease(&key(0));
    fs::write(&lease, "somebody's").unwrap();
    age(&lease, Duration::from_secs(51));
    let Claim::Held(held) = store.claim(&key(7), 0) else { panic!() };
    let foreign = shard.join("README");
    fs::write(&foreign, "not ours").unwrap();
    age(&foreign, Duration::from_secs(10_000));
    let swept = store.sweep().unwrap();
    assert_eq!((swept.evicted, swept.stale, swept.entries), (1, 3, 2));
    assert!(left.iter().all(|path| !path.exists()) && !lease.exists());
    assert!(fresh.exists() && foreign.exists() && held.renew());
    assert!(store.get(&key(1)).is_none() && store.get(&key(2)).is_some());
}

#[test]
fn a_loser_waits_for_the_winner() {
    let (dir, store) = scene();
    let Claim::Held(lease) = store.claim(&key(1), 0) else { panic!() };
    let other = Store::open(dir.path()).unwrap();
    let Claim::Busy(waiting) = other.claim(&key(1), 0) else { panic!() };
    let Claim::Busy(waiting) = other.look_again(waiting) else { panic!() };
    assert!(lease.renew());
    store.put(&key(1), &[b"won"]).unwrap();
    drop(lease);
    assert!(matches!(wait(&other, waiting), Claim::Found(found) if found == b"won"));
    assert_eq!((other.stats().waited, other.stats().misses, other.stats().hits), (1, 0, 1));
    assert_eq!(names(&store).len(), 1);
}

#[test]
fn a_loser_computes_when_the_winner_has_given_up() {
    let (dir, store) = scene();
    let Claim::Held(lease) = store.claim(&key(1), 0) else { panic!() };
    let other = Store::open(dir.path()).unwrap();
    let Claim::Busy(waiting) = other.claim(&key(1), 0) else { panic!() };
    drop(lease);
    assert!(matches!(wait(&other, waiting), Claim::Held(_)));
    assert_eq!((other.stats().waited, other.stats().misses, other.stats().taken_over), (1, 1, 0));
    assert_eq!(names(&store).len(), 0);
}

#[test]
fn a_lease_that_is_not_renewed_is_taken_over_and_its_owner_learns_of_it() {
    let (dir, _) = scene();
    let open = || Store::builder().lease_time(Duration::from_millis(50)).open(dir.path()).unwrap();
    let (store, other) = (open(), open());
    let Claim::Held(slow) = store.claim(&key(1), 0) else { panic!() };
    let Claim::Busy(waiting) = other.claim(&key(1), 0) else { panic!() };
    let Claim::Held(quick) = wait(&other, waiting) else { panic!() };
    assert_eq!(other.stats().taken_over, 1);
    assert!(!slow.renew() && quick.renew());
    drop(slow);
    assert!(quick.renew(), "whoever has lost it removes it from nobody");
    drop(quick);
    assert_eq!(names(&store).len(), 0);
}

#[test]
fn only_what_was_seen_is_taken_over() {
    let (_dir, store) = scene();
    let Claim::Held(first) = store.claim(&key(1), 0) else { panic!() };
    let Claim::Busy(waiting) = store.claim(&key(1), 0) else { panic!() };
    drop(first);
    // Somebody quicker has taken it over in between.
    let Claim::Held(second) = store.claim(&key(1), 0) else { panic!() };
    store.inner.take_over(&waiting).unwrap();
    assert!(second.renew() && store.stats().taken_over == 0);
    assert!(matches!(store.look_again(waiting), Claim::Busy(_)));
    assert_eq!(names(&store).len(), 1, "{:?}", names(&store));
}

#[test]
fn many_want_a_stale_lease_and_few_get_it() {
    let (dir, _) = scene();
    let (threads, rounds) = (6, 10);
    let barrier = Barrier::new(threads);
    let computed = Mutex::new(vec![0; rounds]);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (barrier, computed, dir) = (&barrier, &computed, dir.path());
            scope.spawn(move || {
                let store = Store::builder().sync(false).open(dir).unwrap();
                for round in 0..rounds {
                    let key = key(round as u64);
                    let lease = store.inner.files.lease(&key);
                    if barrier.wait().is_leader() {
                        fs::create_dir_all(lease.parent().unwrap()).unwrap();
                        fs::write(&lease, "the dead one's").unwrap();
                        age(&lease, Duration::from_secs(100));
                    }
                    barrier.wait();
                    let claim = match store.claim(&key, 0) {
                        Claim::Busy(waiting) => wait(&store, waiting),
                        claim => claim,
                    };
                    match claim {
                        Claim::Found(body) => assert_eq!(body, b"body"),
                        _lease => {
                            computed.lock().unwrap()[round] += 1;
                            let _ = store.put(&key, &[b"body"]).unwrap();
                        }
                    }
                }
            });
        }
    });
    let computed = computed.into_inner().unwrap();
    assert!(computed.iter().all(|times| *times >= 1), "{computed:?}");
    assert!(computed.iter().sum::<i32>() <= 2 * rounds as i32, "hardly anybody computes twice: {computed:?}");
}

#[test]
fn nobody_waits_for_what_the_same_thread_would_have_to_do_first() {
    let (_dir, store) = scene();
    let Claim::Held(_lease) = store.claim(&key(1), 7) else { panic!() };
    assert!(matches!(store.claim(&key(1), 7), Claim::Busy(_)), "the same owner goes on by itself");
    assert!(matches!(store.claim(&key(1), 8), Claim::Alone));
    assert!(matches!(store.claim(&key(1), 0), Claim::Alone));
    thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(store.claim(&key(1), 8), Claim::Busy(_)), "another thread is free"));
    });
}

#[test]
fn who_waits_too_long_computes() {
    let (dir, store) = scene();
    let Claim::Held(_lease) = store.claim(&key(1), 0) else { panic!() };
    let other = Store::builder().max_wait(Duration::ZERO).open(dir.path()).unwrap();
    let Claim::Busy(waiting) = other.claim(&key(1), 0) else { panic!() };
    assert!(matches!(other.look_again(waiting), Claim::Alone));
    let alone = Store::builder().single_flight(false).open(dir.path()).unwrap();
    assert!(matches!(alone.claim(&key(1), 0), Claim::Alone));
    assert_eq!((alone.stats().waited, alone.stats().misses), (0, 1));
}

#[test]
fn names_are_told_apart() {
    let name = key(1).to_string();
    assert_eq!(Found::of(&name[2..]), Some(Found::Entry));
    assert_eq!(Found::of(&format!("{}.lease", &name[2..])), Some(Found::Lease));
    assert_eq!(Found::of(".tmp-abc"), Some(Found::Temporary));
    for other in ["", "swept", ".nfs0001", &name, &name[2..].to_uppercase(), "x.lease", ".lease"] {
        assert_eq!(Found::of(other), None, "{other}");
    }
}

#[test]
fn a_store_that_cannot_be_made_says_where() {
    let (dir, _) = scene();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(file.join("store")).unwrap_err();
    assert!(error.to_string().contains("file/store") && error.what == "make", "{error}");
}

#[test]
fn what_cannot_be_removed_is_no_stored_result() {
    let (_dir, store) = scene();
    fs::create_dir_all(path(&store, &key(1))).unwrap();
    let refused = store.put(&key(1), &[b"x"]).unwrap_err();
    assert!(refused.to_string().contains("cannot be removed"), "{refused}");
    assert_eq!((store.stats().write_errors, store.stats().stored_by_others), (1, 0));
    assert_eq!(names(&store), BTreeSet::new(), "no temporary is left");
}

#[test]
fn sweeping_follows_no_link_and_waits_for_no_pipe() {
    let (dir, store) = scene();
    let (precious, swept) = (dir.path().join("precious"), store.inner.files.swept());
    fs::write(&precious, "contents").unwrap();
    let _ = fs::remove_file(&swept);
    std::os::unix::fs::symlink(&precious, &swept).unwrap();
    store.sweep().unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "contents");
    fs::remove_file(&swept).unwrap();
    nix::unistd::mkfifo(&swept, nix::sys::stat::Mode::S_IRWXU).unwrap();
    store.sweep().unwrap();
    fs::remove_file(&swept).unwrap();
    store.sweep().unwrap();
    assert!(swept.symlink_metadata().unwrap().is_file());
}

#[test]
fn a_store_can_be_shared_by_threads_and_is_equal_to_its_clones() {
    fn is_shared<T: Clone + Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe>(_: &T) {}
    let (dir, store) = scene();
    is_shared(&store);
    assert!(store == store.clone() && store != Store::open(dir.path()).unwrap());
    assert_eq!(store.dir(), dir.path());
}

#[test]
fn whoever_waits_looks_soon_again_when_another_one_computes_it() {
    let (_dir, store) = scene();
    let Claim::Held(lease) = store.claim(&key(1), 0) else { panic!() };
    let Claim::Busy(mut waiting) = store.claim(&key(1), 0) else { panic!() };
    for _ in 0..10 {
        let Claim::Busy(again) = store.look_again(waiting) else { panic!() };
        waiting = again;
    }
    let grown = waiting.delay;
    drop(lease);
    // It has failed, and somebody else was quicker.
    let Claim::Held(_lease) = store.claim(&key(1), 0) else { panic!() };
    let Claim::Busy(waiting) = store.look_again(waiting) else { panic!() };
    assert!(waiting.delay < grown / 4, "{:?} and then {:?}", grown, waiting.delay);
}
