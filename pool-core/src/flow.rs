//! What a full queue says.

use std::fmt;

use thiserror::Error;

/// The queue of the pool is full; gives the call back that was not submitted.
///
/// ```no_run
/// use pool_core::{Pool, QueueFull, task};
///
/// #[task]
/// fn store(line: String) -> usize {
///     line.len()
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// pool_core::init();
/// let pool = Pool::builder().queue_limit(100).build()?;
/// if let Err(QueueFull(call)) = pool.try_apply_async(store("a line".to_owned())) {
///     // No place for it now: run it here, or tell whoever asked to come again.
///     call.run_here()?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Error)]
#[error("the queue of the pool is full: as many tasks wait as `Builder::queue_limit` allows")]
pub struct QueueFull<C>(
    /// The call.
    pub C,
);

impl<C> QueueFull<C> {
    /// The call, to be made later or elsewhere.
    pub fn into_inner(self) -> C {
        self.0
    }
}

impl<C> fmt::Debug for QueueFull<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueFull").finish_non_exhaustive()
    }
}
