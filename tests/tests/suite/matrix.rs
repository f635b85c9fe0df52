//! The table of faults in `docs/fault-matrix.md`, compared with the list of faults and with the tests that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

const TABLE: &str = include_str!("../../../docs/fault-matrix.md");

/// Every fault that must have a row: the section, and the fault as the row names it.
#[rustfmt::skip]
const FAULTS: &[(&str, &[&str])] = &[
    ("Death in a task", &[
        "exit(0)",
        "exit(n)",
        "_exit",
        "SIGKILL",
        "SIGSEGV",
        "SIGABRT",
        "SIGBUS",
        "other signals",
        "stack overflow",
        "panic",
        "panic without memory for its backtrace",
        "panic where panics abort",
        "double panic",
        "allocation failure",
        "any of these where the system hands core dumps to a program",
        "OOM kill by the kernel, in a memory cgroup",
        "RLIMIT_CPU",
        "SIGSTOP and a time limit",
        "its thread ends, and others live on",
        "asks its parent to debug it (`PTRACE_TRACEME`)",
        "in the program itself as its own worker",
    ]),
    ("Death at each step", &[
        "before the handshake",
        "while a state is built",
        "before the task is claimed",
        "while the arguments are decoded",
        "at the first instruction of the task",
        "in the midst of the task",
        "while the result is encoded",
        "after k bytes of the result: none, 1, inside the header, half, all but one, all",
        "after the result",
        "while idle",
        "while retiring",
        "during shutdown",
    ]),
    ("Many at once", &[
        "all workers at the same instant, with a full queue",
        "workers that kill each other: 1, 2, 5, 13",
        "1, 2, 5, 13 tasks in a row that kill their worker",
        "every third task crashes",
        "one poisonous task among 1,000 on one worker",
        "ten of 1,000 tasks die in ten ways",
        "workers killed from outside under 20,000 short tasks",
        "death during resize",
        "death during join",
        "death during terminate or drop",
        "death in a callback that submits",
    ]),
    ("Misbehaviour short of death", &[
        "ignores SIGTERM while a sibling crashes",
        "SIGSTOP between task and result",
        "SIGSTOP between two tasks",
        "cannot be killed: stuck in the kernel, or frozen",
        "killed, and one of its threads needs long to die",
        "never takes up its task",
        "garbage to the descriptors 0 to 9",
        "garbage into the result pipe",
        "100 MB to stdout",
        "closes its pipes and lives on",
        "puts something else in the place of its pipes",
        "a grandchild holds the pipes after the death",
        "leaves grandchildren and threads running",
        "asks something on the terminal",
        "gives children to the program (CLONE_PARENT)",
        "gives its worker a name that is no text, or looks like `/proc`",
        "panics with what panics again when it is dropped",
        "a result whose encoding has no end",
        "a result whose decoding panics",
        "makes itself a daemon",
        "forks and returns twice",
        "scribbles over the claim board",
        "scribbles over the rings",
        "a frame of 4 GiB, an unknown message, a result for a task that it does not hold",
        "a truncated frame",
        "the same result twice",
        "results out of order",
        "a result that cannot be decoded",
        "a result that is nested too deeply",
        "reads nothing: both ways full, 64 MB of arguments",
        "result and time limit at the same moment",
        "result and cancellation at the same moment",
    ]),
    ("Start-up", &[
        "executable missing or not executable",
        "executable replaced or deleted while running",
        "wrong binary",
        "wrong protocol version",
        "task not linked, or declared differently",
        "init dies once",
        "init always fails",
        "init fails after ten good starts",
        "init hangs",
        "a start that hangs, once or always",
        "spawn fails with EAGAIN during a replacement",
        "spawn fails with EMFILE during a replacement",
        "spawn fails with ENOMEM during a replacement",
    ]),
    ("The host process", &[
        "forks, and uses the handle in the child",
        "ignores SIGCHLD, or waits for any child",
        "is killed with idle workers, busy workers and grandchildren",
        "runs out of descriptors",
        "is stopped for longer than its limits",
        "its wall clock jumps by an hour",
        "drops the pool with work in flight",
        "drops handles",
        "stops reading an iterator",
        "an input that panics or never ends",
        "is given the children of tasks",
        "a debugger holds its dead workers",
        "may have no pidfds, or send no signals through them",
        "gives up root when its workers have started",
        "its output is a file that may not become longer",
        "its output is non-blocking",
        "removes the directory of its workers",
    ]),
    ("A journal", &[
        "the program is killed at any moment, and started again",
        "the batch ends early, and is run again",
        "items have failed",
        "the journal is of another job",
        "the journal is of another version of the program",
        "the journal is in use",
        "the journal is no journal",
        "the journal is damaged",
        "the disk is full",
        "the file system becomes read-only",
    ]),
    ("A store", &[
        "programs on two hosts want the same results",
        "a program is killed while it computes, writes or holds leases",
        "entries are damaged",
        "what is stored is of another version, or does not decode",
        "tasks fail",
        "somebody else computes it and takes long",
        "the disk of the store is full",
        "the file system of the store becomes read-only",
    ]),
    ("Size", &[
        "no task, one task",
        "1,000,000 tiny tasks",
        "arguments and results of 0 B, 64 KiB ± 1, 16 MiB",
        "arguments and results of 1 GiB",
        "arguments and results over the limit",
        "more tasks than memory if all were held",
    ]),
    ("Time limits", &[
        "a limit fires for a task that sleeps, spins, waits in C, is stopped or ignores SIGTERM; alone, next to steady tasks, behind a full queue, with nobody waiting",
    ]),
    ("The supervisor under pressure", &[
        "no descriptor is left while a pool is built",
        "too many descriptors are on their way",
        "no process can be had",
        "a low limit on the size of files (RLIMIT_FSIZE)",
        "no memory for a shared page",
        "/proc is not there",
        "/proc is of another PID namespace",
        "1,000 workers on a few cores",
        "1,000 workers and descriptors for a few dozen",
        "1,000,000 queued tasks",
        "a panic inside the reactor",
    ]),
];

