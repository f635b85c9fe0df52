//! The supervisor: a pure [state machine](machine) and, around it, the [shell](engine) that talks to processes, driven by the
//! [reactor](reactor) and by callers.

pub(crate) mod cgroup;
pub(crate) mod confined;
pub(crate) mod engine;
pub(crate) mod event;
mod hierarchy;
pub(crate) mod launch;
pub(crate) mod lead;
pub(crate) mod link;
pub(crate) mod machine;
mod parcels;
pub(crate) mod reactor;
mod routes;
pub(crate) mod shared;
#[cfg(all(test, not(pool_loom)))]
mod simulation;
pub(crate) mod slot;
pub(crate) mod spin;
mod table;
pub(crate) mod token;
mod watched;
pub(crate) mod zygote;
