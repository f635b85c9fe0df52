//! SIGINT and SIGTERM end pools before they end the program, where that is wanted.

use std::io::{BufRead, BufReader, Lines, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use pool_tests::{Scene, process, wait_until};

use crate::programs::{host, stock_path};

/// The host program in a play that waits for a signal.
struct Host {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    workers: Vec<u32>,
}

impl Host {
    fn start(scene: &Scene, play: &str) -> Self {
        let (key, value) = scene.mark().split_once('=').unwrap();
        let mut command = Command::new(host());
        command.arg(play).arg(stock_path()).env(key, value).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pids = lines.next().expect("it prints the pids of its workers").unwrap();
        let workers: Vec<u32> = pids.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect();
        assert!(workers.len() == 2 && workers.iter().all(|pid| process::is_alive(*pid)), "{pids}");
        Self { child, lines, workers }
    }

    fn send(&self, signal: Signal) {
        process::send(self.child.id(), signal);
    }

    /// What else it prints; waits for its end, by a signal, and for that of its workers.
    fn findings(mut self, by: Signal) -> Vec<String> {
        let found = self.lines.map(Result::unwrap).collect();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), Some(by as i32), "{status}: {found:#?}");
        for pid in self.workers {
            wait_until("it is gone with its supervisor", || !process::is_alive(pid));
        }
        found
    }
}

/// How everything ends that waited.
fn interrupted_by(signal: &str, own_handler: bool) -> Vec<String> {
    let why = format!("Err(\"interrupted by {signal}\")");
    vec![
        format!("map {why}"),
        format!("submitter {why}"),
        "waiter true".to_owned(),
        format!("handle {why}"),
        format!("handle {why}"),
        format!("late {why}"),
        format!("own handler {own_handler}"),
    ]
}

#[test]
fn a_signal_ends_all_that_waits_and_then_the_program_and_handlers_of_its_own_are_called() {
    for (signal, name, own_handler) in [(Signal::SIGINT, "SIGINT", false), (Signal::SIGTERM, "SIGTERM", true)]
    {
        let scene = Scene::new();
        let host = Host::start(&scene, "interrupted");
        host.send(signal);
        assert_eq!(host.findings(signal), interrupted_by(name, own_handler));
    }
}

#[test]
fn a_program_that_returns_from_main_ends_by_the_signal_too() {
    let scene = Scene::new();
    let host = Host::start(&scene, "interrupted-and-returns");
    host.send(Signal::SIGINT);
    assert_eq!(host.findings(Signal::SIGINT), interrupted_by("SIGINT", false));
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let scene = Scene::new();
    let mut host = Host::start(&scene, "interrupted-twice");
    host.send(Signal::SIGINT);
    assert_eq!(host.lines.next().unwrap().unwrap(), "held up");
    // The first one would not end it in any time.
    host.send(Signal::SIGTERM);
    assert!(host.findings(Signal::SIGTERM).is_empty());
}

#[test]
fn a_signal_that_the_program_ignores_stays_ignored() {
    let scene = Scene::new();
    let host = Host::start(&scene, "interrupted-where-ignored");
    host.send(Signal::SIGINT);
    host.send(Signal::SIGTERM);
    assert_eq!(host.findings(Signal::SIGTERM), interrupted_by("SIGTERM", false));
}

#[test]
fn in_a_forked_child_a_signal_does_what_it_did_before_unless_it_has_a_pool_of_its_own() {
    let scene = Scene::new();
    let (key, value) = scene.mark().split_once('=').unwrap();
    let mut command = Command::new(host());
    command.arg("interrupted-children").arg(stock_path()).env(key, value).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut found = String::new();
    child.stdout.take().unwrap().read_to_string(&mut found).unwrap();
    let expected =
        ["child: true", "map in the child Err(\"interrupted by SIGINT\")", "child: true", "parent: true"];
    assert_eq!(found.lines().collect::<Vec<_>>(), expected);
    assert!(child.wait().unwrap().success());
}
