//! Many threads at once, none of which may stand still.

use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pool_core::Pool;

use crate::dump;

/// How often the players are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Looks that may find a player in the same step. On a busy machine nothing but a lost wake-up takes longer, if the pool looks
/// after its workers more rarely than that.
const STALL: u32 = 150;

/// One of the threads.
pub struct Player<'a> {
    /// What it is called in a report.
    pub name: String,
    /// One step; it is given a number, which no other step of any player has.
    pub step: Box<dyn FnMut(u64) + Send + 'a>,
}

impl std::fmt::Debug for Player<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Player").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> Player<'a> {
    /// A player of this name.
    pub fn new(name: impl Into<String>, step: impl FnMut(u64) + Send + 'a) -> Self {
        Self { name: name.into(), step: Box::new(step) }
    }
}

/// Has all players take steps for so long, with short pauses of all lengths between them; returns how many each has taken.
///
/// # Panics
/// When a step does. A step that takes too long aborts the program, after a look at everything.
pub fn play_all(pool: &Pool, duration: Duration, players: Vec<Player<'_>>) -> Vec<(String, u64)> {
    let end = Instant::now() + duration;
    let since: Vec<Mutex<Option<Instant>>> = players.iter().map(|_| Mutex::new(None)).collect();
    let names: Vec<String> = players.iter().map(|player| player.name.clone()).collect();
    let (done, is_done) = channel::<()>();
    thread::scope(|scope| {
        let (names, since) = (&names, &since);
        scope.spawn(move || {
            // Counted in looks of this thread and not by the clock: when the whole program gets no processor, nobody stalls.
            let mut looks = vec![(None, 0_u32); names.len()];
            while is_done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                for (begun, (known, count)) in since.iter().zip(&mut looks) {
                    let begun = *begun.lock().unwrap_or_else(PoisonError::into_inner);
                    *count = if begun.is_some() && begun == *known { *count + 1 } else { 0 };
                    *known = begun;
                }
                let stalled: Vec<_> = names
                    .iter()
                    .zip(&looks)
                    .filter(|(_, (_, count))| *count >= STALL)
                    .map(|(name, _)| name)
                    .collect();
                if !stalled.is_empty() {
                    // The memory first: to look at the pool may set it going again.
                    let memory = dump();
                    let text = format!(
                        "\n{stalled:?} stand still for {:?}\n{memory}\n{:?}\n{:?}\n",
                        LOOK * STALL,
                        pool.stats(),
                        pool.workers()
                    );
                    // There is nobody to tell when stderr is closed.
                    let _ = std::io::stderr().write_all(text.as_bytes());
                    std::process::abort();
                }
            }
        });
        let threads: Vec<_> = (1_u64..)
            .zip(players)
            .zip(since)
            .map(|((number, mut player), since)| {
                scope.spawn(move || {
                    let mut steps = 0;
                    let mut random = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                    while Instant::now() < end {
                        *since.lock().expect("nobody panics with it") = Some(Instant::now());
                        (player.step)(number << 32 | steps << 12);
                        *since.lock().expect("nobody panics with it") = None;
                        steps += 1;
                        // xorshift64
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        pause(random);
                    }
                    steps
                })
            })
            .collect();
        let steps: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        drop(done);
        names.iter().cloned().zip(steps.into_iter().map(|steps| steps.expect("no step panics"))).collect()
    })
}

/// None mostly; else up to half a millisecond, so that everybody falls asleep now and then.
fn pause(random: u64) {
    match random % 8 {
        0..5 => {}
        5 => thread::yield_now(),
        _ => thread::sleep(Duration::from_micros(random >> 8 & 0x1FF)),
    }
}