/// A row of the table.
#[derive(Debug)]
struct Row<'a> {
    section: &'a str,
    fault: &'a str,
    tests: Vec<&'a str>,
    modes: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let (mut section, mut rows) = ("", Vec::new());
    for line in TABLE.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else { continue };
        let cells: Vec<&str> = cells.split(" | ").collect();
        let [fault, tests, modes, needs] = cells[..] else { panic!("a row of four cells: {line}") };
        if fault == "fault" {
            continue;
        }
        assert!(!modes.is_empty() && !needs.is_empty(), "an empty cell: {line}");
        let tests = tests.split(", ").map(|test| test.trim_matches('`')).collect();
        rows.push(Row { section, fault, tests, modes });
    }
    rows
}

#[test]
fn every_fault_has_one_row_and_every_row_is_a_fault() {
    let wanted: Vec<(&str, &str)> = FAULTS
        .iter()
        .flat_map(|(section, faults)| faults.iter().map(move |fault| (*section, *fault)))
        .collect();
    let found: Vec<(&str, &str)> = rows().iter().map(|row| (row.section, row.fault)).collect();
    assert_eq!(found, wanted);
    let distinct: BTreeSet<_> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "a fault has two rows");
}

#[test]
fn every_row_names_tests_that_there_are() {
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let there: BTreeSet<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    assert!(there.contains("matrix::every_row_names_tests_that_there_are"), "{listed}");
    for row in rows() {
        assert!(!row.tests.is_empty() && row.tests != [""], "no test: {row:?}");
        let missing: Vec<_> = row.tests.iter().filter(|test| !there.contains(**test)).collect();
        assert!(missing.is_empty(), "there is no {missing:?}: {row:?}");
    }
}

/// Where a row says `all`, one of its tests goes through all modes, as far as its text tells.
#[test]
fn a_row_that_says_all_modes_has_a_test_that_tries_them() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
    let mut sources = BTreeMap::new();
    for row in rows().iter().filter(|row| row.modes == "all") {
        let tries_all = |test: &&str| {
            let (module, name) = test.split_once("::").expect("module and name");
            let source = sources.entry(module.to_owned()).or_insert_with(|| {
                fs::read_to_string(suite.join(format!("{module}.rs"))).expect("the suite is there")
            });
            let begin = source.find(&format!("fn {name}()")).expect("it is in the list");
            let body = &source[begin..];
            let body = &body[..body.find("\n}\n").expect("it ends")];
            ["Mode::ALL", "in_every_mode("].iter().any(|sign| body.contains(sign))
        };
        assert!(row.tests.iter().any(tries_all), "no test tries all modes: {row:?}");
    }
}
