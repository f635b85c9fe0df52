//! Waiting for a state.

use std::time::{Duration, Instant};

/// How long a state is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so, looking every millisecond.
///
/// # Panics
/// When it is still not so after 30 seconds; the message names it.
#[track_caller]
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_and_explain(what, is_so, String::new);
}

/// As [`wait_until`], with something to add to the message.
///
/// # Panics
/// As [`wait_until`].
#[track_caller]
pub fn wait_and_explain(what: &str, mut is_so: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what} {}", explain());
        std::thread::sleep(Duration::from_millis(1));
    }
}
