//! Leases: who computes what, so that others need not.
//!
//! A lease is a file beside the place of the entry. It saves work, and nothing depends on it: where there is none, or where two
//! have it, an entry is computed twice, and the first one to be published stays.
//!
//! # States
//!
//! ```text
//!           create, exclusively                   renew: its time of change is now
//! None ───────────────────────────▶ Held ─────────────────────────────────────────▶ Held
//!   ▲                                │ the entry is published, or there will be none: removed
//!   ├────────────────────────────────┘
//!   │ renamed away and looked at once more      its process is gone, or it has not been renewed for its time
//!   └─────────────────────────────── Stale ◀──────────────────────────── Held
//! ```
//!
//! # Events and races
//! * *Two want it.* It is created exclusively, which is atomic on every file system, NFS included. The other one waits.
//! * *It is looked at before it is written.* It is empty then: somebody's, of whom nothing is known. It holds for two seconds, should
//!   that one have died before it could write.
//! * *The entry is published between a look for it and the lease.* Whoever gets the lease looks once more; the entry is published
//!   before its lease is removed.
//! * *Two take over the same stale lease.* The slower one may rename away the new lease of the quicker one. It sees that it is not
//!   the one it has looked at (the nonce, or the time of the last renewal, is another), gives it its name back, and waits.
//!   If a third one has got a lease in between, two compute.
//! * *A holder that was suspended is taken over, and goes on.* It finds another nonce when it renews or releases, and has lost it.
//!   Releasing looks at the nonce only if it has not been renewed lately, because otherwise nobody has taken it over.
//! * *Clocks.* The time of the last renewal, and the time of day, are those of the file system. If its clock jumps, or that of a
//!   server is not to be had, a lease is stale when whoever waits has seen it unchanged for its time, by a clock of its own.
//! * *It cannot be removed*, because the file system has become read-only. In its own process it is known to be over ([`Held`]); others
//!   wait for its time, and then cannot take it over, so they compute.
//! * *Process ids of another host or container* mean nothing: see [`Process`]. There, only time tells.
//! * *A fork.* A lease belongs to the process that has made it; the child's copy does nothing.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::fs;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant, SystemTime};

use super::Inner;
use super::error::is_absent;
use super::files::{self, create, open, touch};
use super::process::{Life, Process};

/// The first line of a lease.
const TITLE: &str = "pool-store lease 1";
/// Leases are shorter.
const MOST: u64 = 4096;
/// For so long a lease holds that is not written.
const UNWRITTEN: Duration = Duration::from_secs(2);
/// However long somebody else wants a lease to hold, this is enough.
const LONGEST: Duration = Duration::from_secs(3600);

/// Tells one lease from all others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Nonce([u8; 16]);

impl Nonce {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut hasher = blake3::Hasher::new_derive_key("pool-store: nonce, version 1");
        let own = Process::own();
        // Each is seeded by the system.
        for random in [RandomState::new().hash_one(0), RandomState::new().hash_one(1)] {
            hasher.update(&random.to_le_bytes());
        }
        hasher.update(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        hasher.update(format!("{own:?} {:?}", SystemTime::now()).as_bytes());
        let mut nonce = [0; 16];
        hasher.finalize_xof().fill(&mut nonce);
        Self(nonce)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut nonce = [0; 16];
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in nonce.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(nonce))
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is written in a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) nonce: Nonce,
    pub(crate) process: Process,
    /// How long it holds without being renewed.
    pub(crate) time: Duration,
}

impl Record {
    fn text(&self) -> String {
        let Self { nonce, process: Process { host, boot, namespaces: [pids, times], pid, start }, time } =
            self;
        let host: String = host.chars().take(255).collect();
        format!(
            "{TITLE}\nnonce {nonce}\nhost {host}\nboot {boot}\npid-namespace {pids}\ntime-namespace {times}\npid {pid}\nstart {start}\n\
             holds-ms {}\n",
            time.as_millis()
        )
    }

