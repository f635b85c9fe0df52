//! Measures `procspawn`, a pool of processes in Rust, for `compare`: prints a JSON object a line, as `peers/pools.py` does.
//!
//! It has no `map`, so tasks are submitted one by one, so many at a time as there are descriptors for.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pool_benches::process::{self, Memory};
use pool_benches::samples::{giga_rate, mega_rate, micros, millis, percentile};
use pool_benches::{Outcome, ensure};
use procspawn::Pool;
use serde_bytes::ByteBuf;
use serde_json::json;

const GAP: Duration = Duration::from_millis(3);
/// Tasks that are out at the same time: each costs descriptors.
const WAVE: u64 = 200;
const MIB: usize = 1 << 20;

fn tiny(n: u64) -> u64 {
    n + 1
}

fn echo(data: ByteBuf) -> ByteBuf {
    data
}

fn crash(stamp: PathBuf) -> bool {
    let write =
        || std::fs::OpenOptions::new().write(true).open(&stamp)?.write_all(&monotonic_ns().to_le_bytes());
    if write().is_ok() {
        std::process::abort();
    }
    false
}

/// Of the clock that all processes share.
fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap_or(0))
}

fn main() -> Outcome<()> {
    procspawn::init();
    let arguments: Vec<String> = std::env::args().collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let skipped =
        arguments.iter().skip_while(|argument| *argument != "--skip").nth(1).cloned().unwrap_or_default();
    type Measure = fn(bool) -> Outcome<Vec<(&'static str, f64)>>;
    let all: [(&str, Measure); 9] = [
        ("map", |_| Err("has no map".into())),
        ("singles", singles),
        ("trip_hot", |quick| {
            trips(["trip_hot_p50", "trip_hot_p99"], if quick { 1_000 } else { 5_000 }, None)
        }),
        ("trip_asleep", |quick| {
            trips(["trip_asleep_p50", "trip_asleep_p99"], if quick { 60 } else { 200 }, Some(GAP))
        }),
        ("echo", echoes),
        ("start", start),
        ("memory", memory),
        ("idle", idle),
        ("crash", recover),
    ];
    for (name, measure) in all {
        if skipped.split(',').any(|skipped| skipped == name) {
            continue;
        }
        println!("{}", json!({"begin": name}));
        match measure(quick) {
            Ok(figures) => {
                for (row, value) in figures {
                    println!("{}", json!({"row": row, "value": value, "note": ""}));
                }
            }
            Err(error) => println!("{}", json!({"row": name, "failed": error.to_string()})),
        }
    }
    println!("{}", json!({"end": true}));
    Ok(())
}

fn ready_pool(workers: usize) -> Outcome<Pool> {
    let pool = Pool::new(workers)?;
    wave(&pool, 0, 4 * workers as u64)?;
    Ok(pool)
}

fn wave(pool: &Pool, from: u64, count: u64) -> Outcome<()> {
    let handles: Vec<_> = (from..from + count).map(|n| pool.spawn(n, tiny)).collect();
    for (n, handle) in (from..).zip(handles) {
        ensure(handle.join()? == n + 1, "a wrong result")?;
    }
    Ok(())
}

fn singles(quick: bool) -> Outcome<Vec<(&'static str, f64)>> {
    let (pool, waves) = (ready_pool(2)?, if quick { 10 } else { 50 });
    let start = Instant::now();
    for number in 0..waves {
        wave(&pool, number * WAVE, WAVE)?;
    }
    Ok(vec![("singles", mega_rate(waves * WAVE, start.elapsed()))])
}

fn trips(names: [&'static str; 2], count: u64, gap: Option<Duration>) -> Outcome<Vec<(&'static str, f64)>> {
    let pool = ready_pool(1)?;
    let mut times = Vec::new();
    for n in 0..count {
        if let Some(gap) = gap {
            // The pause is the subject: the worker falls asleep in it.
            std::thread::sleep(gap);
        }
        let start = Instant::now();
        let result = pool.spawn(n, tiny).join()?;
        times.push(micros(start.elapsed()));
        ensure(result == n + 1, "a wrong result")?;
    }
    let figures = [50.0, 99.0].map(|percent| percentile(&times, percent));
    Ok(names.into_iter().zip(figures.into_iter().flatten()).collect())
}

fn echoes(_quick: bool) -> Outcome<Vec<(&'static str, f64)>> {
    let pool = ready_pool(1)?;
    let mut figures = Vec::new();
    for (name, length, times) in
        [("echo_64k", 64 << 10, 200), ("echo_1m", MIB, 30), ("echo_16m", 16 * MIB, 4)]
    {
        let data: Vec<u8> = (0..length).map(|index: usize| (index ^ (index >> 12)) as u8).collect();
        let mut time = Duration::ZERO;
        for _ in 0..times {
            let start = Instant::now();
            let result = pool.spawn(ByteBuf::from(data.clone()), echo).join()?;
            time += start.elapsed();
            ensure(*result == data, "other data has come back")?;
        }
        figures.push((name, giga_rate(2 * length as u64 * times, time)));
    }
    Ok(figures)
}

fn start(quick: bool) -> Outcome<Vec<(&'static str, f64)>> {
    let mut times = Vec::new();
    for _ in 0..if quick { 4 } else { 10 } {
        let start = Instant::now();
        let pool = Pool::new(2)?;
        let result = pool.spawn(1, tiny).join()?;
        pool.shutdown();
        drop(pool);
        times.push(millis(start.elapsed()));
        ensure(result == 2, "a wrong result")?;
    }
    Ok(percentile(&times, 50.0).map(|time| ("start", time)).into_iter().collect())
}

fn memory(_quick: bool) -> Outcome<Vec<(&'static str, f64)>> {
    let before = Memory::of_family()?;
    let pool = ready_pool(2)?;
    wave(&pool, 0, WAVE)?;
    let growth = Memory::of_family()?.since(before);
    drop(pool);
    Ok(vec![("memory", growth.own as f64 / 1e6), ("memory_all", growth.all as f64 / 1e6)])
}

fn idle(_quick: bool) -> Outcome<Vec<(&'static str, f64)>> {
    let pool = ready_pool(2)?;
    wave(&pool, 0, WAVE)?;
    // The last of the work; then time passing is the subject.
    std::thread::sleep(Duration::from_millis(200));
    let before = process::activity()?;
    std::thread::sleep(Duration::from_secs(1));
    let (switches, ran) = process::activity_between(&before, &process::activity()?);
    drop(pool);
    Ok(vec![("idle_wakeups", switches as f64), ("idle_cpu", ran as f64 / 1e3)])
}

fn recover(quick: bool) -> Outcome<Vec<(&'static str, f64)>> {
    let mut times = Vec::new();
    for _ in 0..if quick { 4 } else { 10 } {
        let pool = ready_pool(1)?;
        let stamp = tempfile::NamedTempFile::new_in("/dev/shm")?;
        let crashing = pool.spawn(stamp.path().to_owned(), crash);
        let next = pool.spawn(7, tiny);
        // The pool does not go on before somebody has taken the failure.
        ensure(crashing.join().is_err(), "a crash has a result")?;
        let result = next.join();
        let end = monotonic_ns();
        ensure(result? == 8, "a wrong result")?;
        let at: [u8; 8] = std::fs::read(stamp.path())?.as_slice().try_into()?;
        times.push(end.saturating_sub(u64::from_le_bytes(at)) as f64 / 1e6);
    }
    Ok(percentile(&times, 50.0).map(|time| ("crash", time)).into_iter().collect())
}
