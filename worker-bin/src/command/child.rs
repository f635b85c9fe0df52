//! The task that runs a program.
//!
//! One loop of poll(2) serves all three pipes of the child, which are non-blocking, so that neither side can wait for the other
//! for ever: a child that fills its stderr before it reads its stdin is served like any other.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pool_core::task;

use super::{Command, CommandError, CommandOutput, Stream};

/// Bytes read at once: what a pipe holds by default.
const CHUNK: usize = 64 << 10;

/// Runs a program to its end, and returns what it wrote and how it ended.
///
/// It ends when the program has exited and both its output streams are closed, by its own children too. The program is in
/// the worker's process group: when the worker is killed (a timeout, a cancelled task, the end of the pool), so is the program.
///
/// # Errors
/// The task returns a [`CommandError`] if the program cannot be started, writes more than
/// [`output_limit`](Command::output_limit) allows, or cannot be read from or waited for. A status other than 0 is no error.
#[task(name = "pool_worker::command::run")]
pub fn run(spec: Command) -> Result<CommandOutput, CommandError> {
    let (line, limit) = (spec.to_string(), spec.limit());
    let dir = spec.dir().map(|dir| dir.display().to_string());
    let (mut command, stdin) = spec.into_std();
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let (cause, errno) = (error.to_string(), error.raw_os_error());
            return Err(CommandError::Start { command: line, dir, cause, errno });
        }
    };
    let outcome = talk(&mut child, &stdin, limit);
    if outcome.is_err() {
        // It may have ended already; either way the wait below is short.
        let _ = child.kill();
    }
    let status = child.wait();
    let os = |what: &str, error: io::Error| CommandError::Os {
        command: line.clone(),
        what: what.to_owned(),
        cause: error.to_string(),
    };
    match (outcome, status) {
        (Ok([stdout, stderr]), Ok(status)) => Ok(CommandOutput { status: status.into(), stdout, stderr }),
        (Ok(_), Err(error)) => Err(os("wait for", error)),
        (Err(Trouble::Limit(stream)), _) => Err(CommandError::TooMuchOutput { command: line, stream, limit }),
        (Err(Trouble::Os(what, error)), _) => Err(os(what, error)),
    }
}

