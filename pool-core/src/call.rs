//! A call of a task: which one, with which arguments, under which conditions.

use std::fmt;
use std::ops::BitOr;
use std::time::Duration;

use thiserror::Error;

use crate::buffer::{Args, Buffer};
use crate::codec::Arguments;
use crate::context::TaskContext;
use crate::reply::Encoded;
use crate::state::States;
use crate::task::{RunContext, RunError, TaskEntry};

/// A call of a task that has not been made yet: what a function with `#[task]` returns.
///
/// The arguments are already encoded, so the call owns all it needs, and cloning it is cheap. Hand it to a
/// pool, or run it in this process with [`run_here`](Self::run_here).
///
/// ```
/// use pool_core::{RetryOn, task};
/// use std::time::Duration;
///
/// #[task]
/// fn resize(image: &[u8], width: u32) -> Vec<u8> {
///     image[..width as usize].to_vec()
/// }
///
/// let call = resize(b"pixels", 3)
///     .timeout(Duration::from_secs(10))
///     .retries(2)
///     .retry_on(RetryOn::TIMEOUT | RetryOn::PANIC)
///     .name("thumbnail of the logo");
/// assert!(call.task_name().ends_with("::resize"));
/// assert_eq!(call.run_here().unwrap(), b"pix");
/// ```
#[must_use = "a call does nothing until it is given to a pool or run with `run_here`"]
pub struct Call<R> {
    parts: CallParts<R>,
}

/// What a [`Call`] consists of.
#[doc(hidden)]
pub struct CallParts<R> {
    /// The task.
    pub entry: &'static TaskEntry,
    /// The encoded arguments, or why one of them could not be encoded.
    pub args: Result<Args, Box<str>>,
    /// How to run it, unless the defaults do.
    pub options: Option<Box<CallOptions>>,
    /// Decodes the result; the error says what is wrong with the bytes.
    pub decode: fn(Encoded<'_>) -> Result<R, String>,
}

/// How to run a call.
#[doc(hidden)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long one attempt may run.
    pub timeout: Option<Duration>,
    /// How many times it may run again.
    pub retries: Option<u32>,
    /// After which failures.
    pub retry_on: Option<RetryOn>,
    /// Whether it comes before or after others.
    pub priority: Option<i8>,
    /// What it is called in errors and statistics instead of its task's name.
    pub name: Option<Box<str>>,
    /// Where its result is looked for, and kept.
    #[cfg(feature = "durable")]
    pub store: Option<pool_store::Store>,
}

