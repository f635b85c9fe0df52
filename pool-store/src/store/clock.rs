//! What time it is on the file system, which may be another host's.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::files;

/// For so long the clock is taken to run as ours, before it is looked at again.
const FRESH: Duration = Duration::from_secs(10);

/// The clock of a file system.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// A time of it, and when it was that.
    seen: Mutex<Option<(SystemTime, Instant)>>,
}

impl Clock {
    /// What time it is, as a file shows that is made there. Where none can be made, this host's time.
    pub(crate) fn now(&self, dir: &Path) -> SystemTime {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = seen.filter(|(_, at)| at.elapsed() < FRESH);
        let (time, at) = *match fresh {
            Some(fresh) => seen.insert(fresh),
            None => {
                let time = look(dir).unwrap_or_else(|error| {
                    tracing::debug!(%error, dir = %dir.display(), "the time of the file system is not known");
                    SystemTime::now()
                });
                seen.insert((time, Instant::now()))
            }
        };
        time + at.elapsed()
    }
}

fn look(dir: &Path) -> io::Result<SystemTime> {
    let probe = files::temporary(dir)?;
    files::touch(probe.as_file())?;
    probe.as_file().metadata()?.modified()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_from_what_a_file_has_shown() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::default();
        let first = clock.now(dir.path());
        let apart = SystemTime::now().duration_since(first).unwrap_or_default();
        assert!(apart < Duration::from_secs(60), "the clock of a local file system is that of the host");
        *clock.seen.lock().unwrap() = Some((SystemTime::UNIX_EPOCH, Instant::now()));
        assert!(clock.now(dir.path()) < SystemTime::UNIX_EPOCH + FRESH, "looked at not long ago");
        *clock.seen.lock().unwrap() =
            Instant::now().checked_sub(2 * FRESH).map(|at| (SystemTime::UNIX_EPOCH, at));
        assert!(clock.now(dir.path()) >= first, "looked at again");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no probe is left");
    }
}
