//! How a store is used.

use std::path::Path;
use std::time::Duration;

use super::Store;
use super::error::StoreError;

/// What it means that a result cannot be written: the disk is full, say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnWriteError {
    /// The result is returned all the same, and computed again the next time. The error is counted
    /// ([`StoreStats::write_errors`](crate::StoreStats::write_errors)) and traced.
    #[default]
    Ignore,
    /// The call fails with the error; a batch ends with it.
    Fail,
}

/// The options of a [`Store`]; made by [`Store::builder`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path();
/// use std::time::Duration;
/// use pool_store::Store;
///
/// let store = Store::builder()
///     .max_bytes(10 << 30)
///     .max_age(Duration::from_secs(30 * 24 * 3600))
///     .open(dir.join("results"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `open`"]
pub struct StoreBuilder {
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) lease_time: Duration,
    pub(crate) max_wait: Duration,
    pub(crate) single_flight: bool,
    pub(crate) stale_age: Duration,
    pub(crate) sync: bool,
    pub(crate) on_write_error: OnWriteError,
    pub(crate) keep_errors: bool,
}

impl Default for StoreBuilder {
    fn default() -> Self {
        Self {
            max_bytes: None,
            max_age: None,
            lease_time: Duration::from_secs(30),
            max_wait: Duration::from_secs(600),
            single_flight: true,
            stale_age: Duration::from_secs(3600),
            sync: true,
            on_write_error: OnWriteError::Ignore,
            keep_errors: false,
        }
    }
}

impl StoreBuilder {
    /// Removes what has not been used for longest when there are more bytes than this; by default there is no limit.
    ///
    /// It is looked at when a tenth of it has been written, and now and then; so for some time there may be more. Then as much is
    /// removed as leaves nine tenths.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Removes what has not been used for so long; by default nothing is too old.
    ///
    /// Being written and being found are uses. It is looked at now and then, so an entry may be found that is a little older.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// For how long a lease holds that its owner does not renew, 30 seconds by default.
    ///
    /// A program on another host that has died costs those that wait for it so much. Clocks need not agree.
    pub fn lease_time(mut self, time: Duration) -> Self {
        self.lease_time = time.max(Duration::from_millis(10));
        self
    }

    /// How long the result of another program is waited for while that program lives, ten minutes by default; then it is computed
    /// here as well.
    pub fn max_wait(mut self, time: Duration) -> Self {
        self.max_wait = time;
        self
    }

    /// Whether what another program is computing is waited for; so it is by default. Otherwise it is computed here as well.
    pub fn single_flight(mut self, single: bool) -> Self {
        self.single_flight = single;
        self
    }

    /// The age at which a temporary file is taken for what a dead program has left, an hour by default. Writing one result should
    /// take less.
    pub fn stale_age(mut self, age: Duration) -> Self {
        self.stale_age = age;
        self
    }

    /// Whether a result is on the disk before it counts as stored; so it is by default.
    ///
    /// Otherwise a power failure can lose results that have been stored lately, and writing is much cheaper. What is damaged by it
    /// is noticed and computed again in both cases.
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// What it means that a result cannot be written. Default: [`OnWriteError::Ignore`].
    pub fn on_write_error(mut self, policy: OnWriteError) -> Self {
        self.on_write_error = policy;
        self
    }

    /// Whether an `Err` that a task function returns is kept like any other value. By default it is not: most say something about
    /// the moment, such as a file that is missing, and would be returned for ever.
    ///
    /// A failure (a panic, a death, a limit) is never kept.
    pub fn keep_errors(mut self, keep: bool) -> Self {
        self.keep_errors = keep;
        self
    }

    /// Opens the store in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`StoreError`] if there is no such directory and it cannot be made. One that cannot be written to is no error: what is in it
    /// is found.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Store, StoreError> {
        Store::with_options(self, dir.as_ref())
    }
}
