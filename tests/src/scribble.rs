//! Tasks that overwrite the memory which their worker shares with its supervisor.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use pool_core::task;
use serde::{Deserialize, Serialize};

use crate::line::add_line;
use crate::region::{NAME, Place, Ring};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ink {
    /// This byte everywhere.
    Fill(u8),
    /// Every 13th byte gets other bits. Little enough to leave most headers of frames alone.
    Speckle,
    /// Words only: something is added to what is there.
    Add(i64),
    /// Words only: a value.
    Set(u64),
}

/// How the task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// It returns how many bytes of results had not been read when it began to write.
    Return,
    /// It sleeps for ever.
    Hang,
    /// It exits with this status.
    Exit(i32),
}

/// Sleeps for so many milliseconds, and then overwrites a part of the memory.
#[task]
pub fn scribble(after: u64, place: Place, ink: Ink, then: Then) -> u64 {
    std::thread::sleep(std::time::Duration::from_millis(after));
    let base = region();
    let word = |place: Place| {
        let address = base + usize::try_from(place.offset()).expect("64-bit Linux");
        // SAFETY: the region is mapped as long as the worker lives, words in it are aligned, and all that is in it is atomic
        // for those who use it.
        unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(address)) }
    };
    let position = |place: Place| word(place).load(Ordering::Acquire);
    let unread = position(Place::Tail(Ring::Results)).wrapping_sub(position(Place::Head(Ring::Results)));
    match ink {
        Ink::Add(by) => _ = word(place).fetch_add(by.cast_unsigned(), Ordering::SeqCst),
        Ink::Set(value) => word(place).store(value, Ordering::SeqCst),
        Ink::Fill(_) | Ink::Speckle => {
            let start = base + usize::try_from(place.offset()).expect("64-bit Linux");
            for at in 0..place.size() {
                // SAFETY: as above; those who use these bytes have to distrust them, which is the purpose.
                let byte = unsafe { AtomicU8::from_ptr(std::ptr::with_exposed_provenance_mut(start + at)) };
                match ink {
                    Ink::Fill(value) => byte.store(value, Ordering::Relaxed),
                    _ if at.is_multiple_of(13) => _ = byte.fetch_xor(0x5A, Ordering::Relaxed),
                    _ => {}
                }
            }
        }
    }
    match then {
        Then::Return => unread,
        Then::Hang => loop {
            std::thread::park();
        },
        Then::Exit(status) => std::process::exit(status),
    }
}

/// Leaves a thread behind that scribbles over a part of the memory, a word at a time, for so many milliseconds with pauses of so
/// many microseconds: any value, a few bits, or what is found elsewhere. It returns its seed.
#[task]
pub fn leave_a_vandal(seed: u64, place: Place, ms: u64, pause_us: u64) -> u64 {
    let start = region() + usize::try_from(place.offset()).expect("64-bit Linux");
    let vandalise = move || {
        let mut random = seed | 1;
        let mut next = move || {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let words = (place.size() / 8) as u64;
        let word = |number: u64| {
            let address = start + 8 * usize::try_from(number % words).expect("64-bit Linux");
            // SAFETY: as in `scribble`.
            unsafe { AtomicU64::from_ptr(std::ptr::with_exposed_provenance_mut(address)) }
        };
        let begun = std::time::Instant::now();
        while begun.elapsed() < std::time::Duration::from_millis(ms) {
            let target = word(next());
            match next() % 3 {
                0 => target.store(next(), Ordering::SeqCst),
                // Not the two bits that are a ticket's state on the board: a claim that is made an offer again is a forgery
                // which nobody can tell from an offer.
                1 => _ = target.fetch_xor(4 << (next() % 5), Ordering::SeqCst),
                _ => target.store(word(next()).load(Ordering::Relaxed), Ordering::SeqCst),
            }
            std::thread::sleep(std::time::Duration::from_micros(pause_us));
        }
    };
    let thread = std::thread::Builder::new().name("vandal".to_owned());
    drop(thread.spawn(vandalise).expect("there is room for a thread"));
    seed
}

/// Where the region is in this process.
fn region() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux has /proc");
    let mut starts = maps
        .lines()
        .filter(|line| line.contains(NAME))
        .filter_map(|line| usize::from_str_radix(line.split_once('-')?.0, 16).ok());
    let start = starts.next().expect("a worker has its region mapped");
    assert_eq!(starts.next(), None, "whose region is it?");
    start
}

/// Adds a line with `n` to a file, after a while of so many microseconds, and returns [`marked`]`(n)`.
#[task]
pub fn mark(n: u64, file: PathBuf, us: u64) -> u64 {
    let start = std::time::Instant::now();
    while start.elapsed() < std::time::Duration::from_micros(us) {
        std::hint::spin_loop();
    }
    add_line(&file, n);
    marked(n)
}

/// The right answer of [`mark`].
#[must_use]
pub fn marked(n: u64) -> u64 {
    n.wrapping_mul(7).wrapping_add(5)
}
