//! Control groups: one for each worker, where limits need one.
//!
//! Where they are made, `hierarchy.rs` says. Whether this program may do all that is needed there is tried out when the pool is
//! built.
//!
//! # Life of a group
//! Made before its worker is spawned; the worker joins it itself before it does anything else, so that no child of a task can
//! be outside. When the worker is killed or dead, everybody in the group is killed: by `cgroup.kill` of the second version, for which a
//! group is made there even where the limits are in the first; or one by one, once `pids.max` allows no new ones. Then
//! it is removed, or, while somebody in it is still dying, later: before the next one is made, and at the end of the pool.
//! A group that has outlived a killed program is empty, and is removed by the next pool of the same user.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::WorkerLimits;
use crate::supervisor::hierarchy::{Version, places, unified};
use crate::sys::process;

/// Where the hierarchies are.
const MOUNTED: &str = "/sys/fs/cgroup";
/// What the names of our groups begin with.
const PREFIX: &str = "pool-worker-";
/// Threads that a worker has for itself.
const OWN_THREADS: u64 = 1;
/// How long the end of the pool waits for the last process of a group to be gone.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a group is looked through for processes to be killed: each time, only those can be new that began before.
const SWEEPS: u32 = 100;

/// Numbers the groups of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Where groups are made, and with which limits.
#[derive(Debug)]
pub(crate) struct Groups {
    /// The directories that get a group for each worker.
    places: Vec<PathBuf>,
    /// Which of them has the controller, and the limit.
    pids: Option<(usize, u32)>,
    memory: Option<(usize, u64, Version)>,
    /// Groups that could not be removed yet.
    left: Mutex<Vec<PathBuf>>,
}

/// The group of one worker: a directory in each of the places.
#[derive(Debug)]
pub(crate) struct Group {
    dirs: Vec<PathBuf>,
    /// `pids.events`.
    pids: Option<File>,
    all: Arc<Groups>,
}

impl Groups {
    /// Finds out where groups can be made; `None` if no limit needs one.
    ///
    /// # Errors
    /// Why there can be none, for people.
    pub(crate) fn find(limits: &WorkerLimits) -> Result<Option<Arc<Self>>, String> {
        if limits.processes.is_none() && limits.total_memory.is_none() {
            return Ok(None);
        }
        let own =
            fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
        let wanted = [
            limits.processes.map(|_| ("`processes`", "pids")),
            limits.total_memory.map(|_| ("`total_memory`", "memory")),
        ];
        let (names, controllers): (Vec<&str>, Vec<&str>) = wanted.into_iter().flatten().unzip();
        let needs = |why: String| {
            let verb = if names.len() == 1 { "needs" } else { "need" };
            format!("{} {verb} a control group: {why}", names.join(" and "))
        };
        let is_root = nix::unistd::geteuid().is_root();
        let found = places(Path::new(MOUNTED), &own, &controllers, is_root).map_err(&needs)?;
        let mut places: Vec<PathBuf> = Vec::new();
        for (dir, _) in &found {
            if !places.contains(dir) {
                places.push(dir.clone());
            }
        }
        let at = |controller: &str| {
            let (dir, version) = found.get(controllers.iter().position(|name| *name == controller)?)?;
            Some((places.iter().position(|known| known == dir)?, *version))
        };
        let pids = limits.processes.zip(at("pids")).map(|(most, (at, _))| (at, most));
        let memory = limits.total_memory.zip(at("memory")).map(|(most, (at, version))| (at, most, version));
        // A process is in one group of the second version.
        if found.iter().all(|(_, version)| *version == Version::One)
            && let Some(unified) = unified(Path::new(MOUNTED), &own).filter(|dir| can_kill(dir))
        {
            places.push(unified);
        }
        places.iter().for_each(|place| clear(place));
        let groups = Arc::new(Self { places, pids, memory, left: Mutex::default() });
        let tried = groups.make().and_then(|group| group.dirs.iter().try_for_each(|dir| may_join(dir)));
        match tried {
            Ok(()) => Ok(Some(groups)),
            Err(error) => Err(needs(format!("this program may not make one: {error}"))),
        }
    }

