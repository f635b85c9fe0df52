//! What threads of a program meet at: locks, atomics, parking, descriptors they sleep on, and the time.
//!
//! This is what the system has, and costs nothing. With `--cfg pool_loom` it is what the model checker [loom] has, so that the
//! models (`src/models`) run the code of handles and waiting in every order of its steps. Only what is used there is here; other
//! modules use `std` itself.
//!
//! [loom]: https://docs.rs/loom

#[cfg(pool_loom)]
mod model;
#[cfg(not(pool_loom))]
mod system;

#[cfg(pool_loom)]
pub(crate) use model::*;
#[cfg(not(pool_loom))]
pub(crate) use system::*;