impl<R> Call<R> {
    /// Limits the time that one attempt may run, from its start in the worker; by default the limit of the
    /// pool.
    ///
    /// A task that exceeds it is stopped by killing its worker. [`Duration::MAX`] is no limit, also where the pool has one; zero
    /// is no such sign, but ends every task that is found running.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.options().timeout = Some(limit);
        self
    }

    /// Lets the task run again up to `n` times when its worker dies, 0 by default; see also
    /// [`retry_on`](Self::retry_on).
    ///
    /// The task may then run more than once, each time up to any point: it should be idempotent.
    pub fn retries(mut self, n: u32) -> Self {
        self.options().retries = Some(n);
        self
    }

    /// Chooses the failures that [`retries`](Self::retries) applies to; the death of the worker always is
    /// one of them.
    pub fn retry_on(mut self, failures: RetryOn) -> Self {
        self.options().retry_on = Some(failures);
        self
    }

    /// Has the task given to a worker before all that wait with a lower priority, and after those with a higher one; 0 by
    /// default, or what its [batch](crate::Batch::priority) says.
    ///
    /// What a worker has been given already is not taken back for it. As long as there is always something of a higher priority,
    /// nothing of a lower one is given out.
    ///
    /// ```no_run
    /// use pool_core::{Pool, task};
    ///
    /// #[task]
    /// fn thumbnail(page: u32) -> Vec<u8> {
    ///     vec![page as u8]
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// pool_core::init();
    /// let pool = Pool::builder().build()?;
    /// let pages: Vec<_> = (2..100).map(|page| pool.apply_async(thumbnail(page).priority(-1))).collect();
    /// let first = pool.apply(thumbnail(1).priority(5))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn priority(mut self, priority: i8) -> Self {
        self.options().priority = Some(priority);
        self
    }

    /// Names this call, instead of its task, in reports of deaths, in [`Pool::workers`](crate::Pool::workers) and in traces. A
    /// panic and an exceeded limit are reported without a name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options().name = Some(name.into().into_boxed_str());
        self
    }

    /// Takes its result from a store, if it is there; otherwise the task runs, and its result goes into the store.
    ///
    /// A result is found by the name of the task, its declared [version](macro@crate::task#options), the types of its arguments and
    /// of its result, and its encoded arguments. Whatever else it depends on (files, the time, chance, a state, what the pool shares)
    /// is not looked at: a task whose result is stored should depend on its arguments alone. Raise the version when the task computes
    /// something else, or when one of its types has changed.
    ///
    /// * Only results are kept, no failures; an `Err` that the task returns only with
    ///   [`StoreBuilder::keep_errors`](crate::StoreBuilder::keep_errors).
    /// * If another program, or another call, is computing it, it is waited for, as [`StoreBuilder`](crate::StoreBuilder) says. Limits
    ///   of time do not count meanwhile. `apply_async` does not wait: it is a thread of the pool that does.
    /// * The outcome comes when the result has been written.
    ///
    /// ```no_run
    /// use pool_core::{Pool, Store, task};
    ///
    /// #[task(version = 1)]
    /// fn simulate(seed: u64) -> Vec<f64> {
    ///     vec![seed as f64]
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// pool_core::init();
    /// let pool = Pool::builder().build()?;
    /// let store = Store::open("results")?;
    /// let first = pool.apply(simulate(7).stored(&store))?;
    /// let again = pool.apply(simulate(7).stored(&store))?; // does not run
    /// assert_eq!(first, again);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "durable")]
    pub fn stored(mut self, store: &pool_store::Store) -> Self {
        self.options().store = Some(store.clone());
        self
    }

    /// The key of its result in a store; `None` if the arguments could not be encoded.
    ///
    /// ```
    /// use pool_core::{Store, task};
    ///
    /// #[task]
    /// fn square(n: u64) -> u64 {
    ///     n * n
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = std::env::temp_dir().join(format!("doc-{}", std::process::id()));
    /// let store = Store::open(&dir)?;
    /// if let Some(key) = square(7).store_key() {
    ///     store.remove(&key)?;
    /// }
    /// # std::fs::remove_dir_all(dir)?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn store_key(&self) -> Option<pool_store::StoreKey> {
        let args = self.parts.args.as_ref().ok()?;
        Some(crate::stored::key_of(self.parts.entry, args))
    }

    fn options(&mut self) -> &mut CallOptions {
        self.parts.options.get_or_insert_default()
    }

    /// The name under which workers find the task.
    pub fn task_name(&self) -> &'static str {
        self.parts.entry.name
    }

    /// Runs the task in this process and thread: for unit tests and debugging.
    ///
    /// Arguments and result are encoded and decoded as on their way to a worker and back. A `#[context]`
    /// parameter gets [`TaskContext::local`], a `#[state]` parameter a fresh state. Time-out and retries do
    /// not apply.
    ///
    /// # Errors
    /// [`RunHereError`] if an argument or the result cannot be encoded or decoded, or the state cannot be built.
    ///
    /// # Panics
    /// If the task panics: the panic unwinds to the caller.
    pub fn run_here(self) -> Result<R, RunHereError> {
        let CallParts { entry, args, decode, .. } = self.parts;
        let args = args.map_err(|error| RunHereError::Encode(error.into()))?;
        let (context, mut states) = (TaskContext::local(), States::new());
        let mut run = RunContext::new(&context, &mut states);
        let mut output = Buffer::new();
        (entry.run)(&mut run, &args, &mut output)?;
        decode(output.encoded()).map_err(RunHereError::Decode)
    }

    /// Whether its result is stored.
    #[inline]
    pub(crate) fn is_stored(&self) -> bool {
        #[cfg(feature = "durable")]
        return self.parts.options.as_ref().is_some_and(|options| options.store.is_some());
        #[cfg(not(feature = "durable"))]
        false
    }

    #[doc(hidden)]
    pub fn into_parts(self) -> CallParts<R> {
        self.parts
    }
}

