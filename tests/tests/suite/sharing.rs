//! What all workers read: one copy, borrowed, and nobody's to change.

use std::collections::{BTreeMap, HashSet};
use std::thread;
use std::time::Duration;

use pool_core::{BuildError, Pool, SharedError, StateContext, TaskContext, TaskError, WorkerState, task};
use pool_tests::{Scene, expect_death, expect_healthy, is_signal, wait_until};
use serde::{Deserialize, Serialize};

const MIB: usize = 1 << 20;
/// Of the numbers below.
const LEN: usize = 4 * MIB;

/// Numbers of 32 MiB.
fn numbers() -> Vec<u64> {
    (0..LEN as u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect()
}

/// What the kernel tells of the mapping that something is in.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Mapped {
    worker: usize,
    pid: u32,
    sum: u64,
    /// Device and inode, and how it is mapped.
    file: String,
    mode: String,
    resident: usize,
    /// Its share of what is resident, if several have it.
    proportion: usize,
    private: usize,
}

/// Reads all the numbers, and looks at where they are; stays long enough for others to have their turn.
#[task]
fn look(#[context] cx: &TaskContext) -> Mapped {
    let numbers: &[u64] = cx.shared_slice("numbers").expect("the pool shares it");
    let sum = numbers.iter().fold(0, |sum: u64, n| sum.wrapping_add(*n));
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("Linux tells");
    let address = numbers.as_ptr().addr();
    let mut lines = smaps.lines().skip_while(|line| {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        let range = range.and_then(|(from, to)| Some(number(from)?..number(to)?));
        !range.is_some_and(|range| range.contains(&address))
    });
    let head: Vec<&str> = lines.next().expect("it is mapped").split_ascii_whitespace().collect();
    let fields: BTreeMap<&str, usize> = lines
        .map_while(|line| line.split_once(':'))
        .take_while(|(name, _)| !name.contains('-'))
        .filter_map(|(name, value)| {
            Some((name, value.trim().strip_suffix(" kB")?.parse::<usize>().ok()? << 10))
        })
        .collect();
    // Long enough for every worker to get one of these tasks.
    thread::sleep(Duration::from_millis(5));
    Mapped {
        worker: cx.worker_index(),
        pid: std::process::id(),
        sum,
        file: format!("{} {}", head[3], head[4]),
        mode: head[1].to_owned(),
        resident: fields["Rss"],
        proportion: fields["Pss"],
        private: fields["Private_Dirty"] + fields["Private_Clean"],
    }
}

/// What each of four workers says, when all have read all of it.
fn look_everywhere(pool: &Pool) -> Vec<Mapped> {
    let mut found = BTreeMap::new();
    let mut complete = HashSet::new();
    wait_until("every worker has looked after all have read", || {
        for mapped in pool.map(|_| look(), 0..8).expect("nobody is harmed") {
            if found.len() == 4 {
                complete.insert(mapped.worker);
            }
            found.insert(mapped.worker, mapped);
        }
        complete.len() == 4
    });
    found.into_values().collect()
}

#[test]
fn there_is_one_copy_for_all_workers_and_those_that_take_their_places() {
    let scene = Scene::new();
    let numbers = numbers();
    let sum = numbers.iter().fold(0, |sum: u64, n| sum.wrapping_add(*n));
    let pool = scene.builder().workers(4).share_slice("numbers", &numbers).build().unwrap();
    let first = look_everywhere(&pool);
    let killed: Vec<u32> = first.iter().map(|mapped| mapped.pid).collect();
    killed.iter().for_each(|pid| pool_tests::process::send(*pid, nix::sys::signal::Signal::SIGKILL));
    wait_until("all are replaced", || {
        pool.stats().workers_ready == 4
            && pool.workers().iter().all(|worker| worker.pid.is_some_and(|pid| !killed.contains(&pid)))
    });
    let second = look_everywhere(&pool);
    let size = size_of_val(&numbers[..]);
    for (round, found) in [&first, &second].into_iter().enumerate() {
        for mapped in found {
            assert_eq!(
                (mapped.sum, &mapped.mode[..2], &mapped.file),
                (sum, "r-", &first[0].file),
                "{mapped:?}"
            );
            assert!(mapped.resident >= size && mapped.private == 0, "{round}: {mapped:?}");
        }
        // Each has its part of the one copy; a second one would be as much again.
        let together: usize = found.iter().map(|mapped| mapped.proportion).sum();
        assert!(together <= size + size / 4, "{round}: {together} of {size}: {found:?}");
    }
    expect_healthy(&pool);
}

/// Writes to what is shared, as a bug in a C library would.
#[task]
fn scribble(#[context] cx: &TaskContext) -> u8 {
    let text = cx.shared("text").expect("the pool shares it");
    // SAFETY: it is not: this worker is to die of it.
    unsafe { text.as_ptr().cast_mut().write_volatile(b'!') };
    text[0]
}

