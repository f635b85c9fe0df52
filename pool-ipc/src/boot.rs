//! How a worker gets its descriptors: as one message on the socket that is its standard input at exec.
//!
//! Passed descriptors (`SCM_RIGHTS`) arrive with close-on-exec set and need no agreed numbers, so that a
//! process started at the same moment by another thread inherits none of them, and the plain `posix_spawn`
//! path is enough. The worker keeps a duplicate of the socket, over which descriptors go [to](send_descriptor) and
//! [fro](receive_descriptor) later, and puts `/dev/null` in its place.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, getsockopt, recv, sendmsg, socketpair,
        sockopt,
    },
};
use thiserror::Error;

use crate::{
    message::{Boot, MAX_BOOT_LEN, MessageError},
    sys,
};

pub use crate::passing::{receive_descriptor, send_descriptor};

/// The environment variable that says to a process that it is a worker.
pub const BOOT_ENV: &str = "POOL_WORKER_BOOT";

/// Descriptors are moved to these numbers or above, the first that the limit on open files allows. Task code
/// that scribbles over low numbers, or closes 3 to 9 as daemons do, misses them.
const PREFERRED_NUMBERS: [RawFd; 5] = [100, 64, 32, 16, 10];

/// The descriptors of a worker.
#[derive(Debug)]
pub struct WorkerEnds {
    /// Where tasks come from: the read end of the task pipe.
    pub tasks: OwnedFd,
    /// Where results go to: the write end of the result pipe.
    pub results: OwnedFd,
    /// The memory of the [`Region`](crate::Region).
    pub region: OwnedFd,
}

/// Why a worker could not be given its descriptors, or did not get them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// No boot message is on the socket: this process was not started by a pool.
    #[error(
        "standard input carries no boot message, so no pool started this process as a worker: unset {BOOT_ENV}"
    )]
    NotABoot,
    /// The message is there, but not sound.
    #[error("boot message is refused")]
    Message(#[from] MessageError),
    /// It came with the wrong number of descriptors.
    #[error(
        "boot message came with {found} descriptors instead of 3: check the limit on open files (RLIMIT_NOFILE)"
    )]
    Descriptors {
        /// How many.
        found: usize,
    },
    /// A system call failed.
    #[error("{call} failed on the boot socket")]
    Io {
        /// Which.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A pair of connected sockets that keep message boundaries, both close-on-exec.
///
/// # Errors
/// Those of `socketpair(2)`.
#[doc(alias = "SOCK_SEQPACKET")]
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Whether `fd` is a socket of the kind that [`socket_pair`] makes.
#[must_use]
pub fn is_boot_socket(fd: BorrowedFd<'_>) -> bool {
    // SO_TYPE of what is not a socket is an error (ENOTSOCK).
    getsockopt(&fd, sockopt::SockType) == Ok(SockType::SeqPacket)
}

/// Sends the boot message with the three descriptors of [`WorkerEnds`], in the order of its fields.
///
/// The descriptors are duplicated into the message: the caller closes its own. Sending does not wait.
///
/// # Errors
/// [`BootError::Message`] if the message is too long; [`BootError::Io`].
#[doc(alias = "SCM_RIGHTS")]
pub fn send(socket: BorrowedFd<'_>, boot: &Boot, ends: [BorrowedFd<'_>; 3]) -> Result<(), BootError> {
    let bytes = boot.encode()?;
    send_bytes(socket, &bytes, &ends)
}

fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8], ends: &[BorrowedFd<'_>]) -> Result<(), BootError> {
    send_packet(socket, bytes, ends).map_err(|source| BootError::Io { call: "sendmsg", source })
}

/// Sends one packet with descriptors, without waiting.
pub(crate) fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], ends: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = ends.iter().map(AsRawFd::as_raw_fd).collect();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    // A packet is sent whole or not at all, so its length need not be looked at.
    retry(|| {
        sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[ControlMessage::ScmRights(&raw)],
            flags,
            None,
        )
    })?;
    Ok(())
}

