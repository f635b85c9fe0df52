//! Round trips: back to back, and with pauses in which the other side falls asleep.

use std::time::Instant;

use pool_benches::samples::micros;
use pool_benches::{Outcome, ensure};
use pool_core::Pool;

use super::ready_pool;
use crate::bare::cores::Apart;
use crate::bare::trips::{ByPipe, ByWord, Trip, Waiting};
use crate::effort::Effort;
use crate::journal::Journal;
use crate::tasks::tiny;

/// Trips through the pool.
struct ByPool(Pool);

impl Trip for ByPool {
    fn trip(&mut self, number: u32) -> Outcome<()> {
        let number = u64::from(number);
        ensure(self.0.apply(tiny(number))? == number + 1, "a wrong result")
    }
}

/// Trips before those that are measured.
const WARM_UP: u32 = 200;

/// One after another, as fast as they go.
pub(crate) fn hot(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let trips = effort.pick(4_000, 20_000);
    back_to_back(&mut ByPool(ready_pool(1)?), "trip_hot", trips, journal)?;
    {
        let mut spinning = ByWord::start(Waiting::Spinning)?;
        let _apart = spinning.other().map(Apart::hold).transpose()?;
        back_to_back(&mut spinning, "bare.spin_hot", trips, journal)?;
    }
    back_to_back(&mut ByWord::start(Waiting::Asleep)?, "bare.futex_hot", trips / 2, journal)?;
    back_to_back(&mut ByPipe::start()?, "bare.pipe_hot", trips / 2, journal)
}

fn back_to_back(side: &mut impl Trip, name: &str, trips: u32, journal: &mut Journal) -> Outcome<()> {
    let mut times = Vec::with_capacity(trips as usize);
    for number in 1..=WARM_UP + trips {
        let start = Instant::now();
        side.trip(number)?;
        let time = start.elapsed();
        if number > WARM_UP {
            times.push(micros(time));
        }
    }
    journal.note_spread(name, &times);
    Ok(())
}

/// In turn through the pool, a pipe and a word, each trip after a pause.
pub(crate) fn asleep(effort: Effort, journal: &mut Journal) -> Outcome<()> {
    let trips = effort.pick(100, 200);
    let mut pool = ByPool(ready_pool(1)?);
    let (mut pipe, mut word) = (ByPipe::start()?, ByWord::start(Waiting::Asleep)?);
    let (mut pipe_apart, mut word_apart) = (ByPipe::start()?, ByWord::start(Waiting::Asleep)?);
    let mut sides: [(&str, bool, &mut dyn Trip, Vec<f64>); 5] = [
        ("trip_asleep", false, &mut pool, Vec::new()),
        ("bare.pipe_apart", true, &mut pipe_apart, Vec::new()),
        ("bare.futex_apart", true, &mut word_apart, Vec::new()),
        ("bare.pipe_anywhere", false, &mut pipe, Vec::new()),
        ("bare.futex_anywhere", false, &mut word, Vec::new()),
    ];
    // The first trip includes the start of the other side.
    for number in 1..=trips + 1 {
        for (_, apart, side, times) in &mut sides {
            let _apart = side.other().filter(|_| *apart).map(Apart::hold).transpose()?;
            // The pause is the subject: whoever waits falls asleep in it.
            std::thread::sleep(effort.gap());
            let start = Instant::now();
            side.trip(number)?;
            let time = start.elapsed();
            if number > 1 {
                times.push(micros(time));
            }
        }
    }
    for (name, _, _, times) in sides {
        journal.note_spread(name, &times);
    }
    Ok(())
}
