//! What workers print: forwarded line by line, and remembered for the death report.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::ids::WorkerId;

/// How much of a worker's stderr is kept for its death report, in bytes.
pub(crate) const TAIL: usize = 8 * 1024;
/// A line longer than this is forwarded in pieces.
const LONGEST_LINE: usize = 64 * 1024;

/// What happens to the lines that workers write to their stdout and stderr.
///
/// The last 8 KiB of stderr are kept for the [`Death`](crate::Death) report in any case.
///
/// ```
/// use pool_core::Output;
///
/// let tagged = Output::capture(|line| eprintln!("[{} {}] {}", line.worker, line.pid, line.text));
/// # let _ = tagged;
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Output {
    /// Written line by line to the same stream of this program.
    #[default]
    Forward,
    /// Thrown away.
    Null,
    /// Given to a function, line by line, on a thread of the pool's own. A function that blocks blocks the workers that
    /// print, and nothing else.
    Capture(Arc<dyn Fn(OutputLine<'_>) + Send + Sync>),
}

impl Output {
    /// [`Output::Capture`] without the `Arc`.
    pub fn capture(function: impl Fn(OutputLine<'_>) + Send + Sync + 'static) -> Self {
        Self::Capture(Arc::new(function))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "Forward",
            Self::Null => "Null",
            Self::Capture(_) => "Capture(..)",
        })
    }
}

/// A line that a worker has written.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct OutputLine<'a> {
    /// Which worker wrote it.
    pub worker: WorkerId,
    /// Its process id.
    pub pid: u32,
    /// To which stream.
    pub stream: OutputStream,
    /// The line without its end; bytes that are no UTF-8 are replaced.
    pub text: &'a str,
}

/// One of a worker's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Whole lines of one worker.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) worker: WorkerId,
    pub(crate) pid: u32,
    pub(crate) stream: OutputStream,
    pub(crate) bytes: Vec<u8>,
}

/// Cuts a stream of bytes into whole lines.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes bytes in, and returns the lines that are whole now, each with its end.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.partial.extend_from_slice(bytes);
        let end = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => last + 1,
            None if self.partial.len() >= LONGEST_LINE => self.partial.len(),
            None => return None,
        };
        let rest = self.partial.split_off(end);
        Some(std::mem::replace(&mut self.partial, rest))
    }

    /// The last line, when it has no end.
    pub(crate) fn finish(&mut self) -> Option<Vec<u8>> {
        let mut last = std::mem::take(&mut self.partial);
        (!last.is_empty()).then(|| {
            last.push(b'\n');
            last
        })
    }
}

/// The last bytes of a stream, and when they came.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
    /// How many bytes came at which time, the oldest first.
    pieces: VecDeque<(Instant, usize)>,
}

impl Tail {
    pub(crate) fn push(&mut self, now: Instant, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL)..];
        let mut excess = (self.bytes.len() + bytes.len()).saturating_sub(TAIL);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
        self.pieces.push_back((now, bytes.len()));
        while let Some((_, length)) = self.pieces.front_mut().filter(|_| excess > 0) {
            let gone = excess.min(*length);
            *length -= gone;
            excess -= gone;
            if *length == 0 {
                self.pieces.pop_front();
            }
        }
    }

    /// The bytes as text, without those that came before `since`; where the start was lost, it begins with a whole line
    /// if there is one.
    pub(crate) fn text(&self, since: Option<Instant>) -> String {
        let older = |(at, _): &&(Instant, usize)| since.is_some_and(|since| *at < since);
        let skipped: usize = self.pieces.iter().take_while(older).map(|(_, length)| length).sum();
        let bytes: Vec<u8> = self.bytes.iter().skip(skipped).copied().collect();
        let cut = bytes.len() == TAIL;
        let start =
            bytes.iter().position(|byte| *byte == b'\n').filter(|_| cut).map_or(0, |newline| newline + 1);
        let start = if start == bytes.len() { 0 } else { start };
        String::from_utf8_lossy(&bytes[start..]).into_owned()
    }
}

/// The thread that writes lines out, so that a blocked stdout of this program never blocks the supervisor.
pub(crate) struct Forwarder {
    output: Output,
    pool: String,
    thread: Option<(Sender<Lines>, Receiver<()>)>,
    /// Set while somebody waits for room in the queue.
    starved: Arc<AtomicBool>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("output", &self.output).finish_non_exhaustive()
    }
}

impl Forwarder {
    /// Chunks of lines that may wait to be written.
    const QUEUE: usize = 64;

    /// `wake` is called when there is room again after a refusal.
    pub(crate) fn new(output: Output, pool: String, wake: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self { output, pool, thread: None, starved: Arc::new(AtomicBool::new(false)), wake }
    }

