//! What workers print: forwarded line by line, and remembered for reports.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use pool_ipc::mark;

use crate::forward;
use crate::ids::{TaskId, WorkerId};
use crate::told::caught;

/// How much of each of a worker's streams is kept for reports, in bytes.
pub(crate) const TAIL: usize = 8 * 1024;
/// A line longer than this is forwarded in pieces.
const LONGEST_LINE: usize = 64 * 1024;

/// What happens to the lines that workers write to their stdout and stderr.
///
/// The last 8 KiB of each stream are kept for [`TaskError::output`](crate::TaskError::output) and the
/// [`Death`](crate::Death) report in any case.
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
    /// Given to a function, line by line, on a thread of the pool's own, each with the task that wrote it. A function that
    /// blocks blocks the workers that print, and nothing else.
    ///
    /// For that, each worker writes a mark into both of its streams before each task, which the pool takes out again. These are
    /// four system calls for a task; and while the function blocks and the worker's pipe is full, a task that prints nothing
    /// waits, too. A line that a task leaves unfinished is ended before the next one. What C code leaves in the buffer of its
    /// `stdout` without an end of line counts as printed by the task that ends that line.
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
    /// The task that wrote it: the one that the worker ran, or had run last. What a worker writes before its first task has none.
    pub task: Option<TaskId>,
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
    pub(crate) text: Text,
}

/// Lines, and who wrote them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Text {
    bytes: Vec<u8>,
    /// From which place on they are of which task; nothing where that is not known.
    tasks: Vec<(usize, Option<TaskId>)>,
}

impl Text {
    fn push(&mut self, task: Option<TaskId>, bytes: &[u8]) {
        if self.tasks.last().is_none_or(|(_, last)| *last != task) {
            self.tasks.push((self.bytes.len(), task));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Ends the last line, so that the next task begins another one.
    fn end_line(&mut self) {
        if self.bytes.last().is_some_and(|last| *last != b'\n') {
            self.bytes.push(b'\n');
        }
    }

    /// Each line without its end, and the task that wrote it.
    fn lines(&self) -> impl Iterator<Item = (Option<TaskId>, &[u8])> {
        let bytes = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let (mut tasks, mut task, mut place) = (self.tasks.iter().peekable(), None, 0);
        bytes.split(|byte| *byte == b'\n').map(move |line| {
            while let Some((_, of)) = tasks.next_if(|(from, _)| *from <= place) {
                task = *of;
            }
            place += line.len() + 1;
            (task, line)
        })
    }
}

/// Cuts a stream of bytes into whole lines, and keeps the end of it. In a marked stream, it finds the marks.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    marked: bool,
    /// The task whose mark came last.
    task: Option<TaskId>,
    /// What may be the beginning of a mark.
    held: Vec<u8>,
    partial: Vec<u8>,
    /// In a marked stream, of the present task only.
    tail: Tail,
}

impl Splitter {
    pub(crate) fn new(marked: bool) -> Self {
        Self { marked, ..Self::default() }
    }

    /// Takes bytes in that have come now, and returns the lines that are whole by then, each with its end.
    pub(crate) fn feed(&mut self, now: Instant, bytes: &[u8]) -> Option<Text> {
        if !self.marked {
            self.tail.push(now, bytes);
            return self.whole_lines(bytes).map(|bytes| Text { bytes, tasks: Vec::new() });
        }
        let mut text = Text::default();
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let mut rest = &input[..];
        loop {
            let mark::Found { start, held } = mark::find(rest);
            let (before, behind) = rest.split_at(start.map_or(rest.len() - held, |(start, _)| start));
            self.tail.push(now, before);
            if let Some(lines) = self.whole_lines(before) {
                text.push(self.task, &lines);
            }
            let Some((_, task)) = start else {
                self.held = behind.to_vec();
                break;
            };
            if !self.partial.is_empty() {
                text.push(self.task, &std::mem::take(&mut self.partial));
            }
            text.end_line();
            self.task = (task > 0).then(|| TaskId::new(task));
            self.tail = Tail::default();
            rest = &behind[mark::LEN..];
        }
        (!text.bytes.is_empty()).then_some(text)
    }

