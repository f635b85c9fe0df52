//! Other process pools, measured in the same run.
//!
//! Each is measured by a program of its own (`peers/pools.py`, or `peer_procspawn`) that prints a JSON object a line. A
//! measurement that does not end is itself a finding: its program is killed, and runs again without it.

mod programs;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use pool_benches::Outcome;
use serde::Deserialize;

use crate::effort::Effort;
use crate::journal::Journal;
use crate::rows::Row;

pub(crate) use programs::Programs;

/// Longest time for one measurement of a peer.
const PATIENCE: Duration = Duration::from_secs(30);
/// What programs of peers measure, one after another: each fills the rows whose ids begin with its name.
const MEASUREMENTS: [&str; 9] =
    ["map", "singles", "trip_hot", "trip_asleep", "echo", "start", "memory", "idle", "crash"];
/// How often a peer may hang before it is left alone.
const HANGS: usize = 3;

/// What programs of peers print.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Begin { begin: String },
    Figure { row: String, value: f64, note: String },
    Failed { row: String, failed: String },
    End { end: bool },
}

/// The peers that can be measured here.
#[derive(Debug)]
pub(crate) struct Peers {
    programs: Programs,
    /// Measurements that no row is for.
    unwanted: Vec<&'static str>,
    /// By peer: measurements that have hung, and are not tried again.
    hung: Vec<(String, String)>,
}

impl Peers {
    /// Installs what is missing; says in the journal what cannot be had.
    pub(crate) fn set_up(rows: &[Row], journal: &mut Journal) -> Outcome<Self> {
        let wanted = |name: &&str| rows.iter().any(|row| row.peers && row.id.starts_with(name));
        let unwanted = MEASUREMENTS.into_iter().filter(|name| !wanted(name)).collect();
        Ok(Self { programs: Programs::set_up(journal)?, unwanted, hung: Vec::new() })
    }

    /// Measures all of them once. What fails is a remark.
    pub(crate) fn run(&mut self, effort: Effort, repeated: bool, journal: &mut Journal) {
        for peer in self.programs.names() {
            eprintln!("    {peer}");
            if let Err(error) = self.run_one(&peer, effort, repeated, journal) {
                journal.remark(format!("{peer}: {error}"));
            }
        }
    }

    fn run_one(&mut self, peer: &str, effort: Effort, repeated: bool, journal: &mut Journal) -> Outcome<()> {
        for _ in 0..HANGS {
            let skipped = self.hung.iter().filter(|(of, _)| of == peer).map(|(_, what)| what.as_str());
            let mut skipped: Vec<&str> = skipped.chain(self.unwanted.iter().copied()).collect();
            if repeated {
                // Takes seconds with some, and hardly varies.
                skipped.extend(["idle", "memory"]);
            }
            let mut command = self.programs.command(peer)?;
            command.args(["--skip", &skipped.join(",")]);
            if effort.quick {
                command.arg("--quick");
            }
            match listen(peer, &mut command, journal)? {
                None => return Ok(()),
                Some(what) => {
                    journal.remark(format!("{peer}: {what} hangs (given up after {PATIENCE:?})"));
                    journal.note_hang(format!("peer.{peer}.{what}"));
                    self.hung.push((peer.to_owned(), what));
                }
            }
        }
        Ok(())
    }
}

/// Notes what a program prints; returns the measurement in which it hangs, if it does.
fn listen(peer: &str, command: &mut Command, journal: &mut Journal) -> Outcome<Option<String>> {
    let mut program = Group::start(command)?;
    let lines = program.lines()?;
    let mut doing = String::from("its start");
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => match serde_json::from_str(&line)? {
                Line::Begin { begin } => doing = begin,
                Line::Figure { row, value, note } => {
                    journal.note(&format!("peer.{peer}.{row}"), value);
                    if !note.is_empty() {
                        journal.remark(format!("{peer}, {row}: {note}"));
                    }
                }
                Line::Failed { row, failed } => journal.remark(format!("{peer}, {row}: {failed}")),
                Line::End { end } if end => return Ok(None),
                Line::End { .. } => {}
            },
            Err(RecvTimeoutError::Timeout) => return Ok(Some(doing)),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("its program ended early, in {doing}").into());
            }
        }
    }
}

/// A program in a process group of its own; all that is left of the group is killed when this is dropped, since some pools
/// leave workers behind.
#[derive(Debug)]
struct Group(Child);

impl Group {
    fn start(command: &mut Command) -> Outcome<Self> {
        Ok(Self(command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?))
    }

    fn lines(&mut self) -> Outcome<Receiver<String>> {
        let output = self.0.stdout.take().ok_or("the program has no output")?;
        let (sender, receiver) = channel();
        std::thread::Builder::new().name("peer-output".to_owned()).spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        })?;
        Ok(receiver)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(leader) = i32::try_from(self.0.id()) {
            // The leader has not been reaped, so the number is still its own. Fails only when nobody is left.
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
        let _ = self.0.wait();
    }
}
