//! How long each step of a tiny task takes, by itself: `cargo bench -p pool-benches --bench inner`.
//!
//! The steps are those whose instructions are counted by the program `instructions`.

mod payload;
// Not in the library: `peer_procspawn` uses that, and must not have the tasks of this pool in it.
#[path = "../../src/bin/instructions/steps/mod.rs"]
mod steps;
mod trip;

use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, criterion_group, criterion_main};

use steps::{MOST, Repeat};

/// Times `iterations` of a step; what prepares them does not count.
fn time(repeat: &mut dyn Repeat, mut iterations: u64) -> Duration {
    let mut time = Duration::ZERO;
    while iterations > 0 {
        let count = u32::try_from(iterations).unwrap_or(MOST).min(MOST);
        repeat.prepare(count);
        let start = Instant::now();
        repeat.run(count);
        time += start.elapsed();
        iterations -= u64::from(count);
    }
    time
}

fn inner(criterion: &mut Criterion) {
    for step in steps::all() {
        let mut repeat = (step.make)().expect("the step can be set up");
        criterion.bench_function(&format!("{}/{}", step.part, step.name), |bencher: &mut Bencher<'_>| {
            bencher.iter_custom(|iterations| time(&mut *repeat, iterations));
        });
    }
    let mut trip = trip::Trip::start().expect("the other thread can be started");
    criterion.bench_function("ring/round trip between two threads", |bencher| bencher.iter(|| trip.go()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = inner, payload::payload
}
criterion_main!(benches);
