//! Large arguments and results, through both transports.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use pool_core::{Builder, DeathCause, Pool, SharedBytes, TaskContext, TaskError, Transport, task};

pool_core::test_worker!();

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The bytes that everything is cut from.
fn endless() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut bytes: Vec<u8> = (0..=250).collect();
        while bytes.len() < 21 * MIB {
            bytes.extend_from_within(..);
        }
        bytes
    })
}

fn bytes(len: usize, seed: usize) -> Vec<u8> {
    endless()[seed % 251..][..len].to_vec()
}

fn is_right(bytes: &[u8], len: usize, seed: usize) -> bool {
    *bytes == endless()[seed % 251..][..len]
}

#[task]
fn echo(data: Vec<u8>) -> Vec<u8> {
    data
}

#[task]
fn check(data: &[u8], len: usize, seed: usize) -> bool {
    is_right(data, len, seed)
}

#[task]
fn make(len: usize, seed: usize) -> Vec<u8> {
    bytes(len, seed)
}

#[task]
fn share(len: usize, seed: usize) -> SharedBytes {
    let mut shared = SharedBytes::builder();
    for piece in bytes(len, seed).chunks(10_000) {
        shared.extend_from_slice(piece);
    }
    shared.finish()
}

#[task]
fn make_or_not(len: usize, seed: usize) -> Result<Vec<u8>, String> {
    if seed > 0 { Ok(bytes(len, seed)) } else { Err("ä".repeat(len)) }
}

#[task]
fn dies_at_first(data: &[u8], len: usize, #[context] cx: &TaskContext) -> bool {
    if cx.attempt() == 1 {
        std::process::abort();
    }
    is_right(data, len, 7)
}

/// Goes on to look at its argument after it has been cancelled, and leaves word of what it saw.
#[task]
fn watch(data: &[u8], word: &Path, #[context] cx: &TaskContext) {
    let _ = fs::write(word.with_extension("begun"), "");
    let mut right = true;
    while !cx.is_cancelled() {
        right &= is_right(data, data.len(), 3);
    }
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        right &= is_right(data, data.len(), 3);
    }
    let _ = fs::write(word, if right { "right" } else { "wrong" });
}

/// Writes to all of the worker's memory for large results.
#[task]
fn scribble() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines().filter(|line| line.contains("pool-data")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        for at in (address(start)..address(end)).step_by(512) {
            // SAFETY: none; this is what a lost pointer does.
            unsafe { std::ptr::write_volatile(at as *mut u8, 0xEE) };
        }
    }
}

/// Leaves the worker without a free descriptor.
#[task]
fn use_up_descriptors() {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_NOFILE, 0, 0).unwrap();
}