#[task]
fn text(#[context] cx: &TaskContext) -> Option<String> {
    cx.shared("text").map(|text| String::from_utf8_lossy(text).into_owned())
}

#[test]
fn a_write_to_it_kills_the_task_that_does_it_and_changes_nothing() {
    let scene = Scene::new();
    let pool = scene.builder().share("text", "read only").build().unwrap();
    let death = expect_death(pool.apply(scribble()));
    assert!(is_signal(&death.cause, 11), "{death}");
    for found in pool.map(|_| text(), 0..50).unwrap() {
        assert_eq!(found.as_deref(), Some("read only"));
    }
    expect_healthy(&pool);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Config {
    name: String,
    weights: Vec<f32>,
}

#[task]
fn weight(index: usize, #[context] cx: &TaskContext) -> Result<f32, String> {
    let config: &Config = cx.shared_value("config").map_err(|error| error.to_string())?;
    Ok(config.weights[index])
}

#[task]
fn wrong(#[context] cx: &TaskContext) -> Vec<String> {
    let told = |error: Option<SharedError>| error.map_or("none".to_owned(), |error| error.to_string());
    vec![
        told(cx.shared_slice::<f32>("floats").err()),
        told(cx.shared_slice::<f64>("flots").err()),
        told(cx.shared_value::<String>("config").err()),
        told(cx.shared_slice::<f64>("floats").err()),
        format!("{:?}", cx.shared("flots")),
        format!("{:?}", cx.shared("floats").map(<[u8]>::len)),
    ]
}

#[test]
fn values_are_decoded_and_wrong_keys_and_types_are_told() {
    let scene = Scene::new();
    let config = Config { name: "c".to_owned(), weights: vec![0.5, 1.5] };
    let builder = scene.builder().share_slice("floats", &[1.0_f64]).share_value("config", &config);
    let pool = builder.build().unwrap();
    let weights = pool.map(weight, (0..100).map(|n| n % 2)).unwrap();
    assert!((0..).zip(weights).all(|(n, found)| found == Ok(config.weights[n % 2])));
    let told = pool.apply(wrong()).unwrap();
    assert_eq!(
        told[0],
        "what is shared under the key `floats` is of type `[f64]`, and was asked for as `[f32]`"
    );
    assert!(told[1].starts_with("nothing is shared under the key `flots`"), "{}", told[1]);
    assert!(told[2].contains("::Config`, and was asked for as `alloc::string::String`"), "{}", told[2]);
    assert_eq!(told[3..], ["none", "None", "Some(8)"]);
    expect_healthy(&pool);
    // Where nothing is shared, and outside of a worker.
    let bare = scene.builder().build().unwrap();
    assert_eq!(bare.apply(text()).unwrap(), None);
    assert!(bare.apply(weight(0)).unwrap().unwrap_err().starts_with("nothing is shared"));
    assert_eq!(text().run_here().unwrap(), None);
    assert!(weight(0).run_here().unwrap().is_err());
}

/// A state that is made from what is shared.
struct Index(BTreeMap<u8, usize>);

impl WorkerState for Index {
    fn init(cx: &StateContext) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let text = cx.shared("text").ok_or("no text")?;
        Ok(Self(text.iter().enumerate().map(|(place, byte)| (*byte, place)).collect()))
    }
}

#[task]
fn last_place(byte: u8, #[state] index: &mut Index) -> Option<usize> {
    index.0.get(&byte).copied()
}

#[test]
fn a_state_may_be_made_from_it() {
    let scene = Scene::new();
    let pool = scene.builder().share("text", "abcab").build().unwrap();
    assert_eq!(pool.map(last_place, *b"abcd").unwrap(), [Some(3), Some(4), Some(2), None]);
}

#[test]
fn many_pools_share_different_things_and_nothing_is_left_behind() {
    let scene = Scene::new();
    let builder = scene.builder().share("numbers", vec![7; MIB]);
    let pools: Vec<_> =
        (0..4).map(|n| builder.clone().share("text", format!("text {n}")).build().unwrap()).collect();
    for (n, pool) in pools.iter().enumerate() {
        assert_eq!(pool.apply(text()).unwrap().unwrap(), format!("text {n}"));
    }
    drop(pools);
    scene.expect_nothing_left();
    let twice = builder.share("numbers", "").build();
    assert!(matches!(twice, Err(BuildError::Setting { setting: "share", .. })), "{twice:?}");
    let empty = scene.builder().share("text", "").build().unwrap();
    assert_eq!(empty.apply(text()).unwrap().unwrap(), "");
    let closed = {
        empty.close();
        empty.apply(text())
    };
    assert!(matches!(closed, Err(TaskError::PoolClosed)));
}
