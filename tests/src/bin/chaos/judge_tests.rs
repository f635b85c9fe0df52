//! That the judge finds what it is there to find. Errors are those of a real pool; what was planned, noted and sabotaged is told
//! differently from what it was.

use std::time::Duration;

use nix::sys::signal::Signal;
use pool_core::{Output, Pool, RetryOn, TaskError};
use pool_tests::{Leash, process, wait_until};
use pool_worker::drill;

use super::*;
use crate::deed::Deed;
use crate::plan::Plan;
use crate::record::May;

const TASK: u64 = 7;

fn settings() -> Settings {
    Settings {
        workers: 1,
        min_workers: None,
        rings: true,
        task_timeout: Duration::from_secs(60),
        memory_limit: None,
        backtraces: true,
        recycles: false,
    }
}

fn pool() -> Pool {
    Pool::builder().workers(1).output(Output::Null).build().unwrap()
}

fn record(deed: Deed, outcome: Outcome) -> Record {
    Record {
        plan: Plan { deed, retries: None, ..Plan::innocent(TASK, 0) },
        pool: 0,
        how: "a test",
        limit: settings().task_timeout,
        retries: 0,
        retry_on: RetryOn::DEATH,
        may: May::default(),
        outcome,
        more: 0,
    }
}

fn failed(deed: Deed, error: &TaskError) -> Record {
    record(deed, Outcome::Failed(Box::new(error.clone())))
}

fn run(task: u64, worker: u32, attempt: u32, left: bool) -> Vec<Entry> {
    let entry = |step| Entry { step, task, worker, attempt };
    let mut entries = vec![entry(Step::Begun)];
    entries.extend(left.then(|| entry(Step::Left)));
    entries
}

fn evidence(record: Record, journal: Vec<Entry>) -> Evidence {
    let life = Life { settings: settings(), events: Vec::new(), cut_short: false };
    Evidence { records: vec![record], journal, hits: Vec::new(), lives: vec![life], gap: Duration::ZERO }
}

#[track_caller]
fn assert_finds(evidence: &Evidence, wanted: &[Wrong]) {
    let findings = judge(evidence);
    let found: Vec<Wrong> = findings.iter().map(|finding| finding.wrong).collect();
    assert_eq!(found, wanted, "{findings:#?}");
}

fn death_of(deed: &Deed) -> (TaskError, u32) {
    let plan = Plan { deed: deed.clone(), retries: None, ..Plan::innocent(TASK, 0) };
    let error = pool().apply(plan.call()).unwrap_err();
    let TaskError::WorkerDied(death) = &error else { panic!("{error}") };
    let pid = death.pid;
    (error, pid)
}

#[test]
fn an_answer_needs_a_run_and_one_only() {
    let right = || record(Deed::Nothing, Outcome::Right);
    assert_finds(&evidence(right(), run(TASK, 1, 1, true)), &[]);
    assert_finds(&evidence(right(), Vec::new()), &[Wrong::Lost]);
    let twice = [run(TASK, 1, 1, true), run(TASK, 2, 2, true)].concat();
    assert_finds(&evidence(right(), twice.clone()), &[Wrong::Doubled]);
    assert_finds(&evidence(Record { retries: 1, ..right() }, twice), &[]);
    let same = [run(TASK, 1, 1, true), run(TASK, 2, 1, true)].concat();
    assert_finds(&evidence(Record { retries: 1, ..right() }, same), &[Wrong::Doubled]);
    assert_finds(&evidence(Record { more: 1, ..right() }, run(TASK, 1, 1, true)), &[Wrong::Doubled]);
    assert_finds(&evidence(record(Deed::Nothing, Outcome::Missing), Vec::new()), &[Wrong::Lost]);
    let wrong = record(Deed::Nothing, Outcome::Wrong("8".to_owned()));
    assert_finds(&evidence(wrong, run(TASK, 1, 1, true)), &[Wrong::Blamed]);
    assert_finds(&evidence(record(Deed::Segv, Outcome::Right), run(TASK, 1, 1, true)), &[Wrong::Blamed]);
}

#[test]
fn a_death_is_the_fault_of_the_deed_that_causes_it_and_of_no_other() {
    let (error, pid) = death_of(&Deed::Exit(3));
    let journal = run(TASK, pid, 1, false);
    assert_finds(&evidence(failed(Deed::Exit(3), &error), journal.clone()), &[]);
    for innocent in [Deed::Nothing, Deed::Exit(4), Deed::Segv, Deed::Hang] {
        assert_finds(&evidence(failed(innocent, &error), journal.clone()), &[Wrong::Blamed]);
    }
    // It was to have another attempt.
    let once = Record { retries: 1, ..failed(Deed::Exit(3), &error) };
    assert_finds(&evidence(once, journal.clone()), &[Wrong::Blamed]);
    // Another task was in the midst of something.
    let other = [run(TASK + 1, pid, 1, false), journal.clone()].concat();
    assert_finds(&evidence(failed(Deed::Exit(3), &error), other), &[Wrong::Blamed]);
    // One worker cannot be the death of two.
    let mut two = evidence(failed(Deed::Exit(3), &error), journal);
    two.records.push(Record {
        plan: Plan { deed: Deed::Exit(3), ..Plan::innocent(TASK + 1, 0) },
        ..failed(Deed::Exit(3), &error)
    });
    two.journal.extend(run(TASK + 1, pid, 1, true));
    two.journal.push(Entry { step: Step::Left, task: TASK, worker: pid, attempt: 1 });
    assert_finds(&two, &[Wrong::Blamed]);
}

