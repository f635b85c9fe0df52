//! What a worker keeps from task to task.

use std::any::{Any, TypeId, type_name};
use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use pool_ipc::MAX_EXIT_VALUE;
use serde::Serialize;

use crate::context::TaskContext;
use crate::ids::WorkerId;
use crate::task::RunError;

/// A value that each worker builds once and lends to the tasks with a parameter `#[state] s: &mut S`: a
/// loaded model, an open connection, an initialised C library.
///
/// It is built just before the worker's first task that needs it begins, or, with
/// [`Builder::state`](crate::Builder::state), before the worker is ready; in neither case does a task's time limit
/// count it. A panic of a task drops it, since it may have been left half changed, and it is built anew before the next task
/// that needs it; so it is in the replacement of a worker that died.
///
/// # When it cannot be built
/// What prevents it in one worker prevents it in the next one: an [`init`](Self::init) that fails or panics breaks the pool at
/// once, with [`BrokenReason::StateFailed`](crate::BrokenReason::StateFailed). A worker that dies in it, or is killed because
/// it takes longer than [`init_timeout`](crate::Builder::init_timeout), is replaced, and the task that waited for it goes to
/// another one without being blamed; when that happens too often in a row, it breaks the pool as well.
///
/// ```
/// use pool_core::{StateContext, WorkerState, task};
/// use std::collections::HashMap;
/// use std::error::Error;
///
/// struct Dictionary(HashMap<String, usize>);
///
/// impl WorkerState for Dictionary {
///     fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
///         Ok(Dictionary(HashMap::from([("one".to_owned(), 1)])))
///     }
/// }
///
/// #[task]
/// fn look_up(word: &str, #[state] dictionary: &mut Dictionary) -> Option<usize> {
///     dictionary.0.get(word).copied()
/// }
///
/// assert_eq!(look_up("one").run_here().unwrap(), Some(1));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the state of a worker",
    label = "does not implement `WorkerState`",
    note = "implement `WorkerState` for it, with `fn init(cx: &StateContext)` to build it"
)]
pub trait WorkerState: Sized + 'static {
    /// Builds the value in the worker.
    ///
    /// # Errors
    /// Whatever prevents it. It breaks the pool.
    fn init(cx: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>>;

    /// Called in the worker when it retires, for the state that was built last first. What it [leaves](ExitContext::leave) is
    /// collected by [`Pool::exit_values`](crate::Pool::exit_values).
    ///
    /// A worker retires when its pool is closed and every task has ended, or when it is replaced as a matter of course; not
    /// when it dies or is killed. It is killed if this takes longer than [`exit_timeout`](crate::Builder::exit_timeout).
    fn exit(self, cx: &mut ExitContext) {
        let _ = (self, cx);
    }
}

/// What a [`WorkerState`] can learn about the worker that builds it.
#[derive(Debug)]
#[non_exhaustive]
pub struct StateContext {
    worker: WorkerId,
}

impl StateContext {
    /// The place of this worker in its pool, from 0: to choose a GPU, a port, a file name.
    pub fn worker_index(&self) -> usize {
        self.worker.get() as usize
    }
}

/// What a [`WorkerState`] leaves behind when its worker retires.
#[derive(Debug)]
#[non_exhaustive]
pub struct ExitContext {
    worker: WorkerId,
    left: Vec<Vec<u8>>,
}

impl ExitContext {
    /// The place of this worker in its pool, from 0.
    pub fn worker_index(&self) -> usize {
        self.worker.get() as usize
    }

    /// Leaves a value for [`Pool::exit_values`](crate::Pool::exit_values), in addition to those before.
    ///
    /// # Errors
    /// When it cannot be encoded, or has more than 64 KiB when it is.
    pub fn leave<T: Serialize>(&mut self, value: &T) -> Result<(), Box<dyn Error + Send + Sync>> {
        let encoded = postcard::to_stdvec(value)?;
        if encoded.len() > MAX_EXIT_VALUE {
            let len = encoded.len();
            return Err(format!("an exit value of {len} bytes is over the limit of {MAX_EXIT_VALUE}").into());
        }
        self.left.push(encoded);
        Ok(())
    }
}

/// What a worker needs to know of a type of state.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct StateEntry {
    name: fn() -> &'static str,
    is_built: fn(&States) -> bool,
    build: fn(&mut States, WorkerId) -> Result<(), String>,
}

impl StateEntry {
    /// That of `S`.
    pub const fn of<S: WorkerState>() -> Self {
        Self { name: type_name::<S>, is_built: States::holds::<S>, build: States::build::<S> }
    }

    /// The full name of the type.
    pub(crate) fn name(&self) -> &'static str {
        (self.name)()
    }

    /// Whether `states` has a value of the type.
    pub(crate) fn is_built(&self, states: &States) -> bool {
        (self.is_built)(states)
    }

    /// Builds one; an error is what `init` has reported.
    pub(crate) fn build(&self, states: &mut States, worker: WorkerId) -> Result<(), String> {
        (self.build)(states, worker)
    }
}