    /// Adds to the line that is not whole, and returns those that are.
    fn whole_lines(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
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
    pub(crate) fn finish(&mut self) -> Option<Text> {
        self.partial.append(&mut self.held);
        let last = std::mem::take(&mut self.partial);
        if last.is_empty() {
            return None;
        }
        let mut text = Text::default();
        if self.marked {
            text.push(self.task, &last);
        } else {
            text.bytes = last;
        }
        text.end_line();
        Some(text)
    }

    /// The last bytes of a task, as text; of whatever came last, if none is given. Where there are no marks, it is what has
    /// come since the task was started.
    pub(crate) fn tail(&self, task: Option<TaskId>, since: Option<Instant>) -> String {
        match task {
            _ if !self.marked => self.tail.text(since),
            // The mark of this task is missing: it has closed the stream, say.
            Some(_) if task != self.task => String::new(),
            _ => self.tail.text(None),
        }
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
        if bytes.is_empty() {
            return;
        }
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
            if matches!(output, Output::Forward) {
                forward::prepare();
            }
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
        Output::Forward => forward::forward(lines.stream, &lines.text.bytes),
        Output::Capture(function) => {
            for (task, line) in lines.text.lines() {
                let text = String::from_utf8_lossy(line);
                let Lines { worker, pid, stream, .. } = *lines;
                let line = OutputLine { worker, pid, task, stream, text: &text };
                if caught(|| function(line)).is_none() {
                    tracing::error!("the output callback panicked");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unmarked(bytes: &[u8]) -> Option<Text> {
        Some(Text { bytes: bytes.to_vec(), tasks: Vec::new() })
    }

    #[test]
    fn lines_are_whole_and_nothing_is_lost() {
        let (mut splitter, now) = (Splitter::default(), Instant::now());
        assert_eq!(splitter.feed(now, b"one\ntw"), unmarked(b"one\n"));
        assert_eq!(splitter.feed(now, b"o"), None);
        assert_eq!(splitter.feed(now, b"\nthree\nfour"), unmarked(b"two\nthree\n"));
        assert_eq!(splitter.finish(), unmarked(b"four\n"));
        assert_eq!(splitter.finish(), None);
        assert_eq!(splitter.tail(Some(TaskId::new(1)), None), "one\ntwo\nthree\nfour");
    }

    #[test]
    fn a_line_without_end_is_forwarded_in_pieces() {
        let mut splitter = Splitter::default();
        let piece = splitter.feed(Instant::now(), &vec![b'x'; LONGEST_LINE]).expect("it is long enough");
        assert_eq!(piece.bytes.len(), LONGEST_LINE);
    }

    /// Each line with the number of its task.
    fn told(text: Option<Text>) -> Vec<(u64, String)> {
        let line = |(task, line): (Option<TaskId>, &[u8])| {
            (task.map_or(0, TaskId::get), String::from_utf8_lossy(line).into_owned())
        };
        text.iter().flat_map(|text| text.lines().map(line).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn marks_say_whose_lines_they_are_wherever_the_bytes_are_cut() {
        let mut stream = b"early\n".to_vec();
        stream.extend(mark::encode(1));
        stream.extend(b"one\n\x1ePT no mark\nunfinished");
        stream.extend(mark::encode(2));
        stream.extend(mark::encode(3));
        stream.extend(b"three\n\nthree\nlast");
        let expected = [
            (0, "early"),
            (1, "one"),
            (1, "\x1ePT no mark"),
            (1, "unfinished"),
            (3, "three"),
            (3, ""),
            (3, "three"),
            (3, "last"),
        ];
        for size in 1..=stream.len() {
            let (mut splitter, mut found) = (Splitter::new(true), Vec::new());
            for bytes in stream.chunks(size) {
                found.extend(told(splitter.feed(Instant::now(), bytes)));
            }
            assert_eq!(splitter.tail(Some(TaskId::new(3)), None), "three\n\nthree\nlast");
            assert_eq!(splitter.tail(Some(TaskId::new(2)), None), "");
            found.extend(told(splitter.finish()));
            let found: Vec<(u64, &str)> = found.iter().map(|(task, line)| (*task, line.as_str())).collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn half_a_mark_at_the_end_is_text() {
        let mut splitter = Splitter::new(true);
        assert_eq!(splitter.feed(Instant::now(), b"a\x1ePT"), None);
        assert_eq!(told(splitter.finish()), [(0, "a\x1ePT".to_owned())]);
    }

    #[test]
    fn a_very_long_line_ends_with_its_task() {
        let mut splitter = Splitter::new(true);
        let mut bytes = mark::encode(1).to_vec();
        bytes.resize(mark::LEN + LONGEST_LINE, b'x');
        bytes.extend(mark::encode(2));
        bytes.extend(b"short\n");
        let found = told(splitter.feed(Instant::now(), &bytes));
        let lengths: Vec<(u64, usize)> = found.iter().map(|(task, line)| (*task, line.len())).collect();
        assert_eq!(lengths, [(1, LONGEST_LINE), (2, 5)]);
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