    fn parse(text: &str) -> Option<Self> {
        // Cut within its last line, it would hold for another time.
        let mut lines = text.strip_prefix(TITLE)?.strip_prefix('\n')?.strip_suffix('\n')?.split('\n');
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let nonce = Nonce::parse(field("nonce")?)?;
        let host = field("host")?.to_owned();
        let boot = field("boot")?.to_owned();
        let namespaces = [field("pid-namespace")?.parse().ok()?, field("time-namespace")?.parse().ok()?];
        let (pid, start) = (field("pid")?.parse().ok()?, field("start")?.parse().ok()?);
        let time = Duration::from_millis(field("holds-ms")?.parse().ok()?);
        Some(Self { nonce, process: Process { host, boot, namespaces, pid, start }, time })
    }
}

/// What is read of a lease, as it would be written; for fuzzing.
#[doc(hidden)]
#[must_use]
pub fn lease_of(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().and_then(Record::parse).map(|record| record.text())
}

/// How a lease looked at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    /// Nothing, if it is not (or not yet) written as a lease should be.
    pub(crate) record: Option<Record>,
    /// When it was renewed last.
    stamp: (i64, i64),
    renewed: SystemTime,
}

impl Sight {
    /// The lease at this path, if there is one.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Self>> {
        let found = open(path).and_then(|file| {
            let meta = file.metadata()?;
            let mut text = Vec::new();
            if meta.is_file() {
                file.take(MOST).read_to_end(&mut text)?;
            }
            let record = std::str::from_utf8(&text).ok().and_then(Record::parse);
            Ok(Self { record, stamp: files::stamp(&meta), renewed: meta.modified()? })
        });
        match found {
            Ok(sight) => Ok(Some(sight)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How long it holds without being renewed. `own`: how long ours do.
    pub(crate) fn time(&self, own: Duration) -> Duration {
        self.record.as_ref().map_or(UNWRITTEN.min(own), |record| record.time).min(LONGEST)
    }

    /// Whether it was stale then, at this time of its file system.
    pub(crate) fn is_stale(&self, own: Duration, now: SystemTime) -> bool {
        let gone = |record: &Record| match record.process.life() {
            Life::Gone => true,
            Life::Own => HELD.of(record.nonce).is_none(),
            Life::Lives | Life::Unknown => false,
        };
        self.record.as_ref().is_some_and(gone)
            || now.duration_since(self.renewed).is_ok_and(|ago| ago > self.time(own))
    }
}

/// The leases of this process: for whom they are, and which thread has made them.
pub(crate) static HELD: Held = Held(Mutex::new(BTreeMap::new()));

/// See [`HELD`].
#[derive(Debug)]
pub(crate) struct Held(Mutex<BTreeMap<Nonce, (u64, ThreadId)>>);

impl Held {
    /// For whom the lease of this process is, and which thread has made it.
    pub(crate) fn of(&self, nonce: Nonce) -> Option<(u64, ThreadId)> {
        self.lock().get(&nonce).copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Nonce, (u64, ThreadId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A nonce that is among those that this process holds, until this is dropped.
#[derive(Debug)]
struct Holding(Nonce);

impl Holding {
    fn new(nonce: Nonce, owner: u64) -> Self {
        HELD.lock().insert(nonce, (owner, std::thread::current().id()));
        Self(nonce)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        HELD.lock().remove(&self.0);
    }
}

/// The right to compute what will be an entry, until it is dropped.
///
/// It has to be [renewed](Self::renew) more often than [`StoreBuilder::lease_time`](crate::StoreBuilder::lease_time) says, or
/// others take it over.
pub struct Lease {
    store: Arc<Inner>,
    path: PathBuf,
    held: Holding,
    pid: u32,
    renewed: Mutex<Option<Instant>>,
}

impl Lease {
    /// Makes a lease for `owner`, if nobody has one.
    pub(crate) fn create(store: &Arc<Inner>, path: PathBuf, owner: u64) -> io::Result<Option<Self>> {
        let record = Record { nonce: Nonce::new(), process: Process::own(), time: store.options.lease_time };
        // Before anybody can see it.
        let held = Holding::new(record.nonce, owner);
        let made = store.files.in_shard(path.parent().unwrap_or(Path::new(".")), false, || create(&path));
        let file = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            made => made?,
        };
        let lease = Self {
            store: Arc::clone(store),
            path,
            held,
            pid: std::process::id(),
            renewed: Mutex::new(Some(Instant::now())),
        };
        // Should this fail, the lease is removed.
        files::write_all(&file, &[record.text().as_bytes()])?;
        Ok(Some(lease))
    }

    /// Has it hold on from now. False if somebody else has it, or if it cannot be renewed.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let dir = dir.path();
    /// use pool_store::{Claim, Store, StoreKey};
    ///
    /// let store = Store::open(dir)?;
    /// let key = StoreKey::of_call("compute", 0, "fn() -> u8", b"");
    /// if let Claim::Held(lease) = store.claim(&key, 0) {
    ///     assert!(lease.renew());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn renew(&self) -> bool {
        if self.pid != std::process::id() {
            return false;
        }
        let still = self.is_ours() && open(&self.path).and_then(|file| touch(&file)).is_ok();
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = still.then(Instant::now);
        still
    }

    fn is_ours(&self) -> bool {
        let sight = Sight::at(&self.path).ok().flatten();
        sight.and_then(|sight| sight.record).is_some_and(|record| record.nonce == self.held.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        // As long as it holds for certain, the file is this one.
        let fresh = renewed.is_some_and(|at| at.elapsed() < self.store.options.lease_time / 2);
        if (fresh || self.is_ours())
            && let Err(error) = fs::remove_file(&self.path)
            && !is_absent(&error)
        {
            tracing::debug!(%error, lease = %self.path.display(), "a lease cannot be removed, and will expire");
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record { nonce: Nonce::new(), process: Process::own(), time: Duration::from_millis(1500) }
    }

    #[test]
    fn a_lease_of_this_process_that_it_does_not_hold_is_stale() {
        let now = SystemTime::now();
        let record = record();
        let sight = Sight { record: Some(record.clone()), stamp: (0, 0), renewed: now };
        assert!(sight.is_stale(Duration::from_secs(30), now));
        let held = Holding::new(record.nonce, 7);
        assert!(!sight.is_stale(Duration::from_secs(30), now));
        assert_eq!(HELD.of(record.nonce), Some((7, std::thread::current().id())));
        drop(held);
        assert!(sight.is_stale(Duration::from_secs(30), now));
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_every_prefix_is_none() {
        let record = record();
        let text = record.text();
        assert_eq!(Record::parse(&text).as_ref(), Some(&record));
        for len in 0..text.len() {
            assert_eq!(Record::parse(&text[..len]), None, "{len} bytes");
        }
        let long = Process { host: "h".repeat(10_000), ..record.process.clone() };
        assert!(Record { process: long, ..record }.text().len() < MOST as usize);
    }

    #[test]
    fn nonces_differ() {
        let nonces: std::collections::HashSet<_> = (0..1000).map(|_| Nonce::new()).collect();
        assert_eq!(nonces.len(), 1000);
        let one = Nonce::new();
        assert_eq!(Nonce::parse(&one.to_string()), Some(one));
        assert!(Nonce::parse("zz").is_none() && Nonce::parse(&"+1".repeat(16)).is_none());
    }

    #[test]
    fn a_lease_is_stale_when_its_process_is_gone_or_its_time_is_over() {
        let now = SystemTime::now();
        let sight = |record, ago| Sight { record, stamp: (0, 0), renewed: now - Duration::from_secs(ago) };
        let own = Duration::from_secs(30);
        let record = || {
            let record = record();
            std::mem::forget(Holding::new(record.nonce, 0));
            record
        };
        assert!(!sight(Some(record()), 1).is_stale(own, now));
        assert!(sight(Some(record()), 2).is_stale(own, now), "it says 1.5 s");
        let ours = Process::own();
        let gone = Process { start: ours.start + 1, ..ours.clone() };
        assert!(sight(Some(Record { process: gone, ..record() }), 0).is_stale(own, now));
        let elsewhere = Process { boot: "elsewhere".into(), ..ours };
        let elsewhere = Record { process: elsewhere, time: Duration::MAX, ..record() };
        assert!(!sight(Some(elsewhere.clone()), 3599).is_stale(own, now));
        assert!(sight(Some(elsewhere), 3601).is_stale(own, now), "however long it wants to hold");
        assert!(!sight(None, 1).is_stale(own, now) && sight(None, 3).is_stale(own, now));
        let ahead = Sight { renewed: now + Duration::from_secs(1000), ..sight(None, 0) };
        assert!(!ahead.is_stale(own, now));
    }
}
