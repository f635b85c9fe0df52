//! What the states of workers have left when their workers retired.

use std::any::type_name;
use std::collections::VecDeque;

use pool_ipc::ExitNote;
use serde::de::DeserializeOwned;

use crate::ids::WorkerId;
use crate::nesting::{self, Refusal};
use crate::pool::Pool;
use crate::state::WorkerState;

/// Bytes that are kept of all exit values of a pool, and what it takes to keep them; the oldest give way.
const KEPT: usize = 16 << 20;

/// What a [`WorkerState`] has left when its worker retired.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExitValue<T> {
    /// Which worker of the pool it was.
    pub worker: WorkerId,
    /// Its process id.
    pub pid: u32,
    /// The value; or why there is none: [`WorkerState::exit`] panicked, or the value is none of this type.
    pub value: Result<T, String>,
}

/// All of them, in the order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    worker: WorkerId,
    pid: u32,
    note: ExitNote,
}

impl Kept {
    fn bytes(&self) -> usize {
        let value = match &self.note.value {
            Ok(value) => value.len(),
            Err(why) => why.len(),
        };
        size_of::<Self>() + self.note.state.len() + value
    }
}

impl Exits {
    pub(crate) fn push(&mut self, pool: &str, worker: WorkerId, pid: u32, note: ExitNote) {
        let kept = Kept { worker, pid, note };
        self.bytes += kept.bytes();
        self.kept.push_back(kept);
        while self.bytes > KEPT
            && let Some(oldest) = self.kept.pop_front()
        {
            self.bytes -= oldest.bytes();
            let (worker, state) = (oldest.worker, &oldest.note.state);
            tracing::warn!(pool, %worker, state, "an exit value gives way to later ones: more than 16 MiB");
        }
    }

    /// Those of a state, encoded.
    pub(crate) fn of(&self, state: &str) -> Vec<ExitValue<Vec<u8>>> {
        let of_it = self.kept.iter().filter(|kept| kept.note.state == state);
        of_it
            .map(|kept| ExitValue { worker: kept.worker, pid: kept.pid, value: kept.note.value.clone() })
            .collect()
    }
}

impl Pool {
    /// What the states of type `S` have [left](crate::ExitContext::leave) in workers that have retired so far, in the order in
    /// which they did.
    ///
    /// After [`join`](Self::join), and after a [`shutdown`](Self::shutdown) in time, these are all that there will be. At most
    /// 16 MiB are kept; the oldest give way.
    ///
    /// ```no_run
    /// use pool_core::{ExitContext, Pool, StateContext, WorkerState, task};
    /// use std::error::Error;
    ///
    /// struct Cache {
    ///     hits: u64,
    /// }
    ///
    /// impl WorkerState for Cache {
    ///     fn init(_: &StateContext) -> Result<Self, Box<dyn Error + Send + Sync>> {
    ///         Ok(Cache { hits: 0 })
    ///     }
    ///
    ///     fn exit(self, cx: &mut ExitContext) {
    ///         // A number can be encoded.
    ///         let _ = cx.leave(&self.hits);
    ///     }
    /// }
    ///
    /// #[task]
    /// fn look_up(key: u64, #[state] cache: &mut Cache) -> u64 {
    ///     cache.hits += 1;
    ///     key
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn Error>> {
    /// # pool_core::init();
    /// let pool = Pool::builder().build()?;
    /// pool.map(look_up, 0..1000)?;
    /// pool.join();
    /// let hits: u64 = pool.exit_values::<Cache, u64>().into_iter().flat_map(|exit| exit.value).sum();
    /// assert_eq!(hits, 1000);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn exit_values<S: WorkerState, T: DeserializeOwned>(&self) -> Vec<ExitValue<T>> {
        let decode = |bytes: Vec<u8>| match nesting::take(&bytes) {
            Ok((value, [])) => Ok(value),
            Ok((_, rest)) => {
                Err(format!("the exit value has {} bytes more than a {}", rest.len(), type_name::<T>()))
            }
            Err(Refusal::Postcard(error)) => {
                Err(format!("the exit value is no {}: {error}", type_name::<T>()))
            }
            Err(Refusal::TooDeep) => {
                Err(format!("the exit value, a {}, is nested too deeply for this stack", type_name::<T>()))
            }
        };
        let left = self.exits_of(type_name::<S>());
        left.into_iter()
            .map(|ExitValue { worker, pid, value }| ExitValue { worker, pid, value: value.and_then(decode) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_kept_by_state_and_the_oldest_give_way() {
        let note = |state: &str, value| ExitNote { state: state.to_owned(), value };
        let mut exits = Exits::default();
        exits.push("pool", WorkerId::new(1), 7, note("a", Ok(vec![1])));
        exits.push("pool", WorkerId::new(0), 8, note("b", Ok(vec![2])));
        exits.push("pool", WorkerId::new(0), 8, note("a", Err("panicked".to_owned())));
        let of_a: Vec<_> = exits.of("a").into_iter().map(|exit| (exit.pid, exit.value)).collect();
        assert_eq!(of_a, [(7, Ok(vec![1])), (8, Err("panicked".to_owned()))]);
        assert!(exits.of("c").is_empty());
        for _ in 0..300 {
            exits.push("pool", WorkerId::new(2), 9, note("c", Ok(vec![0; 60_000])));
            assert!(exits.bytes <= KEPT);
            assert_eq!(exits.bytes, exits.kept.iter().map(Kept::bytes).sum::<usize>());
        }
        assert!(exits.of("a").is_empty() && exits.of("c").len() > 250);
    }
}
