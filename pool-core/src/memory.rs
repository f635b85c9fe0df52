//! What the kernel tells about memory: resident sets, and whether the OOM killer has struck.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::sys::process;

/// `VmRSS` and `VmHWM` of a process, in bytes.
pub(crate) fn resident(pid: u32) -> Option<(u64, u64)> {
    // The name in it need not be text.
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// Tells again and again how much private memory a process has.
#[derive(Debug)]
pub(crate) struct Scales {
    statm: File,
    page: u64,
}

impl Scales {
    /// The process must not have been reaped: its number could belong to another one.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let statm = File::open(format!("/proc/{pid}/statm")).ok()?;
        Some(Self { statm, page: process::page_size() })
    }

    /// What is resident and neither mapped from a file nor shared, in bytes; `None` if the process is gone.
    pub(crate) fn private(&self) -> Option<u64> {
        let mut text = [0; 256];
        let len = self.statm.read_at(&mut text, 0).ok()?;
        let mut fields = std::str::from_utf8(&text[..len]).ok()?.split_ascii_whitespace().skip(1);
        let mut pages = || fields.next()?.parse::<u64>().ok();
        let (resident, shared) = (pages()?, pages()?);
        Some(resident.saturating_sub(shared) * self.page)
    }
}

/// Counts the kills of the kernel's OOM killer in the memory cgroup of this program.
///
/// A worker that was killed by SIGKILL and not by the pool is attributed to the OOM killer only if this counter has grown
/// since it was looked at last; every increase explains one death.
#[derive(Debug)]
pub(crate) struct OomCounter {
    file: Option<PathBuf>,
    explained: u64,
}

impl OomCounter {
    /// Finds the counter: `memory.events` (cgroup v2) or `memory.oom_control` (v1).
    pub(crate) fn find() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::at(candidates(&own).into_iter().find(|path| read(path).is_some()))
    }

    fn at(file: Option<PathBuf>) -> Self {
        let explained = file.as_deref().and_then(read).unwrap_or(0);
        Self { file, explained }
    }

    /// The evidence that a process has just been killed for want of memory, if there is any.
    pub(crate) fn explain(&mut self) -> Option<String> {
        let file = self.file.as_deref()?;
        let count = read(file)?;
        if count <= self.explained {
            return None;
        }
        let evidence = format!("oom_kill in {} rose from {} to {count}", file.display(), self.explained);
        self.explained += 1;
        Some(evidence)
    }

    /// What has been counted by now has been explained otherwise.
    pub(crate) fn skip(&mut self) {
        self.explained = self.file.as_deref().and_then(read).unwrap_or(self.explained);
    }
}

/// Where the counter may be, given `/proc/self/cgroup`.
fn candidates(own: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = path.trim_start_matches('/');
        if controllers.split(',').any(|name| name == "memory") {
            found.push(Path::new("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"));
        } else if controllers.is_empty() {
            for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
                found.push(Path::new(root).join(path).join("memory.events"));
            }
        }
    }
    found
}

fn read(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_memory() {
        let (now, peak) = resident(std::process::id()).expect("Linux tells");
        assert!(now > 100_000 && peak >= now, "{now} {peak}");
        assert_eq!(resident(u32::MAX), None);
    }

    #[test]
    fn weighs_what_is_private() {
        let own = Scales::of(std::process::id()).expect("Linux tells");
        let before = own.private().expect("it lives");
        let block = std::hint::black_box(vec![0xA5_u8; 64 << 20]);
        let with = own.private().expect("it lives");
        // Other tests may give memory back meanwhile.
        assert!(with > before + (32 << 20), "{before} {with}");
        drop(block);
        assert!(Scales::of(u32::MAX).is_none());
    }

    #[test]
    fn finds_both_generations_of_cgroups() {
        let found = candidates("9:cpu:/a\n4:memory:/jobs/1\n0::/x.slice\n");
        let expected = [
            "/sys/fs/cgroup/memory/jobs/1/memory.oom_control",
            "/sys/fs/cgroup/x.slice/memory.events",
            "/sys/fs/cgroup/unified/x.slice/memory.events",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn each_increase_explains_one_death() {
        let file = std::env::temp_dir().join(format!("oom-counter-{}", std::process::id()));
        let write = |count: u32| {
            std::fs::write(&file, format!("oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n"))
                .expect("a writable /tmp");
        };
        write(3);
        let mut counter = OomCounter::at(Some(file.clone()));
        assert_eq!(counter.explain(), None);
        write(4);
        assert!(counter.explain().is_some_and(|evidence| evidence.ends_with("rose from 3 to 4")));
        assert_eq!(counter.explain(), None);
        std::fs::remove_file(&file).expect("it was written above");
        assert_eq!(counter.explain(), None);
    }
}
