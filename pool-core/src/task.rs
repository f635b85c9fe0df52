//! Tasks: functions that a worker can find by name.

use std::fmt;

use linkme::distributed_slice;
use pool_ipc::Gauges;
use thiserror::Error;

use crate::buffer::Buffer;
use crate::context::TaskContext;
use crate::describe::Signature;
use crate::state::{StateEntry, States};

/// Turns a function into a task, which runs in a worker process.
///
/// `#[task] fn f(a: A, b: &B) -> R { … }` becomes a function of the same name, visibility, documentation
/// and arguments that returns a [`Call<R>`](crate::Call): a description of the call, with its arguments
/// already encoded, for the methods of the pool.
///
/// ```
/// use pool_core::{Call, task};
///
/// #[task]
/// fn thumbnail(image: &[u8], width: u32) -> Result<Vec<u8>, String> {
///     image.get(..width as usize).map(<[u8]>::to_vec).ok_or_else(|| "image too small".to_owned())
/// }
///
/// let call: Call<Result<Vec<u8>, String>> = thumbnail(b"pixels", 3);
/// assert_eq!(call.run_here().unwrap(), Ok(b"pix".to_vec()));
/// ```
///
/// # Parameters
/// * **Arguments** implement [`serde::Serialize`] and [`serde::Deserialize`], or are a `&T` of such a type.
///   `&str`, `&[u8]`, `&Path` and `&OsStr` reach the body without another copy; `&[T]`, `&CStr` and other
///   `&T` are borrowed from a `Vec<T>`, `CString` or `T` that the worker decodes. `Vec<u8>`, `&[u8]` and
///   `&Vec<u8>`, and a result `Vec<u8>`, `Option<Vec<u8>>` or `Result<Vec<u8>, E>`, travel as one block of
///   bytes; deeper inside a type use `serde_bytes`. A path (`PathBuf`, `&Path`) travels whatever its bytes,
///   but inside another type it must be UTF-8.
/// * `#[context] cx: &TaskContext` is the [`TaskContext`] of the run; callers do not pass it.
/// * `#[state] s: &mut S` is a value that the worker keeps from task to task, see
///   [`WorkerState`](crate::WorkerState); callers do not pass it.
///
/// The result owns what it holds and implements [`serde::Serialize`] and [`serde::de::DeserializeOwned`].
/// Arguments and results of 64 KiB and more are written once, to memory that the two processes share: a `&[u8]` or `&str`
/// is borrowed there, a `Vec<u8>` or `String` costs one copy. A result that is a [`SharedBytes`](crate::SharedBytes) is not
/// copied at all; when that pays is said there.
///
/// Values travel in the [postcard](https://postcard.jamesmunns.com) format, which is not self-describing:
/// types with `#[serde(untagged)]`, `#[serde(tag = …)]`, `#[serde(flatten)]`, and `serde_json::Value`, fail
/// when they are encoded or decoded; wrap them in [`Json`](crate::Json). Do not use serde's `skip_serializing_if`: the
/// worker could not tell that a field is missing.
///
/// The `Err` of a result travels, too, so it cannot be a `std::io::Error`, `anyhow::Error` or `Box<dyn Error>`: return an error
/// type of your own that derives serde's traits, or a text: `.map_err(|error| error.to_string())`.
///
/// A `Serialize` or `Deserialize` that panics does so where it runs: in the worker it is a panic of the task, here it goes to
/// whoever makes the call or takes the result.
///
/// Type parameters, `impl Trait`, `async`, `unsafe`, `const` and `extern` functions, `self`, and arguments
/// by `&mut` are compile errors.
///
/// Attributes about what callers see (documentation, `cfg`, lints, `deprecated`) stay on the function;
/// others, such as `#[inline]`, go to the body. Inside the body, too, the name of the task makes a call;
/// `f(x).run_here()` is how a task calls itself.
///
/// # Options
/// * `#[task(name = "…")]`: the name under which workers find it; by default its path, such as
///   `my_tasks::images::thumbnail`. Names must be unique in an executable.
/// * `#[task(version = 2)]`: the version of what it does, 0 by default. Where outcomes are remembered
///   ([`Batch::journal`](crate::Batch::journal)), those of another version are not used: raise it when the same arguments give another
///   result, or when a type that is an argument or a result has changed.
/// * `#[task(crate = path)]`: where `pool_core` is found, for crates that re-export it.
pub use pool_macros::task;

