//! What a task costs, next to what the kernel charges for the same bytes, in one run.
//!
//! ```sh
//! cargo run --release -p pool-benches --bin overhead
//! ```
//!
//! Machines are noisy: read the ratios, not the figures. Each row is the median of five repetitions, taken in turn with the
//! bare ones.

use std::error::Error;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pool_core::{Pool, task};

const REPETITIONS: usize = 5;
const TINY: u64 = 300_000;
const TRIPS: u32 = 2_000;
const ECHO: usize = 1 << 20;
const ECHOS: u32 = 200;

#[task]
fn tiny(n: u64) -> u64 {
    n
}

#[task]
fn echo(data: &[u8]) -> Vec<u8> {
    data.to_vec()
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    pool_core::init();
    if std::env::args().nth(1).as_deref() == Some("bare-echo") {
        return bare_echo();
    }
    let mut rows: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut note = |name, value| match rows.iter_mut().find(|(known, _)| *known == name) {
        Some((_, values)) => values.push(value),
        None => rows.push((name, vec![value])),
    };
    for _ in 0..REPETITIONS {
        note("bare spawn and wait, ms", millis(bare_spawn()?));
        note("pool of 2: start, one task, stop, ms", millis(start_and_stop()?));
        let pool = Pool::builder().workers(2).build()?;
        pool.apply(tiny(0))?;
        note("map of tiny tasks, 2 workers, M tasks/s", map(&pool)?);
        note("single submits, 2 workers, M tasks/s", singles(&pool)?);
        drop(pool);
        let pool = Pool::builder().workers(1).build()?;
        pool.apply(tiny(0))?;
        let mut child = BareChild::start()?;
        note("bare pipe round trip, 8 bytes, µs", micros(child.exchange(8, TRIPS)?));
        note("apply round trip, 8 bytes, µs", micros(round_trips(&pool)?));
        note("bare pipe echo, 1 MiB, GB/s in + out", rate(child.exchange(ECHO, ECHOS)?));
        note("apply echo, 1 MiB, GB/s in + out", rate(echoes(&pool)?));
        child.stop()?;
    }
    println!("{:<42} {:>10} {:>10} {:>10}", "median of five, and extremes", "median", "least", "most");
    for (name, values) in &mut rows {
        values.sort_by(f64::total_cmp);
        println!(
            "{name:<42} {:>10.3} {:>10.3} {:>10.3}",
            values[values.len() / 2],
            values[0],
            values[values.len() - 1]
        );
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Both ways.
fn rate(time: Duration) -> f64 {
    2.0 * ECHO as f64 / time.as_secs_f64() / 1e9
}

fn start_and_stop() -> Outcome<Duration> {
    let start = Instant::now();
    let pool = Pool::builder().workers(2).build()?;
    pool.apply(tiny(1))?;
    drop(pool);
    Ok(start.elapsed())
}

fn map(pool: &Pool) -> Outcome<f64> {
    let start = Instant::now();
    let results = pool.map(tiny, 0..TINY)?;
    let time = start.elapsed();
    assert!(results.into_iter().eq(0..TINY), "every result is its argument");
    Ok(TINY as f64 / time.as_secs_f64() / 1e6)
}

fn singles(pool: &Pool) -> Outcome<f64> {
    let start = Instant::now();
    let handles: Vec<_> = (0..TINY).map(|n| pool.apply_async(tiny(n))).collect();
    for (n, handle) in (0..TINY).zip(handles) {
        assert_eq!(handle.get()?, n, "every result is its argument");
    }
    Ok(TINY as f64 / start.elapsed().as_secs_f64() / 1e6)
}

fn round_trips(pool: &Pool) -> Outcome<Duration> {
    let start = Instant::now();
    for n in 0..TRIPS {
        assert_eq!(pool.apply(tiny(n.into()))?, u64::from(n), "the result is the argument");
    }
    Ok(start.elapsed() / TRIPS)
}

fn echoes(pool: &Pool) -> Outcome<Duration> {
    let data = vec![7; ECHO];
    let start = Instant::now();
    for _ in 0..ECHOS {
        assert_eq!(pool.apply(echo(&data))?.len(), ECHO, "the result is the argument");
    }
    Ok(start.elapsed() / ECHOS)
}

fn bare_spawn() -> Outcome<Duration> {
    let start = Instant::now();
    // It sees end of file at once.
    let status = Command::new("/proc/self/exe")
        .arg("bare-echo")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    assert!(status.success(), "the child ends by itself");
    Ok(start.elapsed())
}

/// The other end of the bare exchange: a length, then as many bytes, and back.
fn bare_echo() -> Outcome<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut data = Vec::new();
    let mut length = [0; 8];
    while input.read_exact(&mut length).is_ok() {
        data.resize(usize::try_from(u64::from_le_bytes(length))?, 0);
        input.read_exact(&mut data)?;
        output.write_all(&data)?;
        output.flush()?;
    }
    Ok(())
}

struct BareChild {
    child: std::process::Child,
    input: std::fs::File,
    output: std::fs::File,
}

impl BareChild {
    fn start() -> Outcome<Self> {
        // The same pipes as the pool's, so that their size makes no difference.
        let (theirs_in, ours_in) = pool_ipc::pipe_pair()?;
        let (ours_out, theirs_out) = pool_ipc::pipe_pair()?;
        let child =
            Command::new("/proc/self/exe").arg("bare-echo").stdin(theirs_in).stdout(theirs_out).spawn()?;
        let file = |fd: OwnedFd| std::fs::File::from(fd);
        Ok(Self { child, input: file(ours_in), output: file(ours_out) })
    }

    fn exchange(&mut self, length: usize, times: u32) -> Outcome<Duration> {
        let mut message = vec![0; 8 + length];
        message[..8].copy_from_slice(&(length as u64).to_le_bytes());
        let mut answer = vec![0; length];
        let start = Instant::now();
        for _ in 0..times {
            self.input.write_all(&message)?;
            self.output.read_exact(&mut answer)?;
        }
        Ok(start.elapsed() / times)
    }

    fn stop(self) -> Outcome<()> {
        let Self { mut child, input, output } = self;
        drop((input, output));
        child.wait()?;
        Ok(())
    }
}
