//! What comes through sockets: the boot message, descriptors, and the hello of a worker.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::ftruncate;
use pool_ipc::boot::{self, receive_descriptor};
use pool_ipc::message::{MAX_BOOT_LEN, MAX_TASKS};
use pool_ipc::{
    Boot, BootError, Fill, FrameReader, HEADER_LEN, Hello, Kind, Region, Sealed, SegmentView, pipe_pair,
};

use super::frames::framed;
use super::input::Input;

const MAGIC: &[u8] = b"POOLDSCR";
const START_OF_BOOT: &[u8] = b"POOLBOOT";
/// The most bytes of a file that is passed.
const MOST: u64 = 20_000;

/// Any packets with any descriptors on either side's socket, and any first words of a worker: they are taken for what they are,
/// and no descriptor is left open.
pub fn handshake(input: &[u8]) {
    let before = open_descriptors();
    let mut input = Input::new(input);
    match input.byte() % 3 {
        0 => boot_message(&mut input),
        1 => descriptors(&mut input),
        _ => hello(&mut input),
    }
    assert_eq!(open_descriptors(), before, "descriptors are left open");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("Linux has /proc").count()
}

fn send(socket: &OwnedFd, bytes: &[u8], passed: &[Passed]) -> bool {
    let raw: Vec<RawFd> = passed.iter().map(|passed| passed.fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    // A packet may be too long for the socket, and there may be too many.
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None).is_ok()
}

fn boot_message(input: &mut Input<'_>) {
    let (ours, theirs) = boot::socket_pair().expect("descriptors are left");
    let passed: Vec<Passed> = (0..input.byte() % 8).map(|_| Passed::from(input)).collect();
    let longer = usize::from(input.short()) * usize::from(input.byte() % 3);
    let mut bytes = input.rest().to_vec();
    bytes.resize(bytes.len() + longer, 0);
    if !send(&ours, &bytes, &passed) {
        return;
    }
    let decoded = Boot::decode(&bytes);
    match boot::receive(theirs.as_fd()) {
        Ok((boot, ends)) => {
            assert_eq!((decoded.ok(), passed.len()), (Some(boot), 3));
            assert_eq!(Region::open(ends.region.as_fd()).is_ok(), passed[2].is_region());
        }
        Err(BootError::NotABoot) => assert!(!bytes.starts_with(START_OF_BOOT)),
        Err(BootError::Message(error)) => {
            // A cut message is refused as well, whatever is left of it.
            assert!(decoded == Err(error) || bytes.len() > MAX_BOOT_LEN);
        }
        Err(BootError::Descriptors { .. }) => assert!(decoded.is_ok() && passed.len() != 3),
        Err(error) => panic!("{error}"),
    }
}

fn descriptors(input: &mut Input<'_>) {
    let (ours, theirs) = boot::socket_pair().expect("descriptors are left");
    for _ in 0..8 {
        if input.is_empty() {
            break;
        }
        let shape = input.byte();
        let id = input.long();
        let mut packet = [MAGIC, &id.to_le_bytes()].concat();
        if shape & 1 == 1 {
            let at = usize::from(input.byte()) % packet.len();
            packet[at] = input.byte();
        }
        if shape & 2 == 2 {
            packet.resize(usize::from(input.byte()) % 20, 0);
        }
        let count = if shape & 4 == 4 { input.byte() % 30 } else { 1 };
        let mut passed: Vec<Passed> = (0..count).map(|_| Passed::from(input)).collect();
        if !send(&ours, &packet, &passed) {
            continue;
        }
        let sound = packet.len() == 16 && packet.starts_with(MAGIC) && passed.len() == 1;
        match receive_descriptor(theirs.as_fd(), false) {
            Ok(Some((found, fd))) => {
                assert!(sound && packet.ends_with(&found.to_le_bytes()));
                passed[0].check(&fd, input);
            }
            Ok(None) => panic!("it has been sent"),
            Err(_) => assert!(!sound),
        }
    }
    assert!(receive_descriptor(theirs.as_fd(), false).is_ok_and(|none| none.is_none()));
    drop(ours);
    assert!(receive_descriptor(theirs.as_fd(), true).is_err(), "the other side is gone");
}

