use std::{fs::File, io::ErrorKind, thread};

use nix::{errno::Errno, fcntl::FcntlArg, unistd};
use proptest::prelude::*;

use super::*;

fn segment(block: usize, count: u32) -> Arc<Segment> {
    Arc::new(Segment::create(block, count).unwrap())
}

#[test]
fn what_is_written_to_a_block_is_read_in_the_view() {
    let segment = segment(64 << 10, 3);
    let view = SegmentView::open(segment.fd()).unwrap();
    assert_eq!(view.len(), 3 * (64 << 10));
    let mut blocks: Vec<Block> = (0..3).map(|_| segment.take().unwrap()).collect();
    assert!(segment.take().is_none());
    for (block, byte) in blocks.iter_mut().zip(1..) {
        block.bytes_mut().fill(byte);
    }
    for (block, byte) in blocks.iter().zip(1_u8..) {
        let mut copy = vec![0xee];
        assert!(view.append_to(block.offset(), 64 << 10, &mut copy));
        assert_eq!(copy[0], 0xee);
        assert!(copy[1..].iter().all(|found| *found == byte) && copy.len() == (64 << 10) + 1);
        let mut few = [0; 3];
        assert!(view.copy_to(block.offset() + 5, &mut few));
        assert_eq!(few, [byte; 3]);
        // SAFETY: nobody writes to the blocks any more.
        let lent = unsafe { view.bytes(block.offset(), 64 << 10) }.unwrap();
        assert!(lent == block.bytes());
    }
}

#[test]
fn a_block_that_has_been_used_is_taken_before_one_that_has_not() {
    let segment = segment(4096, 64);
    let (first, second) = (segment.take().unwrap(), segment.take().unwrap());
    assert_eq!((first.offset(), second.offset(), segment.kept()), (0, 4096, 0));
    drop(second);
    assert_eq!((segment.kept(), segment.is_unused(), segment.has_free()), (1, false, true));
    assert_eq!(segment.take().unwrap().offset(), 4096);
    drop(first);
    assert_eq!((segment.kept(), segment.is_unused()), (2, true));
}

#[test]
fn a_protected_block_is_free_and_writable_again_after_its_drop() {
    let segment = segment(64 << 10, 2);
    let (mut first, mut second) = (segment.take().unwrap(), segment.take().unwrap());
    first.bytes_mut().fill(1);
    first.protect().unwrap();
    assert!(first.bytes_mut().is_empty());
    assert!(first.bytes().iter().all(|byte| *byte == 1));
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let address = format!("{:x}-", first.bytes().as_ptr() as usize);
    let line = maps.lines().find(|line| line.starts_with(&address)).expect("a mapping of its own");
    assert!(line.contains("r--s"), "{line}");
    second.bytes_mut().fill(2);
    drop(first);
    segment.take().unwrap().bytes_mut().fill(3);
}

#[test]
fn nobody_but_the_creator_can_write_or_resize() {
    let segment = segment(64 << 10, 1);
    assert_eq!(unistd::write(segment.fd(), b"x"), Err(Errno::EPERM));
    for size in [0, 4096, 1 << 20] {
        assert_eq!(unistd::ftruncate(segment.fd(), size), Err(Errno::EPERM));
    }
    let error = Mapping::writable(segment.fd(), 64 << 10).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    let seals = nix::fcntl::fcntl(segment.fd(), FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE));
    assert_eq!(seals, Err(Errno::EPERM));
    let flags = nix::fcntl::fcntl(segment.fd(), FcntlArg::F_GETFD).unwrap();
    assert_ne!(flags & libc::FD_CLOEXEC, 0);
}

#[test]
fn what_is_outside_of_a_view_is_refused() {
    let segment = segment(64 << 10, 1);
    let view = SegmentView::open(segment.fd()).unwrap();
    let end = view.len();
    for (offset, len, inside) in [
        (0, end, true),
        (end, 0, true),
        (end - 1, 1, true),
        (end, 1, false),
        (0, end + 1, false),
        (usize::MAX, 1, false),
        (1, usize::MAX, false),
        (end + 1, 0, false),
    ] {
        assert_eq!(view.contains(offset as u64, len as u64), inside, "{offset} {len}");
        let mut copy = Vec::new();
        if len <= end + 1 {
            assert_eq!(view.append_to(offset, len, &mut copy), inside);
            assert_eq!(copy.len(), if inside { len } else { 0 });
        }
        // SAFETY: nobody writes.
        assert_eq!(unsafe { view.bytes(offset, len) }.is_some(), inside);
    }
    assert!(!view.append_to(0, usize::MAX, &mut Vec::new()), "and nothing is set aside for it");
}