    /// Makes a group for a worker.
    pub(crate) fn make(self: &Arc<Self>) -> io::Result<Group> {
        self.tidy();
        let name = format!("{}{}", prefix(std::process::id()), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut group = Group { dirs: Vec::new(), pids: None, all: Arc::clone(self) };
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        for place in &self.places {
            let dir = place.join(&name);
            fs::create_dir(&dir).map_err(|error| named(&dir, error))?;
            // From here on it is removed whatever happens.
            group.dirs.push(dir);
        }
        let set = |at: usize, file: &str, value: u64| {
            let path = group.dirs[at].join(file);
            fs::write(&path, value.to_string()).map_err(|error| named(&path, error))
        };
        if let Some((at, most)) = self.pids {
            set(at, "pids.max", u64::from(most) + OWN_THREADS)?;
            let path = group.dirs[at].join("pids.events");
            group.pids = Some(File::open(&path).map_err(|error| named(&path, error))?);
        }
        match self.memory {
            Some((at, most, Version::One)) => {
                set(at, "memory.limit_in_bytes", most)?;
                if group.dirs[at].join("memory.memsw.limit_in_bytes").exists() {
                    set(at, "memory.memsw.limit_in_bytes", most)?;
                }
            }
            Some((at, most, Version::Two)) => {
                set(at, "memory.max", most)?;
                if group.dirs[at].join("memory.swap.max").exists() {
                    set(at, "memory.swap.max", 0)?;
                }
                set(at, "memory.oom.group", 1)?;
            }
            None => {}
        }
        Ok(group)
    }

    /// The most processes and threads that tasks may have.
    pub(crate) fn processes(&self) -> Option<u32> {
        self.pids.map(|(_, most)| most)
    }

    /// Removes what could not be removed before.
    fn tidy(&self) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|dir| fs::remove_dir(dir).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
        left.is_empty()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // The processes have been killed; what remains is their way out.
        let deadline = Instant::now() + PATIENCE;
        while !self.tidy() {
            if Instant::now() >= deadline {
                tracing::warn!(left = ?self.left, "control groups cannot be removed");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Group {
    /// The files through which the worker joins it.
    pub(crate) fn doors(&self) -> Vec<Vec<u8>> {
        self.dirs.iter().map(|dir| dir.join("cgroup.procs").as_os_str().as_bytes().to_vec()).collect()
    }

    /// Whether a process or a thread could not be started because there were too many.
    pub(crate) fn is_full(&self) -> bool {
        let mut text = [0; 64];
        let len = self.pids.as_ref().and_then(|file| file.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = std::str::from_utf8(&text[..len]).unwrap_or_default();
        field(text, "max").is_some_and(|count| count > 0)
    }

    /// If its limit of memory has cost somebody in it his life: the most memory that it had, and the limit.
    pub(crate) fn out_of_memory(&self) -> Option<(u64, u64)> {
        let (at, limit, version) = self.all.memory?;
        let read = |file: &str| fs::read_to_string(self.dirs[at].join(file)).unwrap_or_default();
        let number = |file: &str| read(file).trim().parse::<u64>().ok();
        let (events, peak) = match version {
            Version::One => {
                // With and without what was swapped out; its counters of failures do not count both on every kernel.
                let peaks = ["memory.max_usage_in_bytes", "memory.memsw.max_usage_in_bytes"].map(number);
                (read("memory.oom_control"), peaks.into_iter().flatten().max())
            }
            Version::Two => (read("memory.events"), number("memory.peak")),
        };
        // That somebody was killed does not tell whose limit it was: this one has been reached, but for the last pages.
        let reached = match version {
            Version::One => peak? >= limit - limit / 64,
            Version::Two => field(&events, "oom")? > 0,
        };
        (field(&events, "oom_kill")? > 0 && reached).then(|| (peak.unwrap_or(limit).min(limit), limit))
    }

    /// The evidence that somebody in it was killed for want of memory, whosever limit it was. The group of this program does not
    /// count that: in the first version it is never told of those below it, in the second this one is beside it.
    pub(crate) fn oom_killed(&self) -> Option<String> {
        let (at, _, version) = self.all.memory?;
        let file = self.dirs[at].join(match version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        });
        let count = field(&fs::read_to_string(&file).ok()?, "oom_kill").filter(|count| *count > 0)?;
        Some(format!("oom_kill in {} is {count}", file.display()))
    }

    /// Kills everybody in it.
    pub(crate) fn kill(&self) {
        let by_kernel = self.dirs.iter().map(|dir| dir.join("cgroup.kill")).find(|file| file.exists());
        match by_kernel.map(|file| fs::write(file, "1")) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot kill a control group at once");
                self.kill_one_by_one();
            }
            None => self.kill_one_by_one(),
        }
    }

    fn kill_one_by_one(&self) {
        if let Some((at, _)) = self.all.pids
            && let Err(error) = fs::write(self.dirs[at].join("pids.max"), "0")
        {
            tracing::warn!(%error, "cannot forbid new processes in a control group");
        }
        let Some(dir) = self.dirs.first() else { return };
        let members = || -> Vec<u32> {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            text.lines().filter_map(|pid| pid.parse().ok()).collect()
        };
        for _ in 0..SWEEPS {
            let found = members();
            if found.is_empty() {
                return;
            }
            // The number of one that has just ended may be somebody else's by now: who is meant is looked up once more.
            let open = found.into_iter().filter_map(|pid| Some((pid, process::pidfd_open(pid).ok()?)));
            let open: Vec<_> = open.collect();
            let still = members();
            for (pid, pidfd) in open.iter().filter(|(pid, _)| still.contains(pid)) {
                if let Err(error) = process::pidfd_kill(std::os::fd::AsFd::as_fd(pidfd))
                    && error.raw_os_error() != Some(libc::ESRCH)
                {
                    tracing::warn!(pid, %error, "cannot kill a process of a control group");
                }
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.pids = None;
        let mut left = self.all.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.extend(self.dirs.drain(..).filter(|dir| fs::remove_dir(dir).is_err()));
    }
}

/// The number behind a name in a file of such lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Whether workers can join a group that this program has made.
fn may_join(dir: &Path) -> io::Result<()> {
    let named =
        |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let writable = |dir: &Path| {
        let path = dir.join("cgroup.procs");
        fs::File::options().write(true).open(&path).map_err(|error| named(&path, error)).map(drop)
    };
    writable(dir)?;
    // Of the second version. There one must be allowed to write to the group that is above both, too; and what is below a group that
    // shares something out among its own threads is for threads.
    match fs::read_to_string(dir.join("cgroup.type")) {
        Ok(kind) if kind.trim() != "domain" => {
            let why = format!("{} would be for threads only", dir.display());
            Err(io::Error::new(io::ErrorKind::Unsupported, why))
        }
        Ok(_) => dir.parent().map_or(Ok(()), writable),
        Err(_) => Ok(()),
    }
}

/// Whether groups made there can be killed at once, and this program may make some.
fn can_kill(dir: &Path) -> bool {
    let probe = dir.join(format!("{}{}", prefix(std::process::id()), NEXT.fetch_add(1, Ordering::Relaxed)));
    if fs::create_dir(&probe).is_err() {
        return false;
    }
    let can = probe.join("cgroup.kill").exists() && may_join(&probe).is_ok();
    fs::remove_dir(&probe).is_ok() && can
}

/// What the names of a process's groups begin with. Numbers of processes mean something in their name space only.
fn prefix(pid: u32) -> String {
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let space: String = space.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("{PREFIX}{space}-{pid}-")
}

/// Removes groups whose program is gone.
fn clear(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.rsplit('-').nth(1)?.parse::<u32>().ok()) else {
            continue;
        };
        if name.to_str().is_some_and(|name| name.starts_with(&prefix(pid)))
            && !Path::new(&format!("/proc/{pid}")).exists()
            && let Err(error) = fs::remove_dir(entry.path())
        {
            tracing::debug!(%error, group = ?entry.path(), "a control group of a dead program stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 1\noom_kill 3\n";
        assert_eq!(
            (field(text, "oom_kill"), field(text, "oom"), field(text, "under_oom")),
            (Some(3), None, Some(1))
        );
    }

    #[test]
    fn names_tell_whose_they_are() {
        let own = prefix(77);
        assert!(own.starts_with(PREFIX) && own.ends_with("-77-"), "{own}");
        assert_eq!(format!("{own}5").rsplit('-').nth(1), Some("77"));
    }

    #[test]
    fn groups_of_programs_that_are_gone_are_removed_and_no_others() {
        let place = std::env::temp_dir().join(format!("cgroups-{}", std::process::id()));
        // No process has such a number; see proc_sys_kernel(5).
        let gone = format!("{}7", prefix(4_194_304 + 1));
        let others = [format!("{}7", prefix(std::process::id())), "system-4194305-7".to_owned()];
        for name in others.iter().chain([&gone]) {
            fs::create_dir_all(place.join(name)).expect("a writable /tmp");
        }
        clear(&place);
        assert!(!place.join(&gone).exists());
        assert!(others.iter().all(|name| place.join(name).exists()));
        fs::remove_dir_all(&place).expect("it was made above");
    }

    #[test]
    fn whoever_is_in_a_group_can_be_killed_one_by_one() {
        use std::process::{Command, Stdio};
        let limits = WorkerLimits::new().processes(20);
        let groups = match Groups::find(&limits) {
            Ok(groups) => groups.expect("a limit needs one"),
            Err(why) => {
                eprintln!("skipped: {why}");
                return;
            }
        };
        let group = groups.make().expect("one could be made");
        let door = group.dirs[0].join("cgroup.procs");
        let script = format!("echo 0 > {}; setsid sleep 600 & sleep 600 & echo in; wait", door.display());
        let mut child =
            Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a pipe");
        assert_eq!(line, "in\n");
        assert!(fs::read_to_string(&door).expect("it is there").lines().count() >= 3);
        group.kill_one_by_one();
        let status = child.wait().expect("it is our child");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
        let dirs = group.dirs.clone();
        drop((group, groups));
        assert!(dirs.iter().all(|dir| !dir.exists()), "{dirs:?}");
    }
}
