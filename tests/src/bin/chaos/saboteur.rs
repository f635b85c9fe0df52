//! Signals from outside, to workers and zygotes, at any moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pool_core::Pool;
use pool_tests::{process, zygote};

use crate::random::Random;

/// A signal that was sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) pid: u32,
    pub(crate) signal: Signal,
}

/// How cruel it is in a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cruelty {
    /// The longest pause between two attacks.
    pub(crate) pause: Duration,
    /// Whether it stops workers and never continues them.
    pub(crate) freezes: bool,
    /// Whether it goes for zygotes, too.
    pub(crate) zygotes: bool,
}

impl Cruelty {
    pub(crate) fn draw(random: &mut Random) -> Option<Self> {
        random.percent(85).then(|| Self {
            pause: Duration::from_millis(random.between(2, 200)),
            freezes: random.percent(25),
            zygotes: random.percent(50),
        })
    }
}

/// Attacks until `enough`, and returns what it has done.
pub(crate) fn sabotage(
    random: &mut Random,
    cruelty: Cruelty,
    pools: &[Pool],
    enough: &AtomicBool,
) -> Vec<Hit> {
    let mut hits = Vec::new();
    let mut stopped: Vec<(Instant, u32)> = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        // Moments by chance are the subject.
        thread::sleep(cruelty.pause.mul_f64(random.below(1000) as f64 / 1000.0));
        let now = Instant::now();
        for (_, pid) in stopped.extract_if(.., |(until, _)| *until <= now) {
            send(&mut hits, pid, Signal::SIGCONT);
        }
        let workers: Vec<u32> = random.pick(pools).workers().iter().filter_map(|worker| worker.pid).collect();
        if workers.is_empty() {
            continue;
        }
        let pid = *random.pick(&workers);
        match random.below(100) {
            0..45 => send(&mut hits, pid, Signal::SIGKILL),
            45..58 => send(&mut hits, pid, Signal::SIGSEGV),
            58..70 => send(&mut hits, pid, Signal::SIGTERM),
            70..74 => send(&mut hits, pid, Signal::SIGABRT),
            74..92 => {
                send(&mut hits, pid, Signal::SIGSTOP);
                if !(cruelty.freezes && random.percent(10)) {
                    stopped.push((now + Duration::from_millis(random.skewed(300)), pid));
                }
            }
            92..96 => workers.iter().for_each(|pid| send(&mut hits, *pid, Signal::SIGKILL)),
            _ if cruelty.zygotes => {
                let signal = *random.pick(&[Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGTERM]);
                zygote::pids().iter().for_each(|pid| send(&mut hits, *pid, signal));
            }
            _ => {}
        }
    }
    stopped.into_iter().for_each(|(_, pid)| send(&mut hits, pid, Signal::SIGCONT));
    hits
}

/// Only to children: the number of one that is gone may be somebody else's by now.
pub(crate) fn send(hits: &mut Vec<Hit>, pid: u32, signal: Signal) {
    if process::parent(pid) != Some(std::process::id()) {
        return;
    }
    let sent = i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), signal).is_ok());
    if sent {
        hits.push(Hit { pid, signal });
    }
}
