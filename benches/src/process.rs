//! Processes as `/proc` shows them: which ones there are, what memory they hold, how often they wake up.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::Outcome;

/// Every process that this one has started, and what those have started, as long as the parents live.
///
/// # Errors
/// `/proc` cannot be read.
pub fn descendants() -> io::Result<Vec<u32>> {
    let mut parents: Vec<(u32, u32)> = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process that ends meanwhile is none of ours, or is not there any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name may hold anything, parentheses and spaces included.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![std::process::id()];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Memory of processes, in bytes, as `smaps_rollup` tells it.
///
/// What several processes share is divided between them there, so that a sum over them counts it once. Page tables and the
/// buffers of pipes are not shown by the kernel, and not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What no file stands behind, `Pss_Anon` + `Pss_Shmem`: heap, stacks, copied-on-write pages and shared memory. The
    /// executable and its libraries are left out: they are in the page cache once, however many processes run them.
    pub own: u64,
    /// `Pss`: the same, and this process's share of the executable and its libraries.
    pub all: u64,
}

impl Memory {
    /// Of one process.
    ///
    /// # Errors
    /// The process is gone, or the kernel is older than 5.4.
    pub fn of(pid: u32) -> Outcome<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let field = |name: &str| -> Outcome<u64> {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            let value = value.ok_or_else(|| format!("{path} has no {name}"))?;
            Ok(value.trim().parse::<u64>()? * 1024)
        };
        Ok(Self { own: field("Pss_Anon:")? + field("Pss_Shmem:")?, all: field("Pss:")? })
    }

    /// Of this process and of all its descendants together.
    ///
    /// # Errors
    /// Those of [`of`](Self::of) and [`descendants`].
    pub fn of_family() -> Outcome<Self> {
        let mut sum = Self::of(std::process::id())?;
        for pid in descendants()? {
            let one = Self::of(pid)?;
            sum = Self { own: sum.own + one.own, all: sum.all + one.all };
        }
        Ok(sum)
    }

    /// What has come since then.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self { own: self.own.saturating_sub(before.own), all: self.all.saturating_sub(before.all) }
    }
}

/// What threads have done so far: by thread, how often it has been switched away from, and for how long it has run, in ns.
pub type Activity = BTreeMap<u32, (u64, u64)>;

/// The activity of all threads of this process but the calling one, and of all its descendants.
///
/// # Errors
/// `/proc` cannot be read.
pub fn activity() -> Outcome<Activity> {
    let own = nix::unistd::gettid().as_raw();
    let mut all = Activity::new();
    let mut pids = descendants()?;
    pids.push(std::process::id());
    for pid in pids {
        let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let path = thread.path();
            let Ok(number) = thread.file_name().to_string_lossy().parse::<u32>() else { continue };
            if i32::try_from(number) == Ok(own) {
                continue;
            }
            // A thread that ends meanwhile is idle from then on.
            let Ok(status) = fs::read_to_string(path.join("status")) else { continue };
            let Ok(times) = fs::read_to_string(path.join("schedstat")) else { continue };
            let switches = status.lines().filter(|line| line.contains("ctxt_switches:"));
            let switches =
                switches.filter_map(|line| line.rsplit(':').next()?.trim().parse::<u64>().ok()).sum();
            let ran = times.split(' ').next().and_then(|ran| ran.parse().ok()).unwrap_or(0);
            all.insert(number, (switches, ran));
        }
    }
    Ok(all)
}

/// What has happened between two looks: switches, and ns of processor time. Threads that came between count in full.
#[must_use]
pub fn activity_between(before: &Activity, after: &Activity) -> (u64, u64) {
    after.iter().fold((0, 0), |(switches, ran), (thread, now)| {
        let then = before.get(thread).copied().unwrap_or((0, 0));
        (switches + now.0.saturating_sub(then.0), ran + now.1.saturating_sub(then.1))
    })
}
