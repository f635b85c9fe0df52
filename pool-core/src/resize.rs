//! Changing the size of a pool that is at work.

use crate::error::BuildError;
use crate::pool::Pool;
use crate::supervisor::token::MAX_WORKERS;

impl Pool {
    /// Changes how many workers there are, as set by [`Builder::workers`](crate::Builder::workers).
    ///
    /// It does not wait. New workers start at once; where there are to be fewer, those go first that have nothing to do. No
    /// task is interrupted: a worker that is busy finishes what it runs, and the tasks behind that are given to others. With
    /// [`min_workers`](crate::Builder::min_workers) this is the upper limit, and caps the lower one. The number of spares stays.
    /// A pool that is closed or broken stays as it is.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # pool_core::init();
    /// let pool = pool_core::Pool::builder().workers(2).build()?;
    /// pool.resize(8)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`BuildError::NoWorkers`] for 0, [`BuildError::Setting`] for more than a pool can have, and [`BuildError::Forked`] in a
    /// forked child of the process that built the pool.
    pub fn resize(&self, workers: usize) -> Result<(), BuildError> {
        let wanted = u32::try_from(workers).unwrap_or(u32::MAX);
        if wanted == 0 {
            return Err(BuildError::NoWorkers);
        }
        if wanted > MAX_WORKERS {
            let why = format!("{workers} workers are too many, {MAX_WORKERS} is the limit");
            return Err(BuildError::Setting { setting: "resize", why });
        }
        let shared = self.shared();
        if shared.origin.is_elsewhere() {
            return Err(BuildError::Forked);
        }
        shared.resize(wanted);
        Ok(())
    }
}
