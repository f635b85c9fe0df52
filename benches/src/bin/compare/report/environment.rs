//! Where it was measured, and how much the machine did besides.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use pool_benches::Outcome;
use serde::Serialize;

/// The machine, and how busy it was.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Environment {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) kernel: String,
    /// Seconds since 1970.
    pub(crate) at: u64,
    pub(crate) quick: bool,
    pub(crate) rounds: u32,
    pub(crate) load_before: String,
    pub(crate) load_after: String,
    /// Share of the cores' time that other programs used meanwhile, in percent. Anything but a little makes the figures noisy.
    pub(crate) others_percent: f64,
    /// Share that the machine was not given although it had work, in percent: it is a virtual one.
    pub(crate) stolen_percent: f64,
    #[serde(skip)]
    start: Ticks,
}

/// Processor time so far, in seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Ticks {
    /// Of all processors, idle or not.
    all: f64,
    busy: f64,
    stolen: f64,
    /// Of this program, and of its children that have ended.
    own: f64,
}

impl Environment {
    /// As it is now, before anything is measured. What `/proc` does not tell is left empty.
    pub(crate) fn look(quick: bool, rounds: u32) -> Outcome<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: model.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            kernel: kernel.trim().to_owned(),
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            quick,
            rounds,
            load_before: load(),
            load_after: String::new(),
            others_percent: 0.0,
            stolen_percent: 0.0,
            start: Ticks::now()?,
        })
    }

    /// Looks again, after everything has been measured.
    pub(crate) fn finish(&mut self) -> Outcome<()> {
        let (then, now) = (self.start, Ticks::now()?);
        let all = (now.all - then.all).max(1e-9);
        let others = (now.busy - then.busy) - (now.own - then.own);
        self.others_percent = (100.0 * others / all).max(0.0);
        self.stolen_percent = 100.0 * (now.stolen - then.stolen) / all;
        self.load_after = load();
        Ok(())
    }
}

impl Ticks {
    fn now() -> Outcome<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let line = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("cpu "))
            .ok_or("/proc/stat begins otherwise")?;
        let fields = line.split_whitespace().map(|field| Ok(field.parse::<f64>()? / 100.0));
        let fields = fields.collect::<Outcome<Vec<f64>>>()?;
        let [user, nice, system, idle, waiting, interrupts, soft_interrupts, stolen, ..] = fields[..] else {
            return Err("/proc/stat has fewer fields than it used to".into());
        };
        let busy = user + nice + system + interrupts + soft_interrupts;
        let mut own = 0.0;
        for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
            let usage = getrusage(who)?;
            own +=
                (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6;
        }
        Ok(Self { all: busy + idle + waiting + stolen, busy, stolen, own })
    }
}

fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