#[test]
fn the_saboteur_is_to_blame_for_its_own_signals_and_its_own_victims_only() {
    let (pool, leash) = (pool(), Leash::new());
    let pid = pool.apply(drill::pid()).unwrap();
    let handle = pool.apply_async(leash.task(TASK));
    wait_until("the task runs", || leash.has_begun(TASK));
    process::send(pid, Signal::SIGKILL);
    let error = handle.get().unwrap_err();
    let case = |hits: Vec<Hit>| Evidence {
        hits,
        ..evidence(failed(Deed::Nothing, &error), run(TASK, pid, 1, false))
    };
    assert_finds(&case(vec![Hit { pid, signal: Signal::SIGKILL }]), &[]);
    assert_finds(&case(vec![Hit { pid, signal: Signal::SIGTERM }]), &[Wrong::Blamed]);
    assert_finds(&case(vec![Hit { pid: pid + 1, signal: Signal::SIGKILL }]), &[Wrong::Blamed]);
}

#[test]
fn what_a_vandal_does_excuses_those_of_its_own_worker() {
    let (error, pid) = death_of(&Deed::Exit(102));
    let case = |vandals: u32| {
        let vandal = Record {
            plan: Plan { deed: Deed::ScribbleAll(true), ..Plan::innocent(TASK + 1, 0) },
            ..record(Deed::Nothing, Outcome::Right)
        };
        let journal = [run(TASK + 1, vandals, 1, true), run(TASK, pid, 1, false)].concat();
        let mut evidence = evidence(failed(Deed::Nothing, &error), journal);
        evidence.records.push(vandal);
        evidence
    };
    assert_finds(&case(pid), &[]);
    assert_finds(&case(pid + 1), &[Wrong::Blamed]);
}

#[test]
fn what_a_vandal_overwrites_unnoticed_is_long() {
    let case = |deed: Deed, vandals: u32| {
        let wrong = record(deed, Outcome::Wrong("x".to_owned()));
        let vandal = Record {
            plan: Plan { deed: Deed::ScribbleAll(true), ..Plan::innocent(TASK + 1, 0) },
            ..record(Deed::Nothing, Outcome::Right)
        };
        let journal = [run(TASK + 1, vandals, 1, true), run(TASK, 1, 1, true)].concat();
        let mut evidence = evidence(wrong, journal);
        evidence.records.push(vandal);
        evidence
    };
    let long = pool_ipc::SUMMED_MAX as u64;
    assert_finds(&case(Deed::Large(long), 1), &[]);
    assert_finds(&case(Deed::Large(long / 2), 1), &[Wrong::Blamed]);
    assert_finds(&case(Deed::Large(long), 2), &[Wrong::Blamed]);
    // In which order answers come is the pool's own affair.
    let mut misplaced = case(Deed::Large(long), 1);
    misplaced.records[0].outcome = Outcome::Misplaced("item 3 came as number 2".to_owned());
    assert_finds(&misplaced, &[Wrong::Blamed]);
}

#[test]
fn who_is_cancelled_overdue_or_refused_was_to_be() {
    let cancelled = || failed(Deed::Nothing, &TaskError::Cancelled);
    assert_finds(&evidence(cancelled(), Vec::new()), &[Wrong::Blamed]);
    let may = May { be_cancelled: true, ..May::default() };
    assert_finds(&evidence(Record { may, ..cancelled() }, Vec::new()), &[]);
    let mut refused = evidence(failed(Deed::Nothing, &TaskError::PoolClosed), Vec::new());
    assert_finds(&refused, &[Wrong::Blamed]);
    refused.lives[0].cut_short = true;
    assert_finds(&refused, &[]);
}

#[test]
fn a_limit_is_exceeded_by_those_that_hang_or_were_stopped() {
    let limit = Duration::from_millis(50);
    let plan = Plan { deed: Deed::Hang, timeout: Some(limit), retries: None, ..Plan::innocent(TASK, 0) };
    let error = pool().apply(plan.call()).unwrap_err();
    let case = |deed, limit, hits| Evidence {
        hits,
        ..evidence(Record { limit, ..failed(deed, &error) }, run(TASK, 1, 1, false))
    };
    assert_finds(&case(Deed::Hang, limit, Vec::new()), &[]);
    assert_finds(&case(Deed::Hang, limit * 2, Vec::new()), &[Wrong::Blamed]);
    assert_finds(&case(Deed::Nothing, limit, Vec::new()), &[Wrong::Blamed]);
    // Who prints a stack has symbols to read.
    assert_finds(&case(Deed::DoublePanic, limit, Vec::new()), &[]);
    let mut panics = case(Deed::Panic, limit, Vec::new());
    for backtraces in [false, true] {
        panics.lives[0].settings.backtraces = backtraces;
        assert_finds(&panics, if backtraces { &[] } else { &[Wrong::Blamed] });
    }
    let stop = |pid| vec![Hit { pid, signal: Signal::SIGSTOP }];
    assert_finds(&case(Deed::Nothing, limit, stop(1)), &[]);
    assert_finds(&case(Deed::Nothing, limit, stop(2)), &[Wrong::Blamed]);
}