/// As the supervisor takes a worker's first frame.
fn hello(input: &mut Input<'_>) {
    let is_framed = input.byte().is_multiple_of(2);
    let limit = u32::from(input.short());
    let bytes = input.rest();
    let stream = if is_framed { framed(Kind::Hello, 0, bytes) } else { bytes.to_vec() };
    let (pipe, end) = pipe_pair().expect("descriptors are left");
    let stream = &stream[..stream.len().min(60_000)];
    File::from(end).write_all(stream).expect("it fits into the pipe");
    let mut reader = FrameReader::new(limit);
    while reader.fill(pipe.as_fd()).expect("it is a pipe") != Fill::Eof {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                assert!(frame.payload.len() + HEADER_LEN <= stream.len());
                if frame.kind == Kind::Hello
                    && let Ok(hello) = Hello::decode(&frame.payload)
                {
                    assert!(hello.tasks.len() <= MAX_TASKS);
                }
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// A descriptor that is passed, and what it is.
struct Passed {
    fd: OwnedFd,
    file: Option<Memfd>,
}

/// Ordinary memory.
struct Memfd {
    seals: SealFlag,
    len: u64,
    is_region: bool,
}

const FUTURE_WRITE: SealFlag = SealFlag::from_bits_retain(0x10);
const SEALS: [SealFlag; 5] = [
    SealFlag::F_SEAL_SHRINK,
    SealFlag::F_SEAL_GROW,
    SealFlag::F_SEAL_SEAL,
    SealFlag::F_SEAL_WRITE,
    FUTURE_WRITE,
];

impl Passed {
    fn from(input: &mut Input<'_>) -> Self {
        match input.byte() % 8 {
            0 => Self { fd: File::open("/dev/null").expect("it is always there").into(), file: None },
            1 => Self { fd: pipe_pair().expect("descriptors are left").0, file: None },
            2 => {
                let (_, fd) = Region::create().expect("there is memory");
                let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
                Self { fd, file: Some(Memfd { seals, len: 577_536, is_region: true }) }
            }
            _ => {
                let (bits, len) = (input.byte(), u64::from(input.short()) % MOST);
                Self::memfd(bits, len)
            }
        }
    }

    fn memfd(bits: u8, len: u64) -> Self {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(c"fuzz", flags).expect("descriptors are left");
        ftruncate(&fd, len as i64).expect("it is short");
        let file = File::from(fd);
        let content: Vec<u8> = (0..len).map(|at| at as u8).collect();
        file.write_all_at(&content, 0).expect("there is memory");
        let seals = SEALS.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
        let seals = seals.fold(SealFlag::empty(), |all, (_, seal)| all | *seal);
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("it can be sealed");
        Self { fd: file.into(), file: Some(Memfd { seals, len, is_region: false }) }
    }

    fn is_region(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.is_region)
    }

    /// Looks at a descriptor as the side does that has received it.
    fn check(&mut self, fd: &OwnedFd, input: &mut Input<'_>) {
        let has = |seals: SealFlag| {
            self.file.as_ref().is_some_and(|file| file.seals.contains(seals) && file.len > 0)
        };
        let fixed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        let is_sealed = has(fixed | SealFlag::F_SEAL_WRITE);
        assert_eq!(Sealed::is_sealed(fd.as_fd()), is_sealed);
        let sealed = Sealed::open(fd.as_fd());
        assert_eq!(sealed.is_ok(), is_sealed);
        let len = self.file.as_ref().map_or(0, |file| file.len);
        if let Ok(sealed) = sealed {
            assert!(sealed.len() as u64 == len && sealed.iter().zip(0_u64..).all(|(it, at)| *it == at as u8));
        }
        assert_eq!(Region::open(fd.as_fd()).is_ok(), self.is_region());
        let view = SegmentView::open(fd.as_fd());
        assert_eq!(view.is_ok(), has(fixed | SealFlag::F_SEAL_SEAL | FUTURE_WRITE));
        let Ok(view) = view else { return };
        assert_eq!(view.len() as u64, len);
        let (offset, wanted) = match input.byte() % 4 {
            0 => (input.long(), input.long()),
            1 => (len.wrapping_sub(input.byte().into()), input.byte().into()),
            _ => (u64::from(input.short()), u64::from(input.short())),
        };
        let inside = offset.checked_add(wanted).is_some_and(|end| end <= len);
        assert_eq!(view.contains(offset, wanted), inside);
        let mut copy = b"before".to_vec();
        let expected: Vec<u8> = match inside {
            true => b"before".iter().copied().chain((offset..offset + wanted).map(|at| at as u8)).collect(),
            false => copy.clone(),
        };
        // What cannot be is asked for with the size of a buffer that can.
        let (offset, wanted) = (offset as usize, wanted as usize);
        assert_eq!(view.append_to(offset, wanted, &mut copy), inside);
        assert_eq!(copy, expected);
        let mut buffer = vec![0; wanted.min(1 << 17)];
        let fits = view.contains(offset as u64, buffer.len() as u64);
        assert_eq!(view.copy_to(offset, &mut buffer), fits);
    }
}
