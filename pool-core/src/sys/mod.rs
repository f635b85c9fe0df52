//! Every raw system call and every `unsafe` block of this crate, one small function each.

pub(crate) mod build_id;
pub(crate) mod clone;
pub(crate) mod confine;
pub(crate) mod cpus;
pub(crate) mod landlock;
pub(crate) mod passing;
pub(crate) mod plain;
pub(crate) mod process;
pub(crate) mod room;
pub(crate) mod seccomp;
pub(crate) mod setup;
pub(crate) mod signals;
pub(crate) mod sigpipe;
pub(crate) mod stack;
pub(crate) mod standstill;
pub(crate) mod stdio;
pub(crate) mod wipe;