/// A state of some type.
trait Value: Any {
    fn exit(self: Box<Self>, cx: &mut ExitContext);
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<S: WorkerState> Value for S {
    fn exit(self: Box<Self>, cx: &mut ExitContext) {
        S::exit(*self, cx);
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// One of them, with the name of its type.
struct Built {
    of: TypeId,
    name: &'static str,
    value: Box<dyn Value>,
}

/// The states of one worker, at most one of each type.
#[doc(hidden)]
#[derive(Default)]
pub struct States {
    // a worker has few: a scan is faster than a hash, and the order of building is kept
    values: Vec<Built>,
    /// What it took to build them, and those that are no more.
    took: Duration,
}

impl States {
    /// No states yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of type `S`, built now if there is none. The entry is that of `S`.
    ///
    /// # Errors
    /// [`RunError::State`] if [`WorkerState::init`] failed.
    pub fn get_or_init<S: 'static>(
        &mut self,
        entry: &StateEntry,
        cx: &TaskContext,
    ) -> Result<&mut S, RunError> {
        let index = match self.find::<S>() {
            Some(index) => index,
            None => {
                let (name, worker) = (entry.name(), cx.worker_id());
                entry.build(self, worker).map_err(|why| {
                    RunError::State(format!("state `{name}` could not be built on worker {worker}: {why}"))
                })?;
                self.values.len() - 1
            }
        };
        let value = self.values[index].value.as_mut().as_any();
        Ok(value.downcast_mut().expect("each value is stored under the id of its own type"))
    }

    fn find<S: 'static>(&self) -> Option<usize> {
        let id = TypeId::of::<S>();
        self.values.iter().position(|built| built.of == id)
    }

    fn holds<S: 'static>(&self) -> bool {
        self.find::<S>().is_some()
    }

    fn build<S: WorkerState>(&mut self, worker: WorkerId) -> Result<(), String> {
        let began = Instant::now();
        let built = S::init(&StateContext { worker });
        self.took += began.elapsed();
        let value = built.map_err(|error| chain(&*error))?;
        self.values.push(Built { of: TypeId::of::<S>(), name: type_name::<S>(), value: Box::new(value) });
        Ok(())
    }

    /// The youngest state, taken out: its name, and what lets it exit and returns what it leaves, encoded.
    pub(crate) fn take_last(
        &mut self,
    ) -> Option<(&'static str, impl FnOnce(WorkerId) -> Vec<Vec<u8>> + use<>)> {
        let Built { name, value, .. } = self.values.pop()?;
        let exit = move |worker| {
            let mut cx = ExitContext { worker, left: Vec::new() };
            value.exit(&mut cx);
            cx.left
        };
        Some((name, exit))
    }

    /// What it has taken to build states, in nanoseconds.
    pub(crate) fn took_ns(&self) -> u64 {
        u64::try_from(self.took.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Drops all states, the youngest first. If one of them panics while it is dropped, it is gone, and
    /// calling this again drops the rest.
    pub fn clear(&mut self) {
        while let Some(built) = self.values.pop() {
            drop(built);
        }
    }
}

impl Drop for States {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("States").field("len", &self.values.len()).finish()
    }
}

/// An error and its sources in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    thread_local! {
        static LOG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    fn log() -> Vec<&'static str> {
        LOG.with_borrow_mut(std::mem::take)
    }

    struct Counter(u32);
    impl WorkerState for Counter {
        fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
            LOG.with_borrow_mut(|log| log.push("+counter"));
            Ok(Counter(0))
        }
    }
    impl Drop for Counter {
        fn drop(&mut self) {
            LOG.with_borrow_mut(|log| log.push("-counter"));
        }
    }

    #[derive(Debug)]
    struct Fragile;
    impl WorkerState for Fragile {
        fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
            Ok(Fragile)
        }
    }
    impl Drop for Fragile {
        fn drop(&mut self) {
            panic!("fragile");
        }
    }

    #[derive(Debug)]
    struct Missing;
    impl WorkerState for Missing {
        fn init(cx: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
            Err(format!("no model {}", cx.worker_index()).into())
        }
    }

    #[test]
    fn a_state_is_built_once_and_keeps_its_value() {
        let (mut states, cx) = (States::new(), TaskContext::local());
        for expected in 1..=3 {
            let counter = states.get_or_init::<Counter>(&StateEntry::of::<Counter>(), &cx).unwrap();
            counter.0 += 1;
            assert_eq!(counter.0, expected);
        }
        assert_eq!(log(), ["+counter"]);
        drop(states);
        assert_eq!(log(), ["-counter"]);
    }

    #[test]
    fn clear_goes_on_after_a_drop_that_panicked() {
        let (mut states, cx) = (States::new(), TaskContext::local());
        states.get_or_init::<Counter>(&StateEntry::of::<Counter>(), &cx).unwrap();
        states.get_or_init::<Fragile>(&StateEntry::of::<Fragile>(), &cx).unwrap();
        assert!(catch_unwind(AssertUnwindSafe(|| states.clear())).is_err());
        assert_eq!(log(), ["+counter"], "the youngest state is dropped first");
        states.clear();
        assert_eq!(log(), ["-counter"]);
        assert_eq!(states.get_or_init::<Counter>(&StateEntry::of::<Counter>(), &cx).unwrap().0, 0);
    }

    #[test]
    fn a_failed_init_names_the_state_the_worker_and_the_cause() {
        let error = States::new()
            .get_or_init::<Missing>(&StateEntry::of::<Missing>(), &TaskContext::local())
            .unwrap_err();
        let RunError::State(message) = error else { panic!("{error:?}") };
        assert!(
            message.starts_with("state `")
                && message.ends_with("::Missing` could not be built on worker 0: no model 0"),
            "{message}"
        );
    }
}