    /// Queues lines; gives them back when the queue is full.
    pub(crate) fn send(&mut self, lines: Lines) -> Result<(), Lines> {
        if matches!(self.output, Output::Null) {
            return Ok(());
        }
        if self.thread.is_none() {
            self.start();
        }
        let Some((sender, _)) = &self.thread else { return Ok(()) };
        match sender.try_send(lines) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(lines)) => {
                self.starved.store(true, Ordering::SeqCst);
                // The thread may have emptied the queue before it could see the flag.
                match sender.try_send(lines) {
                    Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
                    Err(TrySendError::Full(lines)) => Err(lines),
                }
            }
        }
    }

    fn start(&mut self) {
        let (sender, queue) = crossbeam_channel::bounded::<Lines>(Self::QUEUE);
        let (done, finished) = crossbeam_channel::bounded::<()>(1);
        let (output, starved, wake) =
            (self.output.clone(), Arc::clone(&self.starved), Arc::clone(&self.wake));
        let spawned = std::thread::Builder::new().name(format!("{}-output", self.pool)).spawn(move || {
            for lines in &queue {
                write_out(&output, &lines);
                if starved.swap(false, Ordering::SeqCst) {
                    wake();
                }
            }
            drop(done);
        });
        match spawned {
            Ok(_) => self.thread = Some((sender, finished)),
            Err(error) => {
                tracing::error!(pool = self.pool, %error, "no thread to forward output: it is lost")
            }
        }
    }

    /// Writes out what is queued, for at most `patience`.
    pub(crate) fn finish(&mut self, patience: Duration) {
        if let Some((sender, finished)) = self.thread.take() {
            drop(sender);
            // Nothing is ever sent: the channel ends when the thread does.
            if let Err(crossbeam_channel::RecvTimeoutError::Timeout) = finished.recv_timeout(patience) {
                tracing::warn!(
                    pool = self.pool,
                    "output of workers is left unwritten: this program's own output is blocked"
                );
            }
        }
    }
}

fn write_out(output: &Output, lines: &Lines) {
    match output {
        Output::Null => {}
        Output::Forward => {
            // Nobody can be told that this program's own stdout is closed.
            let _ = match lines.stream {
                OutputStream::Stdout => {
                    let mut out = io::stdout().lock();
                    out.write_all(&lines.bytes).and_then(|()| out.flush())
                }
                OutputStream::Stderr => io::stderr().lock().write_all(&lines.bytes),
            };
        }
        Output::Capture(function) => {
            let bytes = lines.bytes.strip_suffix(b"\n").unwrap_or(&lines.bytes);
            for line in bytes.split(|byte| *byte == b'\n') {
                let text = String::from_utf8_lossy(line);
                let line =
                    OutputLine { worker: lines.worker, pid: lines.pid, stream: lines.stream, text: &text };
                let call = std::panic::AssertUnwindSafe(|| function(line));
                if std::panic::catch_unwind(call).is_err() {
                    tracing::error!("the output callback panicked");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_and_nothing_is_lost() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.feed(b"one\ntw"), Some(b"one\n".to_vec()));
        assert_eq!(splitter.feed(b"o"), None);
        assert_eq!(splitter.feed(b"\nthree\nfour"), Some(b"two\nthree\n".to_vec()));
        assert_eq!(splitter.finish(), Some(b"four\n".to_vec()));
        assert_eq!(splitter.finish(), None);
    }

    #[test]
    fn a_line_without_end_is_forwarded_in_pieces() {
        let mut splitter = Splitter::default();
        let piece = splitter.feed(&vec![b'x'; LONGEST_LINE]).expect("it is long enough");
        assert_eq!(piece.len(), LONGEST_LINE);
    }

    #[test]
    fn the_tail_keeps_the_end_and_starts_with_a_whole_line() {
        let mut tail = Tail::default();
        let now = Instant::now();
        tail.push(now, b"first\n");
        assert_eq!(tail.text(None), "first\n");
        for number in 0..2000 {
            tail.push(now, format!("line {number}\n").as_bytes());
        }
        let text = tail.text(Some(now));
        assert!(text.len() <= TAIL && text.len() > TAIL - 20, "{}", text.len());
        assert!(text.starts_with("line ") && text.ends_with("line 1999\n"));
        tail.push(now, &vec![b'y'; 3 * TAIL]);
        assert_eq!(tail.text(None), "y".repeat(TAIL));
        assert_eq!(tail.pieces.len(), 1);
    }

    #[test]
    fn the_tail_can_leave_out_what_came_before_a_task() {
        let mut tail = Tail::default();
        let early = Instant::now();
        let late = early + Duration::from_millis(5);
        tail.push(early, b"of the task before\n");
        tail.push(late, b"of this task\n");
        assert_eq!(tail.text(Some(late)), "of this task\n");
        assert_eq!(tail.text(None), "of the task before\nof this task\n");
        assert_eq!(tail.text(Some(late + Duration::from_millis(1))), "");
    }
}
