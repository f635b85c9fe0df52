//! What the fuzzer calls, and the regression test over its corpora (`pool-ipc/tests/corpus.rs`) as well.
//!
//! Each target takes any bytes, makes of them what a hostile or broken process might write, gives it to the code that
//! reads it, and compares what comes out with a plain model. It panics when they differ.

mod board;
mod frames;
mod handshake;
mod input;
mod marks;
mod memory;
mod messages;
mod ring;
mod seeds;

pub use board::board;
pub use frames::frames;
pub use handshake::handshake;
pub use marks::marks;
pub use messages::messages;
pub use ring::ring;
pub use seeds::seeds;

/// A target.
pub type Target = fn(&[u8]);

/// All targets, by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("frames", frames),
    ("ring", ring),
    ("messages", messages),
    ("board", board),
    ("handshake", handshake),
    ("marks", marks),
];
