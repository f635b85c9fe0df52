//! Programs that share a store: on two hosts, killed, and on disks that are full or become read-only.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pool_core::Store;
use pool_tests::{Scene, notes, skipped, wait_until};

use crate::programs::{stock_path, store_user};
use crate::store::Place;

/// A program that uses the store of a place.
fn user(scene: &Scene, place: &Place, play: &str, prefix: &[&str], (from, to): (u64, u64)) -> Child {
    let (key, value) = scene.mark().split_once('=').unwrap();
    let program = store_user().to_str().unwrap().to_owned();
    let (store, log) = (place.path("store"), place.log());
    let numbers = [from.to_string(), to.to_string()];
    let args = [
        play,
        store.to_str().unwrap(),
        log.to_str().unwrap(),
        stock_path().to_str().unwrap(),
        &numbers[0],
        &numbers[1],
    ];
    let line: Vec<&str> = prefix.iter().copied().chain([&*program]).chain(args).collect();
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).env(key, value).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What a program has found: its lines, and its counters by their names.
fn findings(child: Child) -> (Vec<String>, impl Fn(&str) -> u64) {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    let lines: Vec<String> = stdout.lines().map(str::to_owned).collect();
    let words: Vec<String> = stdout.split_whitespace().map(str::to_owned).collect();
    (lines, move |name: &str| {
        let at =
            words.iter().position(|word| word == name).unwrap_or_else(|| panic!("no {name} in {words:?}"));
        words[at + 1].parse().unwrap()
    })
}

/// A host of its own, as far as processes can tell: other process ids, another name.
const HOST: [&str; 7] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts", "--"];

/// Whether this program may do what a command does.
fn may(command: &[&str]) -> bool {
    let status =
        Command::new(command[0]).args(&command[1..]).stderr(Stdio::null()).stdout(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn host(name: &str) -> Vec<String> {
    let script = format!("hostname {name} && exec \"$@\"");
    HOST.iter().copied().chain(["sh", "-c", &script, "sh"]).map(str::to_owned).collect()
}

#[test]
fn two_hosts_that_use_one_store_compute_each_result_once() {
    let scene = Scene::of(Duration::from_secs(3600));
    if !may(&[&HOST[..], &["true"]].concat()) {
        return skipped("it may not make namespaces of process ids");
    }
    // Some seconds; minutes, if it is asked for.
    let items = std::env::var("POOL_STORE_ITEMS").map_or(1000, |items| items.parse().unwrap());
    let place = Place::new();
    let hosts: Vec<Vec<String>> = ["alpha", "beta"].map(host).into();
    let users: Vec<Child> = hosts
        .iter()
        .map(|host| {
            user(&scene, &place, "hammer", &host.iter().map(String::as_str).collect::<Vec<_>>(), (0, items))
        })
        .collect();
    let (mut stored, mut hits) = (0, 0);
    for child in users {
        let (lines, count) = findings(child);
        assert!(!lines.iter().any(|line| line.contains("wrong")), "{lines:?}");
        assert_eq!(
            (count("bad"), count("errors"), count("unread"), count("taken-over")),
            (0, 0, 0, 0),
            "{lines:?}"
        );
        (stored, hits) = (stored + count("stored"), hits + count("hits"));
    }
    let notes = notes(&place.log());
    let runs: usize = notes.values().sum();
    assert_eq!((stored, hits + runs as u64), (items, 2 * items), "one winner for each key");
    assert_eq!(notes.len() as u64, items);
    // Where one has just been released without a result, two may compute.
    assert!(runs as u64 <= items + items / 100, "{runs} runs for {items} results");
    assert_eq!(place.leftovers(), Vec::<String>::new());
    let store = place.store();
    assert_eq!(store.sweep().unwrap().entries, items);
}

#[test]
fn a_program_that_was_killed_leaves_nothing_that_is_wrong_and_holds_nobody_up() {
    let scene = Scene::new();
    let place = Place::new();
    let items = 600;
    // Killed at other moments each time.
    for at in [50, 150, 290] {
        let mut child = user(&scene, &place, "hammer", &[], (0, items));
        wait_until("it is in the midst of it", || place.runs() > at);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let runs = place.runs();
    let (lines, count) = findings(user(&scene, &place, "hammer", &[], (0, items)));
    assert!(!lines.iter().any(|line| line.contains("wrong")), "{lines:?}");
    assert_eq!((count("bad"), count("errors")), (0, 0));
    assert_eq!(count("hits") + count("stored"), items);
    assert!(count("hits") as usize > runs / 2, "{} of {runs} were found", count("hits"));
    let store = Store::builder().stale_age(Duration::ZERO).open(place.path("store")).unwrap();
    assert_eq!(store.sweep().unwrap().entries, items);
    assert_eq!(place.leftovers(), Vec::<String>::new(), "what was unfinished is swept");
}

/// A command that has a small file system at a path of its own.
fn small(path: &Path) -> Vec<String> {
    let script = format!("mount -t tmpfs -o size=1m none {} && exec \"$@\"", path.display());
    ["unshare", "--mount", "--", "sh", "-c", &script, "sh"].map(str::to_owned).into()
}

#[test]
fn a_full_disk_is_counted_or_an_error_as_asked() {
    let scene = Scene::new();
    let place = Place::new();
    std::fs::create_dir(place.path("store")).unwrap();
    let small = small(&place.path("store"));
    let small: Vec<&str> = small.iter().map(String::as_str).collect();
    if !may(&[&small[..], &["true"]].concat()) {
        return skipped("it may not mount a small file system");
    }
    let (lines, count) = findings(user(&scene, &place, "full", &small, (0, 400)));
    assert!(!lines.iter().any(|line| line.contains("wrong")), "{lines:?}");
    assert!(count("stored") > 20 && count("errors") > 100 && count("bad") == 0, "{lines:?}");
    assert_eq!(count("stored") + count("errors"), 400);
    let (lines, count) = findings(user(&scene, &place, "full-fails", &small, (0, 400)));
    assert!(!lines.iter().any(|line| line.contains("wrong")), "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("failed: store: cannot write ") && line.contains("No space left")),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"refused: true".to_owned()) && lines.contains(&"single: true".to_owned()),
        "{lines:?}"
    );
    assert!(count("stored") > 20 && count("bad") == 0, "{lines:?}");
}

#[test]
fn a_file_system_that_becomes_read_only_ends_nothing_and_what_is_there_is_found() {
    let scene = Scene::new();
    let place = Place::new();
    std::fs::create_dir(place.path("store")).unwrap();
    let small = small(&place.path("store"));
    let small: Vec<&str> = small.iter().map(String::as_str).collect();
    if !may(&[&small[..], &["true"]].concat()) {
        return skipped("it may not mount a small file system");
    }
    let (lines, count) = findings(user(&scene, &place, "read-only", &small, (0, 60)));
    assert!(!lines.iter().any(|line| line.contains("wrong")), "{lines:?}");
    assert!(
        count("stored") >= 20 && count("hits") >= count("stored") && count("errors") > 0 && count("bad") == 0,
        "{lines:?}"
    );
}
