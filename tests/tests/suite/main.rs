//! Workers are killed in every way we could think of; see the library of this package for the harness.

pool_core::test_worker!();

mod acceptance;
mod containment;
mod death_at_each_step;
mod death_in_task;
mod fairness;
mod handles;
mod host;
mod idle;
mod misbehaviour;
mod policies;
mod programs;
mod rings;
mod sizes;
mod start_up;
mod wake_ups;
mod wires;
mod zygote;
