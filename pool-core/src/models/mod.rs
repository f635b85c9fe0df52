//! Handles and waiting under [loom](https://docs.rs/loom), which runs every order of their steps that the memory model allows, up to
//! a number of switches that no thread has asked for.
//!
//! ```sh
//! RUSTFLAGS="--cfg pool_loom" CARGO_TARGET_DIR=target/pool-loom cargo test -p pool-core --release --lib models::
//! ```

mod handles;
mod late;
mod leaving;
mod limits;
mod several;
mod stage;
