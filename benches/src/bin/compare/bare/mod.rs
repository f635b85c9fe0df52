//! What the kernel and the memory charge for the same work, without any pool: the limits.
//!
//! The other side of each measurement is this program again, started with `bare` and the name of a part.

pub(crate) mod bulk;
pub(crate) mod child;
pub(crate) mod cores;
pub(crate) mod spawn;
pub(crate) mod streams;
pub(crate) mod trips;
