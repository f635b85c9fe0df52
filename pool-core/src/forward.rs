//! What workers print goes to this program's own output, whatever that is.
//!
//! It may be set to non-blocking by somebody else who has the same pipe or terminal: then it is waited for, and not held meanwhile. It may
//! be a file that is as long as it may be (`RLIMIT_FSIZE`): then the rest is lost, and the program lives on.
//!
//! So nothing of it goes through the buffer of the standard library, which keeps what it could not write: the program would write that
//! when it ends, in a thread that `SIGXFSZ` does reach.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::output::OutputStream;
use crate::sys::signals;

/// Makes the calling thread one that forwards.
pub(crate) fn prepare() {
    signals::block(libc::SIGXFSZ);
}

/// Writes lines out, and waits for as long as that takes.
pub(crate) fn forward(stream: OutputStream, bytes: &[u8]) {
    // Nobody can be told that this program's own output is closed.
    let _ = match stream {
        OutputStream::Stdout => whole(io::stdout().as_fd(), || Unbuffered(io::stdout().lock()), bytes),
        OutputStream::Stderr => whole(io::stderr().as_fd(), || Unbuffered(io::stderr().lock()), bytes),
    };
}

/// A stream of this program, while it is held, without its buffer.
struct Unbuffered<L>(L);

impl<L: Write + AsFd> Write for Unbuffered<L> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What the program has printed before comes first.
        self.0.flush()?;
        Ok(nix::unistd::write(&self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn whole<W: Write>(fd: BorrowedFd<'_>, lock: impl Fn() -> W, mut bytes: &[u8]) -> io::Result<()> {
    loop {
        match some(&mut lock(), &mut bytes) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            ended => return ended,
        }
        // Nobody who wants to print something waits for this.
        match poll(&mut [PollFd::new(fd, PollFlags::POLLOUT)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Writes as much as there is room for; what has been written is taken off.
fn some(out: &mut impl Write, bytes: &mut &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => *bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::io::Read;

    /// Takes a few bytes, then refuses, and so on; it is said how often it has been locked.
    struct Reluctant<'a>(&'a RefCell<(Vec<u8>, u32)>);

    impl Write for Reluctant<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (taken, calls) = &mut *self.0.borrow_mut();
            *calls += 1;
            match *calls % 3 {
                0 => Err(ErrorKind::WouldBlock.into()),
                1 => Err(ErrorKind::Interrupted.into()),
                _ => {
                    let len = bytes.len().min(3);
                    taken.extend(&bytes[..len]);
                    Ok(len)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nothing_is_lost_or_written_twice_where_there_is_not_always_room() {
        // What is waited for always has room.
        let (_reader, writer) = io::pipe().unwrap();
        let written = RefCell::new((Vec::new(), 0));
        whole(writer.as_fd(), || Reluctant(&written), b"0123456789").unwrap();
        assert_eq!(written.borrow().0, b"0123456789");
    }

    #[test]
    fn the_end_of_whoever_reads_is_an_error_and_not_a_wait() {
        let (reader, writer) = io::pipe().unwrap();
        pool_ipc::set_nonblocking(writer.as_fd()).unwrap();
        let full = (0..).find_map(|_| (&writer).write(&[b'x'; 4096]).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let ends = std::thread::spawn(move || {
            let mut reader = reader;
            reader.read_exact(&mut [0]).unwrap();
        });
        let ended = whole(writer.as_fd(), || &writer, b"y");
        ends.join().unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