fn pools(set: impl Fn(Builder) -> Builder) -> impl Iterator<Item = Pool> {
    [Transport::Rings, Transport::Pipes]
        .into_iter()
        .map(move |transport| set(Pool::builder()).transport(transport).build().unwrap())
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < patience, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

#[test]
fn every_size_comes_and_goes() {
    for pool in pools(|builder| builder.workers(2)) {
        let edges = [64 * KIB, 80 * KIB, 128 * KIB, MIB, 4 * MIB, 5 * MIB];
        let sizes = edges.iter().flat_map(|size| [size - 4, size - 3, size - 1, *size, size + 1]);
        for (seed, len) in sizes.chain([0, 1, 30, 31, 20 * MIB]).enumerate() {
            assert!(is_right(&pool.apply(echo(bytes(len, seed))).unwrap(), len, seed), "{len}");
            assert!(pool.apply(check(&bytes(len, seed), len, seed)).unwrap(), "{len}");
            assert!(is_right(&pool.apply(share(len, seed)).unwrap(), len, seed), "{len}");
            match pool.apply(make_or_not(len, seed)).unwrap() {
                Ok(found) => assert!(is_right(&found, len, seed), "{len}"),
                Err(text) => assert!(seed == 0 && text == "ä".repeat(len), "{len}"),
            }
        }
    }
}

#[test]
fn many_are_under_way_at_once() {
    for pool in pools(|builder| builder.workers(2)) {
        let sizes = [100, 5_000, 65 * KIB, 200 * KIB, MIB, 70 * KIB];
        let size = |n: usize| sizes[n % sizes.len()];
        let echoes = pool.map(|n| echo(bytes(size(n), n)), 0..600).unwrap();
        assert!(echoes.iter().enumerate().all(|(n, found)| is_right(found, size(n), n)));
        let handles: Vec<_> = (0..300).map(|n| pool.apply_async(make(size(n), n))).collect();
        let shared: Vec<_> = (0..300).map(|n| pool.apply_async(share(size(n), n))).collect();
        for (n, handle) in handles.into_iter().enumerate() {
            assert!(is_right(&handle.get().unwrap(), size(n), n));
        }
        for (n, handle) in shared.into_iter().enumerate() {
            assert!(is_right(&handle.get().unwrap(), size(n), n));
        }
        assert_eq!(pool.stats().deaths.total(), 0);
    }
}

#[test]
fn shared_bytes_outlive_the_pool_and_their_call_is_made_before_it() {
    let calls = [share(3 * MIB, 1), share(3 * MIB, 2)];
    for pool in pools(|builder| builder.workers(1)) {
        let kept = calls.each_ref().map(|call| pool.apply(call.clone()).unwrap());
        drop(pool);
        assert!(is_right(&kept[0], 3 * MIB, 1) && is_right(&kept[1], 3 * MIB, 2));
    }
}

#[test]
fn a_retry_has_its_arguments_again() {
    for pool in pools(|builder| builder.workers(1)) {
        for len in [100 * KIB, 6 * MIB] {
            let data = bytes(len, 7);
            assert!(pool.apply(dies_at_first(&data, len).retries(1)).unwrap());
        }
        assert_eq!(pool.stats().deaths.total(), 2);
    }
}

#[test]
fn arguments_of_a_cancelled_task_stay_as_they_are_while_it_runs() {
    let dir = std::env::temp_dir().join(format!("pool-large-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let words: Vec<PathBuf> = (0..2).map(|n| dir.join(n.to_string())).collect();
    for (pool, word) in pools(|builder| builder.workers(2).cancel_grace(Duration::from_secs(20))).zip(words) {
        let data = bytes(300 * KIB, 3);
        let handle = pool.apply_async(watch(&data, &word));
        wait_until("it runs", || word.with_extension("begun").exists());
        handle.cancel();
        assert!(matches!(handle.get(), Err(TaskError::Cancelled)));
        // Nobody here has the arguments any more; others of the same size look for a place.
        let mut seed = 0;
        wait_until("it has ended", || {
            seed += 1;
            assert!(pool.apply(check(&bytes(300 * KIB, seed), 300 * KIB, seed)).unwrap());
            fs::read_to_string(&word).is_ok_and(|text| !text.is_empty())
        });
        assert_eq!(fs::read_to_string(&word).unwrap(), "right");
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_stray_write_kills_its_task_and_spoils_no_result() {
    for pool in pools(|builder| builder.workers(1)) {
        let results: Vec<_> = (0..20).map(|n| pool.apply_async(make(70 * KIB * (1 + n % 3), n))).collect();
        match pool.apply(scribble()) {
            Err(TaskError::WorkerDied(death)) => {
                assert!(matches!(death.cause, DeathCause::Signalled { signal: 11, .. }), "{death}");
            }
            other => panic!("{other:?}"),
        }
        for (n, handle) in results.into_iter().enumerate() {
            assert!(is_right(&handle.get().unwrap(), 70 * KIB * (1 + n % 3), n));
        }
    }
}

#[test]
fn a_worker_without_free_descriptors_hurts_nobody() {
    for pool in pools(|builder| builder.workers(1)) {
        pool.apply(use_up_descriptors()).unwrap();
        assert!(is_right(&pool.apply(make(3 * MIB, 1)).unwrap(), 3 * MIB, 1));
        assert!(is_right(&pool.apply(share(3 * MIB, 2)).unwrap(), 3 * MIB, 2));
        assert_eq!(pool.stats().deaths.total(), 0);
        // Arguments cannot reach it: it gives up before it claims the task, which another one runs.
        assert!(pool.apply(check(&bytes(3 * MIB, 3), 3 * MIB, 3)).unwrap());
    }
}

#[test]
fn results_that_nobody_fetches_do_not_stop_the_rest() {
    for pool in pools(|builder| builder.workers(1)) {
        let unread: Vec<_> = (0..400).map(|n| pool.apply_async(make(MIB, n))).collect();
        for n in 0..20 {
            assert!(is_right(&pool.apply(echo(bytes(2 * MIB, n))).unwrap(), 2 * MIB, n));
        }
        assert!(unread.into_iter().enumerate().all(|(n, handle)| is_right(&handle.get().unwrap(), MIB, n)));
        assert_eq!(pool.stats().deaths.total(), 0);
    }
}
