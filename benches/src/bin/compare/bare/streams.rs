//! Small messages one way through a pipe.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use pool_benches::{Outcome, ensure};

use super::child::{Part, Piped};

/// Bytes of a message.
const MESSAGE: usize = 64;

/// How long `count` messages take, so many a write; to the answer of the reader that it has all of them.
pub(crate) fn send(count: usize, per_write: usize) -> Outcome<Duration> {
    let mut piped = Piped::start(Part::Swallow)?;
    let writes = count / per_write;
    let total = writes * per_write * MESSAGE;
    let block = vec![7; per_write * MESSAGE];
    piped.input.write_all(&(total as u64).to_le_bytes())?;
    let mut ready = [0];
    piped.output.read_exact(&mut ready)?;
    let start = Instant::now();
    for _ in 0..writes {
        piped.input.write_all(&block)?;
    }
    let mut answer = [0; 8];
    piped.output.read_exact(&mut answer)?;
    let time = start.elapsed();
    ensure(u64::from_le_bytes(answer) == total as u64 * 7, "the reader has not read what was written")?;
    Ok(time)
}

/// The other side: announces itself, reads, and answers with the sum of all bytes.
pub(crate) fn swallow() -> Outcome<()> {
    let mut input = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut length = [0; 8];
    input.read_exact(&mut length)?;
    let total = usize::try_from(u64::from_le_bytes(length))?;
    output.write_all(b"!")?;
    let (mut buffer, mut seen, mut sum) = (vec![0; 64 << 10], 0, 0_u64);
    while seen < total {
        let count = input.read(&mut buffer)?;
        ensure(count > 0, "the stream ends early")?;
        let data = buffer.get(..count).unwrap_or_default();
        // A byte of each message, as somebody would who looks at its header.
        sum += data.iter().step_by(MESSAGE).map(|byte| u64::from(*byte)).sum::<u64>();
        seen += count;
    }
    let whole = total / MESSAGE;
    ensure(sum >= whole as u64 * 7, "the stream holds something else")?;
    output.write_all(&(total as u64 * 7).to_le_bytes())?;
    Ok(())
}
