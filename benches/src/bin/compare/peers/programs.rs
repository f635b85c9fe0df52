//! Where the programs of the peers are, and what has to be installed for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pool_benches::Outcome;

use crate::journal::Journal;

const REQUIREMENTS: &str = include_str!("../../../../peers/requirements.txt");
const SCRIPT: &str = include_str!("../../../../peers/pools.py");
/// By name: what has to be importable.
const PYTHON_PEERS: [(&str, &str); 7] = [
    ("multiprocessing", "multiprocessing"),
    ("billiard", "billiard"),
    ("executor", "concurrent.futures"),
    ("loky", "loky"),
    ("joblib", "joblib"),
    ("pebble", "pebble"),
    ("mpire", "mpire"),
];
const RUST_PEER: &str = "procspawn";
const RUST_PROGRAM: &str = "peer_procspawn";

/// How each peer is started.
#[derive(Debug)]
pub(crate) struct Programs {
    python: PathBuf,
    script: PathBuf,
    rust: Option<PathBuf>,
    names: Vec<String>,
}

impl Programs {
    /// Makes a virtual environment and builds the other Rust pool, both beside this executable, unless they are there.
    pub(crate) fn set_up(journal: &mut Journal) -> Outcome<Self> {
        let own = std::env::current_exe()?;
        let folder = own.parent().ok_or("this executable is in no folder")?;
        let target = folder.parent().ok_or("this executable is in no target folder")?.join("peers");
        fs::create_dir_all(&target)?;
        let script = target.join("pools.py");
        fs::write(&script, SCRIPT)?;
        let mut names = Vec::new();

        let rust = match build(folder) {
            Ok(program) => {
                names.push(RUST_PEER.to_owned());
                Some(program)
            }
            Err(error) => {
                journal.remark(format!("{RUST_PEER}: cannot be built: {error}"));
                None
            }
        };
        let python = target.join("bin/python");
        if let Err(error) = install(&target, journal) {
            journal.remark(format!("pools in Python: no virtual environment: {error}"));
        } else {
            for (name, module) in PYTHON_PEERS {
                match quietly(Command::new(&python).args(["-c", &format!("import {module}")])) {
                    Ok(()) => names.push(name.to_owned()),
                    Err(error) => journal.remark(format!("{name}: cannot be imported: {error}")),
                }
            }
        }
        Ok(Self { python, script, rust, names })
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    pub(crate) fn command(&self, peer: &str) -> Outcome<Command> {
        if peer == RUST_PEER {
            return Ok(Command::new(self.rust.as_ref().ok_or("it has not been built")?));
        }
        let mut command = Command::new(&self.python);
        command.arg(&self.script).arg(peer);
        Ok(command)
    }
}

/// The versions that are wanted are there if the note that was left after their installation says so.
fn install(target: &Path, journal: &mut Journal) -> Outcome<()> {
    let note = target.join("installed.txt");
    if fs::read_to_string(&note).is_ok_and(|installed| installed == REQUIREMENTS) {
        return Ok(());
    }
    eprintln!("installing peers into {}", target.display());
    quietly(Command::new("python3").args(["-m", "venv"]).arg(target))?;
    let mut whole = true;
    for package in REQUIREMENTS.lines().filter(|line| !line.is_empty()) {
        let mut pip = Command::new(target.join("bin/python"));
        if let Err(error) = quietly(pip.args(["-m", "pip", "install", "--quiet", package])) {
            journal.remark(format!("{package}: cannot be installed: {error}"));
            whole = false;
        }
    }
    if whole {
        fs::write(&note, REQUIREMENTS)?;
    }
    Ok(())
}

/// Has cargo build the program beside this one; when there is no cargo, one that is there will do.
fn build(folder: &Path) -> Outcome<PathBuf> {
    let program = folder.join(RUST_PROGRAM);
    let target = folder.parent().ok_or("this executable is in no target folder")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--package", "pool-benches", "--bin", RUST_PROGRAM, "--target-dir"])
        .arg(target);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    match quietly(&mut command) {
        Err(error) if !program.exists() => Err(error),
        // An old one measures the same library.
        _ => Ok(program),
    }
}

/// Runs a command; the error has the last line that it has written on stderr.
fn quietly(command: &mut Command) -> Outcome<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Err(last.to_owned().into())
}