/// Makes the call of a task; what `#[task]` expands to.
#[doc(hidden)]
#[inline]
pub fn call<R>(
    entry: &'static TaskEntry,
    encode: impl FnOnce(&mut Arguments),
    decode: fn(Encoded<'_>) -> Result<R, String>,
) -> Call<R> {
    // Built in its place: what is written byte by byte should not be moved right afterwards.
    let mut arguments = Arguments::new();
    encode(&mut arguments);
    let args = arguments.finish();
    Call { parts: CallParts { entry, args, options: None, decode } }
}

impl<R> Clone for Call<R> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone() }
    }
}

impl<R> Clone for CallParts<R> {
    fn clone(&self) -> Self {
        Self {
            entry: self.entry,
            args: self.args.clone(),
            options: self.options.clone(),
            decode: self.decode,
        }
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.describe(f, "Call")
    }
}

impl<R> fmt::Debug for CallParts<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f, "CallParts")
    }
}

impl<R> CallParts<R> {
    /// Everything but the bytes of the arguments, which may be many and secret.
    fn describe(&self, f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
        f.debug_struct(name)
            .field("task", &self.entry.name)
            .field("args_len", &self.args.as_ref().map(|args| args.len()))
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The failures after which a call with [`retries`](Call::retries) runs again; `|` joins them.
///
/// The death of the worker is always among them.
///
/// ```
/// use pool_core::RetryOn;
///
/// let failures = RetryOn::TIMEOUT | RetryOn::PANIC;
/// assert!(failures.contains(RetryOn::PANIC) && failures.contains(RetryOn::DEATH));
/// assert!(!RetryOn::default().contains(RetryOn::TIMEOUT));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryOn(u8);

impl RetryOn {
    /// The worker died: a crash, an exit, out of memory.
    pub const DEATH: Self = Self(0b001);
    /// The task ran longer than its time-out, or its worker died.
    pub const TIMEOUT: Self = Self(0b010 | Self::DEATH.0);
    /// The task panicked, or its worker died.
    pub const PANIC: Self = Self(0b100 | Self::DEATH.0);

    /// Whether all of `failures` are in `self`.
    pub const fn contains(self, failures: Self) -> bool {
        self.0 & failures.0 == failures.0
    }
}

impl Default for RetryOn {
    fn default() -> Self {
        Self::DEATH
    }
}

impl BitOr for RetryOn {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DEATH")?;
        for (failure, name) in [(Self::TIMEOUT, " | TIMEOUT"), (Self::PANIC, " | PANIC")] {
            if self.contains(failure) {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// What a pool can run: a [`Call`], as made by a function with `#[task]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a call of a task",
    label = "expected a `Call`, which a function with `#[task]` returns",
    note = "put `#[task]` on the function; then `pool.apply(f(x))`, `pool.map(f, items)` or \
            `pool.map(|x| f(x, 1), items)`"
)]
pub trait IntoCall {
    /// The result of the task.
    type Output;

    /// The call.
    fn into_call(self) -> Call<Self::Output>;
}

impl<R> IntoCall for Call<R> {
    type Output = R;

    fn into_call(self) -> Self {
        self
    }
}

/// Why [`Call::run_here`] has no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RunHereError {
    /// An argument or the result could not be encoded.
    #[error("{0}")]
    Encode(String),
    /// An argument or the result could not be decoded from its encoding.
    #[error("{0}")]
    Decode(String),
    /// A state could not be built.
    #[error("{0}")]
    State(String),
}

impl From<RunError> for RunHereError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Encode(message) => Self::Encode(message),
            RunError::Decode(message) => Self::Decode(message),
            RunError::State(message) => Self::State(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_of_failures_includes_death() {
        for failures in
            [RetryOn::default(), RetryOn::TIMEOUT, RetryOn::PANIC, RetryOn::TIMEOUT | RetryOn::PANIC]
        {
            assert!(failures.contains(RetryOn::DEATH), "{failures:?}");
            assert!(failures.contains(failures));
        }
        assert!(!RetryOn::TIMEOUT.contains(RetryOn::PANIC));
        assert_eq!(format!("{:?}", RetryOn::TIMEOUT | RetryOn::PANIC), "DEATH | TIMEOUT | PANIC");
    }
}
