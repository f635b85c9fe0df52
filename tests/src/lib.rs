//! The harness of the pool's integration tests, which kill real workers on purpose.
//!
//! A test makes a [`Scene`], builds its pool from it, does one thing, and looks at the outcome. When the scene is dropped,
//! after the pool, it checks that nothing is left behind: no process, no descriptor, no thread, no shared memory. No test may
//! take longer than [`LIMIT`].
//!
//! ```ignore
//! let scene = Scene::new();
//! let pool = scene.builder().worker(stock()).build().unwrap();
//! let death = expect_death(pool.apply(play(1, Part::Segv)));
//! assert!(is_signal(&death, 11));
//! expect_healthy(&pool);
//! ```
//!
//! Every test holds for every transport; the environment variable `POOL_TEST_TRANSPORT` (`rings`, which is the default, or
//! `pipes`) says which one is used. Where they differ in what a failure leads to, the test asks [`with_rings`]. In the same way
//! `POOL_TEST_START` (`spawn` or `zygote`) says how workers are started.
//!
//! The tests are in `tests/suite`; the worker programs, honest and hostile, in `src/bin`.

mod bomb;
pub mod breakout;
mod diary;
mod dump;
mod executor;
mod footprint;
mod held;
mod lack;
mod line;
mod modes;
mod noted;
pub mod odd;
mod outcome;
mod part;
pub mod process;
mod pulse;
pub mod region;
mod scene;
mod scribble;
mod skip;
mod standstill;
mod start;
mod transport;
mod trials;
mod wait;
mod watchdog;

pub use bomb::{Fuse, explode, spin, touch};
pub use diary::{DIARY, Ending, read_diary, written, written_bytes, written_shared};
pub use dump::dump;
pub use executor::block_on;
pub use footprint::Footprint;
pub use held::{Leash, held, pid_for, wait_for_file};
pub use lack::without;
pub use modes::{Mode, Trial};
pub use noted::{noted, noted_bytes, noted_held, noted_or_not, noted_slowly, noted_to_death, notes};
pub use outcome::{IsCause, cause_of, expect_death, expect_healthy, is_signal, running};
pub use part::{
    Answer, Part, assault, attempt_after_deaths, even, exit_once_there, innocent, nested_hang,
    note_cancellation, once_there, play, quiet, right, sevens, victim,
};
pub use pulse::{Player, play_all};
pub use scene::Scene;
pub use scribble::{Ink, Then, leave_a_vandal, mark, marked, scribble};
pub use skip::skipped;
pub use start::{start_method, zygote};
pub use transport::{transport, with_rings};
pub use trials::in_every_mode;
pub use wait::{wait_and_explain, wait_until};
pub use watchdog::LIMIT;
