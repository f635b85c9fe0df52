//! Handles and waiting under [loom](https://docs.rs/loom), which runs every order of their steps that the memory model allows, up to
//! a number of switches that no thread has asked for.
//!
//! ```sh
//! RUSTFLAGS="--cfg pool_loom" CARGO_TARGET_DIR=target/pool-loom cargo test -p pool-core --release --lib models::
//! ```
//!
//! The code is that of the pool: its engine, its state machine, its descriptors and epoll sets are real, and so are rings and board.
//! What is not is in [`stage`]. Loom reports a deadlock where somebody waits for ever.
//!
//! # Which race is where
//!
//! | race, as [`lead`](crate::supervisor::lead) has it | model |
//! |---|---|
//! | a result comes while the leader falls asleep | `handles::a_leader_…`, `handles::two_callers_…` |
//! | somebody else settles what the leader waits for | `leaving::a_kick_…`, `leaving::a_cancelled_task_…`, `several::the_first_…` |
//! | the leader leaves while others' tasks are running | `leaving::a_leader_whose_time_…`, `handles::two_callers_…` |
//! | a task is submitted while a leader leaves | `leaving::a_task_that_comes_…` |
//! | somebody begins to watch while bells are set to ring late | `late` |
//! | foreign code | `handles::a_waker_…`, `handles::a_future_…`, `handles::a_callback_…` |
//! | a follower gives up, others do not | `leaving::a_follower_whose_time_…` |
//! | tallies and inboxes | `several` |
//! | the gate | `limits` |
//!
//! # That these models can fail
//!
//! Each of these changes has been made, and was found:
//!
//! | change | found by |
//! |---|---|
//! | `Lead::kick` without its fence | `a_kick_…`, `the_first_…` |
//! | `Lead::kick` never wakes the leader; the leader does not say that it sleeps | `a_kick_…`, `a_cancelled_task_…`, and others |
//! | `Leader::read_until` without its fence | `a_kick_…`, `the_first_…`, `a_place_…`, `each_place_…` |
//! | `Leader::read_until` does not look once more | `a_kick_…`, `a_cancelled_task_…`, and others |
//! | `Shared::with` does not kick, or kicks before it delivers | `two_callers_…`, `a_cancelled_task_…`, and others |
//! | a leader that leaves does not arm the bells | `two_callers_…` |
//! | the reactor stays muted when nobody leads | `two_callers_…` |
//! | `Cell::settle` leaves the cell counted as watched | `a_future_is_woken`, `a_cancelled_task_…`, and others |
//! | a follower that is done looks for ever | `two_callers_…`, and others |
//! | `Tally::push` without its notification | `a_task_of_one_pool_…` |
//! | `Tally::push` does not say that there is something | `the_first_…`, `each_of_two_…` |
//! | `Cell::count` does not count what has ended | `the_first_…` |
//! | `Gate::wake` without its fence, or without the lock | `a_follower_at_the_gate_…` |
//! | a follower at the gate without its fence | `a_follower_at_the_gate_…` |
//! | `Inbox::follow` sleeps without looking | `a_batch_…` |
//! | results are read, and bells not armed again | `a_batch_…` |
//! | `Shared::heed` does not arm the bells | `late`, but for the leader |
//! | a callback, a future, a tally that is waited for without `heed` | the one of `late` that is about it |
//! | `Rare::unwatch` does not look whether others wait | `a_follower_whose_time_…` |
//! | wakers run before all outcomes are delivered | `a_waker_…` |
//! | the leader does not step aside for wakers | `a_waker_…` |

mod handles;
mod late;
mod leaving;
mod limits;
mod several;
mod stage;