/// Receives the boot message and the descriptors, close-on-exec and out of the way of task code.
///
/// It does not wait: the message was queued before this process was started. A message that is not a boot
/// message is left on the socket.
///
/// # Errors
/// [`BootError::NotABoot`] if there is no boot message; [`BootError::Message`], with
/// [`MessageError::Version`] for one of another protocol version; [`BootError::Descriptors`];
/// [`BootError::Io`]. No descriptor is kept then.
pub fn receive(socket: BorrowedFd<'_>) -> Result<(Boot, WorkerEnds), BootError> {
    // Look before taking: the socket may be somebody else's. A look installs no descriptors, and tells how long the message is.
    let mut start = [0; 8];
    let look = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let len = match retry(|| recv(socket.as_raw_fd(), &mut start, look)) {
        Err(Errno::EAGAIN | Errno::ENOTSOCK | Errno::ENOTCONN) => 0,
        looked => looked.map_err(|source| BootError::Io { call: "recv", source: source.into() })?,
    };
    if !Boot::is_start(&start[..len.min(start.len())]) {
        return Err(BootError::NotABoot);
    }

    // No longer than needed: each page of it would be made for this alone, in every worker.
    let mut bytes = vec![0; len.min(MAX_BOOT_LEN) + 1];
    let received = loop {
        match sys::receive(socket, &mut bytes, false) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => break received.map_err(|source| BootError::Io { call: "recvmsg", source })?,
        }
    };
    // First the message: the version says more than a wrong number of descriptors.
    let boot = Boot::decode(&bytes[..received.len])?;
    let found = received.descriptors.len();
    match <[OwnedFd; 3]>::try_from(received.descriptors) {
        Ok(ends) if !received.truncated => {
            let [tasks, results, region] = ends.map(out_of_the_way);
            Ok((boot, WorkerEnds { tasks, results, region }))
        }
        _ => Err(BootError::Descriptors { found }),
    }
}

/// Moves `fd` to a high number, or leaves it where it is if no number is free there.
#[must_use]
pub fn out_of_the_way(fd: OwnedFd) -> OwnedFd {
    // EINVAL says that the limit on open files is lower, EMFILE that all above are taken; a low number works
    // too.
    PREFERRED_NUMBERS.iter().find_map(|&lowest| sys::duplicate_from(fd.as_fd(), lowest).ok()).unwrap_or(fd)
}