/// Why the talk with a child was broken off.
enum Trouble {
    Limit(Stream),
    Os(&'static str, io::Error),
}

/// Writes `input` to the child and reads what it writes, until all pipes are closed.
fn talk(child: &mut Child, input: &[u8], limit: u64) -> Result<[Vec<u8>; 2], Trouble> {
    let mut feed = child.stdin.take().map(|pipe| Feed { pipe, left: input });
    let mut stdout = child.stdout.take().map(|pipe| Drain::new(pipe, Stream::Stdout, limit));
    let mut stderr = child.stderr.take().map(|pipe| Drain::new(pipe, Stream::Stderr, limit));
    let mut collected = [Vec::new(), Vec::new()];
    let pipes = [
        feed.as_ref().map(|feed| feed.pipe.as_fd()),
        stdout.as_ref().map(|drain| drain.pipe.as_fd()),
        stderr.as_ref().map(|drain| drain.pipe.as_fd()),
    ];
    for pipe in pipes.into_iter().flatten() {
        set_nonblocking(pipe).map_err(|error| Trouble::Os("set up the pipes of", error.into()))?;
    }
    while feed.is_some() || stdout.is_some() || stderr.is_some() {
        wait(&feed, &stdout, &stderr).map_err(|error| Trouble::Os("wait for output of", error.into()))?;
        // What has nothing to give or take says so at once.
        if feed.as_mut().is_some_and(Feed::is_over) {
            feed = None;
        }
        finish(&mut stdout, &mut collected[0])?;
        finish(&mut stderr, &mut collected[1])?;
    }
    Ok(collected)
}

/// Waits until one of the pipes is ready.
fn wait<O: AsFd, E: AsFd>(
    feed: &Option<Feed<'_>>,
    stdout: &Option<Drain<O>>,
    stderr: &Option<Drain<E>>,
) -> nix::Result<()> {
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
    fds.extend(feed.iter().map(|feed| PollFd::new(feed.pipe.as_fd(), PollFlags::POLLOUT)));
    fds.extend(stdout.iter().map(|drain| PollFd::new(drain.pipe.as_fd(), PollFlags::POLLIN)));
    fds.extend(stderr.iter().map(|drain| PollFd::new(drain.pipe.as_fd(), PollFlags::POLLIN)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads what is there; at the end of the stream, moves it to `collected`.
fn finish<P: Read>(drain: &mut Option<Drain<P>>, collected: &mut Vec<u8>) -> Result<(), Trouble> {
    if let Some(open) = drain
        && open.is_over()?
    {
        *collected = std::mem::take(&mut open.bytes);
        *drain = None;
    }
    Ok(())
}

/// The input of a child, and what it has not taken yet.
struct Feed<'a> {
    pipe: ChildStdin,
    left: &'a [u8],
}

impl Feed<'_> {
    /// Writes what fits, and tells whether nothing is left to write, or nobody to read it.
    fn is_over(&mut self) -> bool {
        while !self.left.is_empty() {
            match self.pipe.write(self.left) {
                Ok(written) => self.left = &self.left[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
        true
    }
}

/// One output stream of a child, and what it has given so far.
struct Drain<P> {
    pipe: P,
    stream: Stream,
    limit: u64,
    bytes: Vec<u8>,
}

impl<P: Read> Drain<P> {
    fn new(pipe: P, stream: Stream, limit: u64) -> Self {
        Self { pipe, stream, limit, bytes: Vec::new() }
    }

    /// Reads what is there, a chunk at most, and tells whether the stream has ended.
    fn is_over(&mut self) -> Result<bool, Trouble> {
        let start = self.bytes.len();
        self.bytes.resize(start + CHUNK, 0);
        let read = loop {
            match self.pipe.read(&mut self.bytes[start..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.bytes.truncate(start + read.as_ref().map_or(0, |len| *len));
        match read {
            Ok(_) if self.bytes.len() as u64 > self.limit => Err(Trouble::Limit(self.stream)),
            Ok(len) => Ok(len == 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(Trouble::Os("read the output of", error)),
        }
    }
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::command::{CommandStatus, DEFAULT_OUTPUT_LIMIT};

    fn run_here(command: Command) -> Result<CommandOutput, CommandError> {
        run(command).run_here().expect("commands and their outputs can be encoded")
    }

    fn sh(script: &str) -> Command {
        Command::new("sh").arg("-c").arg(script)
    }

    #[test]
    fn input_output_and_status_arrive() {
        let output = run_here(sh("cat; echo oops >&2; exit 3").stdin("some text")).unwrap();
        assert_eq!(output.stdout, b"some text");
        assert_eq!(output.stderr, b"oops\n");
        assert_eq!(output.status, CommandStatus::Exited(3));
        assert!(!output.status.success());
    }

    #[test]
    fn a_signal_is_reported() {
        let output = run_here(sh("kill -SEGV $$")).unwrap();
        assert_eq!(output.status, CommandStatus::Signalled(11));
        assert_eq!(output.status.to_string(), "was killed by SIGSEGV");
    }

    #[test]
    fn both_directions_can_be_full_at_once() {
        // The child writes 1 MiB to each stream before it reads, and then returns its input.
        let script = "head -c 1048576 /dev/zero; head -c 1048576 /dev/zero >&2; cat";
        let input = vec![b'x'; 3 << 20];
        let output = run_here(sh(script).stdin(input.clone())).unwrap();
        assert_eq!(output.stderr.len(), 1 << 20);
        assert_eq!(output.stdout.len(), 4 << 20);
        assert!(output.stdout[1 << 20..] == input[..]);
    }

    #[test]
    fn a_child_that_does_not_read_its_input_is_no_error() {
        let output = run_here(Command::new("true").stdin(vec![0; 1 << 20])).unwrap();
        assert!(output.status.success());
    }

    #[test]
    fn too_much_output_kills_the_child() {
        let error = run_here(Command::new("yes").output_limit(100_000)).unwrap_err();
        let expected =
            CommandError::TooMuchOutput { command: "yes".into(), stream: Stream::Stdout, limit: 100_000 };
        assert_eq!(error, expected);
        let error = run_here(sh("exec yes >&2")).unwrap_err();
        let CommandError::TooMuchOutput { stream, limit, .. } = error else { panic!("{error:?}") };
        assert_eq!((stream, limit), (Stream::Stderr, DEFAULT_OUTPUT_LIMIT));
        let exact = run_here(sh("printf 12345678").output_limit(8)).unwrap();
        assert_eq!(exact.stdout, b"12345678");
    }

    #[test]
    fn environment_and_directory_are_those_asked_for() {
        let print = "echo \"$A,$B\"; pwd";
        let output =
            run_here(sh(print).env("A", "1").env("B", "2").env_remove("B").current_dir("/")).unwrap();
        assert_eq!(output.stdout, b"1,\n/\n");
        let output =
            run_here(Command::new("/usr/bin/env").env("LOST", "1").env_clear().env("KEPT", "2")).unwrap();
        assert_eq!(output.stdout, b"KEPT=2\n");
    }

    #[test]
    fn names_that_are_not_utf8_arrive_unchanged() {
        let odd = OsStr::from_bytes(b"a\xFF\xFEb");
        let output = run_here(sh("printf '%s|%s' \"$1\" \"$X\"").arg("sh").arg(odd).env("X", odd)).unwrap();
        assert_eq!(output.stdout, b"a\xFF\xFEb|a\xFF\xFEb");
        let dir =
            std::env::temp_dir().join(OsStr::from_bytes(format!("pool-{}-", std::process::id()).as_bytes()));
        let mut dir = dir.into_os_string();
        dir.push(odd);
        std::fs::create_dir(&dir).unwrap();
        let output = run_here(Command::new("pwd").current_dir(&dir));
        std::fs::remove_dir(&dir).unwrap();
        assert!(output.unwrap().stdout.ends_with(b"a\xFF\xFEb\n"));
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let error = run_here(Command::new("/no/such/program").arg("x")).unwrap_err();
        assert!(matches!(error, CommandError::Start { errno: Some(libc::ENOENT), .. }), "{error:?}");
        assert!(error.to_string().starts_with("cannot start `/no/such/program x`: "), "{error}");
        let error = run_here(Command::new("true").current_dir("/no/such/dir")).unwrap_err();
        assert!(error.to_string().starts_with("cannot start `true` in /no/such/dir: "), "{error}");
        let error = run_here(Command::new("echo").arg("a\0b")).unwrap_err();
        assert!(matches!(error, CommandError::Start { errno: None, .. }), "{error:?}");
    }
}
