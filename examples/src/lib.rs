//! What the example programs are made of.
//!
//! * `quick_start`: the shortest program that uses a pool.
//! * `word_count`: counts the words of many files while a saboteur kills the workers, and checks every count.
//! * `command`: runs a program for each of many files.

mod files;
mod interval;
mod saboteur;
mod words;

pub use files::{below, cargo_sources};
pub use interval::parse_interval;
pub use saboteur::Saboteur;
pub use words::{Count, count, count_in_threads};