/// Repeats `call` while a signal interrupts it.
pub(crate) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::{
        fcntl::{FcntlArg, FdFlag, fcntl},
        unistd,
    };

    use super::*;
    use crate::{Confinement, PROTOCOL_VERSION, Region, pipe_pair};

    fn boot() -> Boot {
        Boot {
            pool: "images".into(),
            worker: 3,
            generation: 9,
            depth: 1,
            frame_limit: 1 << 30,
            supervisor_pid: 77,
            measured: None,
            marks: false,
            core_dumps: false,
            oom_score_adj: 200,
            ring: true,
            nice: 0,
            cpus: Vec::new(),
            states: Vec::new(),
            confinement: Confinement::default(),
        }
    }

    #[test]
    fn descriptors_arrive_in_order_high_and_close_on_exec() {
        let (ours, theirs) = socket_pair().unwrap();
        let (task_read, task_write) = pipe_pair().unwrap();
        let (result_read, result_write) = pipe_pair().unwrap();
        let (region, memory) = Region::create().unwrap();
        send(ours.as_fd(), &boot(), [task_read.as_fd(), result_write.as_fd(), memory.as_fd()]).unwrap();
        let (received, ends) = receive(theirs.as_fd()).unwrap();
        assert_eq!(received, boot());
        for fd in [&ends.tasks, &ends.results, &ends.region] {
            assert!(fd.as_raw_fd() >= 100, "{fd:?}");
            let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
            assert!(flags.contains(FdFlag::FD_CLOEXEC));
        }
        let mut byte = [0];
        unistd::write(&task_write, b"t").unwrap();
        assert_eq!((unistd::read(&ends.tasks, &mut byte), byte), (Ok(1), *b"t"));
        unistd::write(&ends.results, b"r").unwrap();
        assert_eq!((unistd::read(&result_read, &mut byte), byte), (Ok(1), *b"r"));
        region.board().offer(1);
        assert!(Region::open(ends.region.as_fd()).unwrap().board().claim(1, 5));
    }

    #[test]
    fn a_process_that_no_pool_started_is_told_so() {
        let not_a_boot = |fd: BorrowedFd<'_>| matches!(receive(fd), Err(BootError::NotABoot));
        let (ours, theirs) = socket_pair().unwrap();
        assert!(not_a_boot(theirs.as_fd()), "nothing sent");
        send_bytes(ours.as_fd(), b"somebody else's", &[]).unwrap();
        assert!(not_a_boot(theirs.as_fd()));
        let mut left = [0; 32];
        assert_eq!(unistd::read(&theirs, &mut left), Ok(15), "it stays on the socket");
        drop(ours);
        assert!(not_a_boot(theirs.as_fd()), "closed");
        let (pipe, _write) = pipe_pair().unwrap();
        assert!(not_a_boot(pipe.as_fd()));
    }

    #[test]
    fn another_version_is_reported_before_anything_else() {
        let (ours, theirs) = socket_pair().unwrap();
        send_bytes(ours.as_fd(), &boot().encode_with_version(99).unwrap(), &[]).unwrap();
        let error = receive(theirs.as_fd()).unwrap_err();
        let expected = MessageError::Version { theirs: 99, ours: PROTOCOL_VERSION };
        assert!(matches!(&error, BootError::Message(found) if *found == expected), "{error:?}");
    }

    #[test]
    fn the_wrong_number_of_descriptors_is_refused() {
        let (read, _write) = pipe_pair().unwrap();
        let bytes = boot().encode().unwrap();
        for (sent, kept) in [(0, 0), (1, 1), (2, 2), (4, 4), (40, 16)] {
            let (ours, theirs) = socket_pair().unwrap();
            send_bytes(ours.as_fd(), &bytes, &vec![read.as_fd(); sent]).unwrap();
            let error = receive(theirs.as_fd()).unwrap_err();
            let BootError::Descriptors { found } = error else { panic!("{error:?}") };
            assert!(found == kept || (sent == 40 && found < 40 && found != 3), "{sent} sent, {found} found");
        }
    }

    #[test]
    fn messages_that_do_not_fit_are_refused_on_both_sides() {
        let (ours, theirs) = socket_pair().unwrap();
        let (read, _write) = pipe_pair().unwrap();
        let long = Boot { pool: "x".repeat(MAX_BOOT_LEN), ..boot() };
        let error = send(ours.as_fd(), &long, [read.as_fd(); 3]).unwrap_err();
        assert!(matches!(error, BootError::Message(MessageError::TooLong { .. })), "{error:?}");
        let mut bytes = boot().encode().unwrap();
        bytes.resize(MAX_BOOT_LEN + 500, 0);
        send_bytes(ours.as_fd(), &bytes, &[read.as_fd(); 3]).unwrap();
        let error = receive(theirs.as_fd()).unwrap_err();
        assert!(matches!(error, BootError::Message(MessageError::TooLong { .. })), "{error:?}");
    }

    #[test]
    fn a_closed_or_full_socket_is_an_error_and_not_a_wait() {
        let (read, _write) = pipe_pair().unwrap();
        let refused = |socket: &OwnedFd| match send(socket.as_fd(), &boot(), [read.as_fd(); 3]) {
            Ok(()) => None,
            Err(BootError::Io { call: "sendmsg", source }) => Some(source.kind()),
            Err(other) => panic!("{other:?}"),
        };
        let (full, _unread) = socket_pair().unwrap();
        assert_eq!((0..100_000).find_map(|_| refused(&full)), Some(io::ErrorKind::WouldBlock));
        let (closed, other) = socket_pair().unwrap();
        drop(other);
        assert_eq!(refused(&closed), Some(io::ErrorKind::BrokenPipe));
    }

    #[test]
    fn only_seqpacket_sockets_are_boot_sockets() {
        let (socket, _other) = socket_pair().unwrap();
        assert!(is_boot_socket(socket.as_fd()));
        let (stream, _other) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        assert!(!is_boot_socket(stream.as_fd()));
        let (pipe, _write) = pipe_pair().unwrap();
        assert!(!is_boot_socket(pipe.as_fd()));
        assert!(!is_boot_socket(File::open("/dev/null").unwrap().as_fd()));
    }
}
