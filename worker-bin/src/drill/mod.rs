//! Tasks that misbehave on purpose, and well-behaved ones to run beside them.
//!
//! A drill that cannot play its part, because the system refuses what it needs, panics with the reason, so that the
//! pool reports [`TaskError::Panicked`](pool_core::TaskError::Panicked) instead of the death that was ordered.

mod codecs;
mod exits;
mod families;
mod hangs;
mod memory;
mod output;
mod panics;
mod signals;
mod states;
mod stuck;
mod values;
mod wires;

pub use codecs::{
    DieOnDecode, DieOnEncode, PanicOnEncode, die_while_decoding, die_while_encoding, panic_while_encoding,
};
pub use exits::{abort, exit, quick_exit};
pub use families::{fork_and_exit, fork_and_return, grandchild, nested, orphan_thread};
pub use hangs::{cooperative, hang, hang_blocking_signals, hang_ignoring_sigterm, sleep_ms, spin_ms};
pub use memory::{alloc_failure, leak, out_of_memory};
pub use output::{partial_line, print_stderr, print_stdout, spam_stdout};
pub use panics::{double_panic, panic, panic_value};
pub use signals::{bus, cpu_limit, raise, segv, stack_overflow, stop};
pub use states::{
    Counter, DyingState, FailingState, PanickingState, count, with_dying_state, with_failing_state,
    with_panicking_state,
};
pub use stuck::{hang_in_c, spin_for_ever};
pub use values::{add, attempt, echo_bytes, echo_u64, length, make_bytes, pid, worker_index};
pub use wires::{
    close_pipes, close_pipes_and_return, close_sockets, cover_pipes, garbage_fds, garbage_frame,
    scribble_board,
};
