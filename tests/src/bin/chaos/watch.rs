//! Who looks whether anything still moves, and shows how far it is.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr};
use std::process::exit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pool_core::{Pool, WorkerStatus};
use pool_tests::{dump, process};

use crate::saboteur::send;

/// How often everything is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Looks without any outcome, after which everything hangs. Counted, because a program that gets no processor does not hang.
const STALL: u32 = 100;
/// Looks at one actor in the same wait, after which that one hangs while others go on. What is served last may wait for long.
const STUCK: u32 = 300;

/// What an actor does at the moment.
#[derive(Debug, Default)]
struct Station {
    name: String,
    /// Outcomes and steps so far.
    beats: AtomicU64,
    step: Mutex<Option<&'static str>>,
}

/// How one actor says that it moves.
#[derive(Debug, Clone)]
pub(crate) struct Pulse {
    station: Arc<Station>,
    watch: Arc<Board>,
}

impl Pulse {
    /// What the actor does next, `None` when it is at its end.
    pub(crate) fn step(&self, what: Option<&'static str>) {
        *hold(&self.station.step) = what;
        self.beat();
    }

    /// Something has come.
    pub(crate) fn beat(&self) {
        self.station.beats.fetch_add(1, Ordering::Relaxed);
        self.watch.moves.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Board {
    /// Of all actors.
    moves: AtomicU64,
    /// Looks that came late, by how much the latest one did: then the machine was to blame for some delays.
    longest_gap_ms: AtomicU64,
    stations: Mutex<Vec<Arc<Station>>>,
    pools: Mutex<Vec<Pool>>,
    title: Mutex<String>,
    verdict: Mutex<String>,
}

fn hold<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program when something hangs.
#[derive(Debug)]
pub(crate) struct Watch {
    board: Arc<Board>,
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(quiet: bool) -> Self {
        let board = Arc::new(Board::default());
        let (done, is_done) = channel();
        let theirs = Arc::clone(&board);
        let shows = !quiet && stderr().is_terminal();
        let watch = move || {
            let start = Instant::now();
            let (mut moves, mut quiet, mut shown) = (0, 0, 0);
            let mut actors: Vec<(Arc<Station>, u64, u32)> = Vec::new();
            let mut looked = Instant::now();
            while is_done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let gap = looked.elapsed().saturating_sub(LOOK);
                theirs.longest_gap_ms.fetch_max(gap.as_millis() as u64, Ordering::Relaxed);
                looked = Instant::now();
                let now = theirs.moves.load(Ordering::Relaxed);
                quiet = if now == moves { quiet + 1 } else { 0 };
                moves = now;
                actors = look_at(&theirs, actors);
                if quiet == STALL / 2 || actors.iter().any(|(_, _, looks)| *looks == STUCK / 2) {
                    thaw(&theirs);
                }
                let stuck: Vec<_> = actors.iter().filter(|(_, _, looks)| *looks >= STUCK).collect();
                if quiet >= STALL || !stuck.is_empty() {
                    let names: Vec<_> = stuck.iter().map(|(station, ..)| &station.name).collect();
                    give_up(&theirs, &format!("nothing has moved for {quiet} looks; stuck: {names:?}"));
                }
                if shows && start.elapsed().as_secs() > shown {
                    shown = start.elapsed().as_secs();
                    // There is nobody to tell when stderr is closed.
                    let _ = write!(stderr(), "\r\x1b[K{shown:>5} s  {}  {moves} moves", hold(&theirs.title));
                }
            }
            if shows {
                let _ = writeln!(stderr());
            }
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(watch);
        Self { board, done: Some(done), thread: Some(thread.expect("the system has room for a thread")) }
    }

    /// What the progress line says.
    pub(crate) fn title(&self, text: String) {
        *hold(&self.board.title) = text;
        self.board.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// What is printed as the last line when something hangs.
    pub(crate) fn verdict(&self, text: String) {
        *hold(&self.board.verdict) = text;
    }

    pub(crate) fn actor(&self, name: String) -> Pulse {
        let station = Arc::new(Station { name, ..Station::default() });
        hold(&self.board.stations).push(Arc::clone(&station));
        Pulse { station, watch: Arc::clone(&self.board) }
    }

    /// The pools that are shown when something hangs. They are kept alive until they are replaced.
    pub(crate) fn pools(&self, pools: Vec<Pool>) {
        // The former ones end outside of the lock.
        let former = std::mem::replace(&mut *hold(&self.board.pools), pools);
        drop(former);
    }

    /// By how much this program was kept waiting for a processor at most, since it was asked last.
    pub(crate) fn longest_gap(&self) -> Duration {
        Duration::from_millis(self.board.longest_gap_ms.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the watch does not panic");
        }
    }
}

/// Whoever was stopped for ever while it builds a state has a minute for it (`init_timeout`), longer than anybody waits here; and a
/// shorter limit would break pools in which nobody has built it yet. So these go on.
fn thaw(board: &Board) {
    let pools = hold(&board.pools).clone();
    let workers = pools.iter().flat_map(Pool::workers);
    let preparing = workers.filter(|worker| worker.status == WorkerStatus::Preparing);
    for pid in preparing.filter_map(|worker| worker.pid).filter(|pid| process::state(*pid) == Some('T')) {
        send(&mut Vec::new(), pid, Signal::SIGCONT);
    }
}

/// Counts the looks at which each actor was in the same wait.
fn look_at(board: &Board, known: Vec<(Arc<Station>, u64, u32)>) -> Vec<(Arc<Station>, u64, u32)> {
    let mut stations = hold(&board.stations);
    // Those that nobody else holds have ended.
    stations.retain(|station| {
        Arc::strong_count(station) > 1 + usize::from(known.iter().any(|(of, ..)| Arc::ptr_eq(of, station)))
    });
    let look = |station: &Arc<Station>| {
        let beats = station.beats.load(Ordering::Relaxed);
        let looks = known.iter().find(|(of, ..)| Arc::ptr_eq(of, station)).map_or(0, |(_, before, looks)| {
            if *before == beats && hold(&station.step).is_some() { looks + 1 } else { 0 }
        });
        (Arc::clone(station), beats, looks)
    };
    stations.iter().map(look).collect()
}

/// Prints everything that is known, and ends the program.
fn give_up(board: &Board, what: &str) -> ! {
    // The memory first: to look at a pool may set it going again.
    let mut text = format!("\n{}: {what}\n{}", hold(&board.title), dump());
    for station in hold(&board.stations).iter() {
        let (beats, step) = (station.beats.load(Ordering::Relaxed), *hold(&station.step));
        let _ = writeln!(text, "{}: {step:?} after {beats} beats", station.name);
    }
    let say = |text: &str| {
        // There is nobody to tell when stderr is closed.
        let _ = stderr().write_all(text.as_bytes());
    };
    say(&text);
    // Somebody may hang with a pool's lock.
    let pools = std::mem::take(&mut *hold(&board.pools));
    let (told, is_told) = channel::<()>();
    let look = thread::spawn(move || {
        for pool in &pools {
            let _ = writeln!(stderr(), "{pool:?}\n{:#?}\n{:#?}", pool.stats(), pool.workers());
        }
        drop(told);
        // Not to end them now.
        std::mem::forget(pools);
    });
    if is_told.recv_timeout(Duration::from_secs(3)) == Err(RecvTimeoutError::Timeout) {
        say("a pool cannot even be looked at\n");
    }
    drop(look);
    say(&format!("{} hangs 1\n", hold(&board.verdict)));
    exit(1)
}