#[test]
fn a_hostile_descriptor_is_no_view() {
    let kind = |error: io::Error| error.kind();
    let invalid = Err(ErrorKind::InvalidData);
    let memfd = |len: usize, seals: SealFlag| {
        let fd = mapping::memfd().unwrap();
        crate::sys::set_len(&fd, len).unwrap();
        mapping::add_seals(fd.as_fd(), seals).unwrap();
        fd
    };
    for missing in
        [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW, SealFlag::F_SEAL_SEAL, mapping::FUTURE_WRITE]
    {
        let fd = memfd(4096, SEALS.difference(missing));
        assert_eq!(SegmentView::open(fd.as_fd()).map(drop).map_err(kind), invalid, "{missing:?}");
    }
    assert_eq!(SegmentView::open(memfd(0, SEALS).as_fd()).map(drop).map_err(kind), invalid, "empty");
    assert!(SegmentView::open(memfd(1, SEALS).as_fd()).is_ok());
    let (read, write) = crate::pipe_pair().unwrap();
    assert_eq!(SegmentView::open(read.as_fd()).map(drop).map_err(kind), Err(ErrorKind::InvalidInput));
    assert!(!Sealed::is_sealed(write.as_fd()));
    assert!(SegmentView::open(File::open("/dev/zero").unwrap().as_fd()).is_err());
    // Huge pages, which may run out when they are read.
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB;
    let flags = nix::sys::memfd::MFdFlags::from_bits_retain(flags);
    if let Ok(fd) = nix::sys::memfd::memfd_create(c"huge", flags) {
        crate::sys::set_len(&fd, 2 << 20).unwrap();
        mapping::add_seals(fd.as_fd(), SEALS).unwrap();
        assert_eq!(SegmentView::open(fd.as_fd()).map(drop).map_err(kind), invalid);
    }
}

#[test]
fn senseless_sizes_are_refused() {
    for (block, count) in [(0, 1), (1, 0), (1, 65), (usize::MAX, 1), (usize::MAX / 2, 64), (1 << 62, 1)] {
        assert!(Segment::create(block, count).is_err(), "{block} {count}");
    }
    assert_eq!(segment(1, 1).block_len(), 4096);
}

#[test]
fn blocks_are_taken_once_by_many_threads() {
    let segment = segment(4096, 16);
    thread::scope(|scope| {
        for byte in 1..=4_u8 {
            let segment = &segment;
            scope.spawn(move || {
                for _ in 0..2_000 {
                    let mut block = segment.take().expect("four threads take 12 blocks at most");
                    block.bytes_mut().fill(byte);
                    let more: Vec<Block> = (0..2).filter_map(|_| segment.take()).collect();
                    assert!(more.iter().all(|other| other.offset() != block.offset()));
                    assert!(block.bytes().iter().all(|found| *found == byte));
                }
            });
        }
    });
    assert!(segment.is_unused());
}

#[test]
fn a_sealed_file_is_what_was_written_and_constant() {
    let mut writer = SealedWriter::create().unwrap();
    writer.append(b"one ").unwrap();
    writer.append(&[]).unwrap();
    writer.append(&vec![7; 100_000]).unwrap();
    assert_eq!((writer.len(), writer.is_empty()), (100_004, false));
    let sealed = writer.seal().map_err(|(_, error)| error).unwrap();
    let fd = sealed.fd().unwrap();
    assert!(sealed.starts_with(b"one ") && sealed[4..] == vec![7; 100_000]);
    assert_eq!(unistd::write(fd, b"x"), Err(Errno::EPERM));
    assert_eq!(unistd::ftruncate(fd, 0), Err(Errno::EPERM));
    assert_eq!(Mapping::writable(fd, 100_004).unwrap_err().raw_os_error(), Some(libc::EPERM));
    let hole = nix::fcntl::fallocate(
        fd,
        nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE,
        0,
        4096,
    );
    assert_eq!(hole, Err(Errno::EPERM));
    let again = Sealed::open(fd).unwrap();
    assert!(*again == *sealed && again.id() != sealed.id());
    assert!(again.fd().is_none());
    let (writer, error) = SealedWriter::create().unwrap().seal().unwrap_err();
    assert_eq!((writer.len(), error.kind()), (0, ErrorKind::InvalidData));
    let mut writer = SealedWriter::create().unwrap();
    writer.append(b"abc").unwrap();
    assert_eq!(writer.into_vec().unwrap(), b"abc");
}

#[test]
fn what_somebody_can_still_write_to_is_not_sealed() {
    let fd = mapping::memfd().unwrap();
    crate::sys::set_len(&fd, 4096).unwrap();
    assert!(!Sealed::is_sealed(fd.as_fd()));
    let writable = Mapping::writable(fd.as_fd(), 4096).unwrap();
    let busy = mapping::add_seals(fd.as_fd(), SealFlag::F_SEAL_WRITE).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY), "the kernel refuses while it is mapped for writing");
    drop(writable);
    mapping::add_seals(fd.as_fd(), SealFlag::F_SEAL_WRITE).unwrap();
    assert!(!Sealed::is_sealed(fd.as_fd()), "it could still shrink");
    mapping::add_seals(fd.as_fd(), mapping::FIXED_SIZE).unwrap();
    assert!(Sealed::is_sealed(fd.as_fd()));
    let segment = segment(4096, 1);
    assert!(!Sealed::is_sealed(segment.fd()), "its creator can write");
    assert_eq!(Sealed::open(segment.fd()).unwrap_err().kind(), ErrorKind::InvalidData);
}

proptest! {
    #[test]
    fn locators_come_back_and_short_ones_are_refused(numbers: [u64; 3], more: Vec<u8>, cut in 0..Locator::LEN) {
        let locator = Locator { segment: numbers[0], offset: numbers[1], len: numbers[2] };
        let bytes = [&locator.encode()[..], &more].concat();
        prop_assert_eq!(Locator::split(&bytes), Ok((locator, &more[..])));
        prop_assert!(Locator::split(&bytes[..cut]).is_err());
    }
}
