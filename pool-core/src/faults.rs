//! Panics in the pool's own thread, with the feature `test-faults` only; no part of the public API.

use std::sync::atomic::{AtomicU32, Ordering};

/// Where the thread panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At the beginning of a turn, without the lock.
    Turn,
    /// While it launches a worker, without the lock.
    Launch,
    /// While it looks at what has happened, with the lock.
    Locked,
    /// While it carries out what the state machine wants, with the lock. Callers do that, too.
    Action,
}

static ARMED: [AtomicU32; 4] = [const { AtomicU32::new(0) }; 4];

/// The threads of all pools panic at this place the next so many times that one comes by.
pub fn arm(place: Place, times: u32) {
    ARMED[place as usize].store(times, Ordering::SeqCst);
}

/// How many of them have not happened yet.
pub fn armed(place: Place) -> u32 {
    ARMED[place as usize].load(Ordering::SeqCst)
}

pub(crate) fn strike(place: Place) {
    let armed = &ARMED[place as usize];
    let taken = armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |times| times.checked_sub(1));
    assert!(taken.is_err(), "a fault in the reactor, on purpose: {place:?}");
}