/// Every task that is linked into this executable.
#[doc(hidden)]
#[distributed_slice]
pub static TASKS: [TaskEntry];

/// Every task that is linked into this executable, in no particular order.
pub(crate) fn table() -> &'static [TaskEntry] {
    TASKS.static_slice()
}

/// A row in the table of tasks.
#[derive(Debug)]
#[non_exhaustive]
pub struct TaskEntry {
    /// The name under which workers find the task.
    pub name: &'static str,
    /// Crate, version and types, to notice that two executables mean different things by a name: `my_tasks
    /// 0.1.0: fn(PathBuf, &str) -> Result<u64, String>`.
    pub signature: &'static str,
    /// What `#[task(version = …)]` says, or 0.
    pub version: u32,
    /// Whether its result is a `Result`.
    #[cfg_attr(not(feature = "durable"), allow(dead_code, reason = "of importance to what is stored"))]
    pub(crate) fallible: bool,
    /// Decodes the arguments, runs the body, and appends the encoded result; a panic of the body unwinds.
    #[doc(hidden)]
    pub run: RunFn,
    /// The state that must have been built before it runs.
    pub(crate) state: Option<&'static StateEntry>,
    /// What its arguments are, if it has any, to show them.
    pub(crate) arguments: Option<&'static Signature>,
}

/// See [`TaskEntry::run`].
#[doc(hidden)]
pub type RunFn = fn(&mut RunContext<'_>, &[u8], &mut Buffer) -> Result<(), RunError>;

impl TaskEntry {
    #[doc(hidden)]
    pub const fn new(name: &'static str, signature: &'static str, run: RunFn) -> Self {
        Self { name, signature, version: 0, fallible: false, run, state: None, arguments: None }
    }

    /// As it is, of a task that needs this state.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_state(mut self, state: &'static StateEntry) -> Self {
        self.state = Some(state);
        self
    }

    /// As it is, of a task with these arguments.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_arguments(mut self, arguments: &'static Signature) -> Self {
        self.arguments = Some(arguments);
        self
    }

    /// As it is, of a task whose result may be an `Err`.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_fallible(mut self, fallible: bool) -> Self {
        self.fallible = fallible;
        self
    }

    /// As it is, of a task of this version.
    #[doc(hidden)]
    #[must_use]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The types of arguments and result alone: `fn(PathBuf, &str) -> Result<u64, String>`.
    #[cfg(feature = "durable")]
    pub(crate) fn types(&self) -> &'static str {
        let types = self.signature.split_once(": ").map_or(self.signature, |(_, types)| types);
        types.rsplit_once(" (sources ").map_or(types, |(types, _)| types)
    }
}

/// What a task is given besides its arguments.
#[doc(hidden)]
pub struct RunContext<'a> {
    /// For `#[context]`.
    pub context: &'a TaskContext,
    /// For `#[state]`.
    pub states: &'a mut States,
    /// Where it is noted that the arguments of the task of this number have been decoded, if anywhere.
    decoded: Option<(&'a Gauges, u64)>,
}

impl<'a> RunContext<'a> {
    #[inline]
    #[must_use]
    pub const fn new(context: &'a TaskContext, states: &'a mut States) -> Self {
        Self { context, states, decoded: None }
    }

    /// For the task of this number, which a worker measures.
    #[inline]
    #[must_use]
    pub const fn measured(self, gauges: &'a Gauges, task: u64) -> Self {
        Self { decoded: Some((gauges, task)), ..self }
    }

    /// The arguments have been decoded; the body comes next. In every task, so it must cost nothing where nothing is measured.
    ///
    /// Not by a global: a decoder, or a thread of an earlier task, may run other tasks here.
    #[inline]
    pub fn decoded(&self) {
        if let Some((gauges, task)) = self.decoded {
            gauges.note_decoded(task);
        }
    }
}

impl fmt::Debug for RunContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunContext").field("context", self.context).field("states", self.states).finish()
    }
}

/// Why a task could not run, or its result could not be sent; each text names what and why.
#[doc(hidden)]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RunError {
    /// An argument could not be decoded; the body did not run.
    #[error("{0}")]
    Decode(String),
    /// The body ran, but its result could not be encoded.
    #[error("{0}")]
    Encode(String),
    /// A `#[state]` could not be built; the body did not run.
    #[error("{0}")]
    State(String),
}
