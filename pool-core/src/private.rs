//! What the code written by `#[task]` and `test_worker!()` refers to, and the parts of the task layer that are public for it
//! alone; no part of the public API.

pub use linkme;

pub use crate::buffer::{Args, Buffer};
pub use crate::call::{CallOptions, CallParts, call};
pub use crate::codec::{
    Arguments, CodecError, Held, Lend, Serde, Wire, argument, decode_result, encode_result, finish,
};
pub use crate::context::CancelProbe;
pub use crate::describe::{DescribeFn, Description, Opaque, Show, Signature};
pub use crate::reply::{Encoded, ReplyError};
pub use crate::state::{StateEntry, States};
pub use crate::task::{RunContext, RunError, RunFn, TASKS, TaskEntry};
pub use crate::worker::test_support::TEST_WORKERS;
