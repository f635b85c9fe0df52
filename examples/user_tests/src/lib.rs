//! A small library whose tasks are tested as any other function is.
//!
//! The root of a test crate says `pool_core::test_worker!();` once: the test program can then be started as a worker, too. A
//! test without a harness calls `pool_core::init()` first in its `main`, as every program does.

use pool_core::{StateContext, WorkerState, task};

// The unit tests below are a test crate of their own, and this is its root.
#[cfg(test)]
pool_core::test_worker!();

/// Counts the words of a text.
#[task]
pub fn count_words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// How many divisions there were.
#[derive(Debug, Default)]
pub struct Divisions(u64);

impl WorkerState for Divisions {
    fn init(_: &StateContext) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self::default())
    }
}

/// Divides, and tells how many divisions this worker has made. Dividing by zero panics.
#[task]
pub fn divide(#[state] divisions: &mut Divisions, a: u64, b: u64) -> (u64, u64) {
    divisions.0 += 1;
    (a / b, divisions.0)
}

/// Ends its process at once.
#[task]
pub fn vanish() {
    std::process::exit(3)
}

#[cfg(test)]
mod tests {
    use pool_core::{DeathCause, Pool, TaskError};

    use super::*;

    #[test]
    fn tasks_run_here_without_a_pool() {
        assert_eq!(count_words("one two three").run_here(), Ok(3));
    }

    #[test]
    fn tasks_run_in_workers() -> Result<(), Box<dyn std::error::Error>> {
        let pool = Pool::builder().workers(2).build()?;
        assert_eq!(pool.map(count_words, ["a", "b c", ""])?, [1, 2, 0]);
        Ok(())
    }

    #[test]
    fn a_panic_is_the_failure_of_its_task() -> Result<(), Box<dyn std::error::Error>> {
        let pool = Pool::builder().workers(1).build()?;
        match pool.apply(divide(1, 0)) {
            Err(TaskError::Panicked { message, .. }) => {
                assert!(message.contains("divide by zero"), "{message}")
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.apply(divide(6, 3))?.0, 2);
        Ok(())
    }

    #[test]
    fn a_death_is_the_failure_of_its_task() -> Result<(), Box<dyn std::error::Error>> {
        let pool = Pool::builder().workers(1).build()?;
        match pool.apply(vanish()) {
            Err(TaskError::WorkerDied(death)) => assert_eq!(death.cause, DeathCause::Exited(3)),
            other => panic!("{other:?}"),
        }
        assert_eq!(pool.apply(count_words("still here"))?, 2);
        Ok(())
    }
}
