//! Workers are killed in every way we could think of; see the library of this package for the harness.

pool_core::test_worker!();

mod acceptance;
mod arguments;
mod containment;
mod death_at_each_step;
mod death_in_task;
mod events;
mod fairness;
mod flow;
mod futures;
mod handles;
mod host;
mod idle;
mod insights;
mod limits;
mod maps;
mod memory;
mod misbehaviour;
mod order;
mod output;
mod policies;
mod programs;
mod progress;
mod recycling;
mod resize;
mod rings;
mod settings;
mod sharing;
mod signals;
mod sizes;
mod start_up;
mod states;
mod wake_ups;
mod wires;
mod zygote;
