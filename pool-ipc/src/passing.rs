//! Descriptors that are passed after the start, over the socket that the boot message came through.
//!
//! One packet each: 8 bytes of magic, the id that the sender has given it (`u64`, little endian), one descriptor.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use nix::errno::Errno;

use crate::{
    boot::{out_of_the_way, send_packet},
    sys,
};

const MAGIC: [u8; 8] = *b"POOLDSCR";
const LEN: usize = 16;

/// Sends a duplicate of `fd` under the number `id`. It does not wait.
///
/// # Errors
/// Those of `sendmsg(2)`: [`WouldBlock`](io::ErrorKind::WouldBlock) if too much is on its way, which the receiver has to
/// take first; [`BrokenPipe`](io::ErrorKind::BrokenPipe) if there is none any more; `ETOOMANYREFS` if this user has too
/// many descriptors on their way.
#[doc(alias = "SCM_RIGHTS")]
pub fn send_descriptor(socket: BorrowedFd<'_>, id: u64, fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut packet = [0; LEN];
    packet[..8].copy_from_slice(&MAGIC);
    packet[8..].copy_from_slice(&id.to_le_bytes());
    send_packet(socket, &packet, &[fd])
}

/// Receives a descriptor that was [sent](send_descriptor), with its id: close-on-exec, and out of the way of task code.
/// `None` if there is none now, which can only be if it is not to `wait`.
///
/// # Errors
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the other side is gone; [`InvalidData`](io::ErrorKind::InvalidData)
/// for a packet that is anything else than one descriptor and its id, which is dropped with all that came with it;
/// `EMFILE` or `ENFILE` if no number is left for it (`RLIMIT_NOFILE`), in which case it can be received later; those of
/// `recvmsg(2)`. Where another thread takes the last number in that moment the descriptor is lost, and the error `EMFILE` too.
pub fn receive_descriptor(socket: BorrowedFd<'_>, wait: bool) -> io::Result<Option<(u64, OwnedFd)>> {
    // The kernel drops descriptors that it finds no number for; so a number is tried out before.
    drop(sys::duplicate_from(socket, 0).map_err(|error| match error.raw_os_error() {
        // The limit is none at all.
        Some(libc::EINVAL) => Errno::EMFILE.into(),
        _ => error,
    })?);
    let (mut packet, mut reset) = ([0; LEN + 1], false);
    let received = loop {
        match sys::receive(socket, &mut packet, wait) {
            Ok(received) => break received,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // The other side has died and left something unread, which is told before what it had sent, and once.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !reset => reset = true,
            Err(error) => return Err(error),
        }
    };
    let found = received.descriptors.len();
    if received.len == 0 && found == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the other side has closed the boot socket",
        ));
    }
    let (magic, id) = (&packet[..8], packet[8..LEN].first_chunk().map_or(0, |id| u64::from_le_bytes(*id)));
    match <[OwnedFd; 1]>::try_from(received.descriptors) {
        Ok([fd]) if !received.truncated && received.len == LEN && magic == MAGIC => {
            Ok(Some((id, out_of_the_way(fd))))
        }
        Err(none) if none.is_empty() && received.truncated && received.len == LEN && magic == MAGIC => {
            Err(Errno::EMFILE.into())
        }
        _ => {
            let message = format!(
                "packet of {} bytes with {found} descriptors on the boot socket is not one descriptor and its id: \
                 something else wrote to it",
                received.len
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};
    use std::thread;

    use nix::{
        fcntl::{FcntlArg, fcntl},
        unistd,
    };

    use super::*;
    use crate::{boot::socket_pair, pipe_pair};

    #[test]
    fn descriptors_arrive_in_order_with_their_ids_high_and_close_on_exec() {
        let (ours, theirs) = socket_pair().unwrap();
        assert!(receive_descriptor(theirs.as_fd(), false).unwrap().is_none());
        let pipes = [5, u64::MAX, 0].map(|id| (id, pipe_pair().unwrap()));
        for (id, (read, _)) in &pipes {
            send_descriptor(ours.as_fd(), *id, read.as_fd()).unwrap();
        }
        for (id, (read, write)) in pipes {
            drop(read);
            let (found, fd) = receive_descriptor(theirs.as_fd(), false).unwrap().unwrap();
            assert_eq!(found, id);
            assert!(fd.as_raw_fd() >= 100);
            assert_eq!(fcntl(&fd, FcntlArg::F_GETFD), Ok(libc::FD_CLOEXEC));
            let mut byte = [0];
            unistd::write(&write, b"x").unwrap();
            assert_eq!((unistd::read(&fd, &mut byte), byte), (Ok(1), *b"x"));
        }
        assert!(receive_descriptor(theirs.as_fd(), false).unwrap().is_none());
    }

    #[test]
    fn a_wait_ends_with_a_descriptor_or_with_the_other_side() {
        let (ours, theirs) = socket_pair().unwrap();
        let waiter = thread::spawn(move || {
            let id = receive_descriptor(theirs.as_fd(), true).unwrap().unwrap().0;
            (id, receive_descriptor(theirs.as_fd(), true).unwrap_err().kind())
        });
        let (read, _write) = pipe_pair().unwrap();
        send_descriptor(ours.as_fd(), 3, read.as_fd()).unwrap();
        drop(ours);
        assert_eq!(waiter.join().unwrap(), (3, io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn what_was_sent_arrives_though_its_sender_has_died_with_something_unread() {
        let (ours, theirs) = socket_pair().unwrap();
        let (read, _write) = pipe_pair().unwrap();
        send_descriptor(ours.as_fd(), 1, read.as_fd()).unwrap();
        send_descriptor(theirs.as_fd(), 7, read.as_fd()).unwrap();
        drop(theirs);
        assert_eq!(receive_descriptor(ours.as_fd(), false).unwrap().map(|(id, _)| id), Some(7));
        let error = receive_descriptor(ours.as_fd(), false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn sending_does_not_wait_for_a_receiver_that_is_slow_or_gone() {
        let (ours, theirs) = socket_pair().unwrap();
        let (read, _write) = pipe_pair().unwrap();
        let mut sent = 0;
        let error = loop {
            match send_descriptor(ours.as_fd(), sent, read.as_fd()) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        // ETOOMANYREFS where the limit on open files is low.
        assert!(
            error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ETOOMANYREFS),
            "{error:?}"
        );
        for id in 0..sent {
            assert_eq!(receive_descriptor(theirs.as_fd(), false).unwrap().map(|(id, _)| id), Some(id));
        }
        drop(theirs);
        let error = send_descriptor(ours.as_fd(), 1, read.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
