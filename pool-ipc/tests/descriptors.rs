//! Counts the descriptors of this process before and after, so it has a process of its own and one test at a
//! time.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{ControlMessage, MsgFlags, sendmsg},
};
use pool_ipc::{Boot, BootError, Region, boot, pipe_pair};

/// Held by each test from its first to its last count.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn a_boot() -> Boot {
    Boot {
        pool: "count".into(),
        worker: 0,
        generation: 1,
        depth: 0,
        frame_limit: 1 << 20,
        supervisor_pid: std::process::id(),
        measured: None,
        marks: false,
        core_dumps: false,
        oom_score_adj: 0,
        ring: true,
        nice: 0,
        cpus: Vec::new(),
        states: Vec::new(),
        confinement: pool_ipc::Confinement::default(),
    }
}

fn send_raw(socket: &OwnedFd, bytes: &[u8], ends: &[BorrowedFd<'_>]) {
    let raw: Vec<_> = ends.iter().map(AsRawFd::as_raw_fd).collect();
    let parts = [std::io::IoSlice::new(bytes)];
    let rights = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
}

#[test]
fn a_boot_leaves_three_descriptors_and_then_none() {
    let _alone = alone();
    let before = open_descriptors();
    {
        let (ours, theirs) = boot::socket_pair().unwrap();
        let (tasks, _task_writer) = pipe_pair().unwrap();
        let (_result_reader, results) = pipe_pair().unwrap();
        let (_region, memory) = Region::create().unwrap();
        boot::send(ours.as_fd(), &a_boot(), [tasks.as_fd(), results.as_fd(), memory.as_fd()]).unwrap();
        let sent = open_descriptors();
        let (_, ends) = boot::receive(theirs.as_fd()).unwrap();
        assert_eq!(open_descriptors(), sent + 3);
        drop(ends);
        assert_eq!(open_descriptors(), sent);
    }
    assert_eq!(open_descriptors(), before);
}

#[test]
fn a_refused_boot_leaves_none() {
    let _alone = alone();
    let (pipe, _write) = pipe_pair().unwrap();
    let (ours, theirs) = boot::socket_pair().unwrap();
    let before = open_descriptors();
    let good = a_boot().encode().unwrap();
    let other_version = a_boot().encode_with_version(99).unwrap();
    let cases: [(&[u8], usize); 5] =
        [(&good, 1), (&good, 4), (&good, 100), (&other_version, 3), (&good[..good.len() - 1], 3)];
    for (bytes, count) in cases {
        send_raw(&ours, bytes, &vec![pipe.as_fd(); count]);
        boot::receive(theirs.as_fd()).unwrap_err();
        assert_eq!(open_descriptors(), before, "{count} descriptors sent with {} bytes", bytes.len());
    }
    send_raw(&ours, b"not a boot message", &[pipe.as_fd()]);
    assert!(matches!(boot::receive(theirs.as_fd()), Err(BootError::NotABoot)));
    assert_eq!(open_descriptors(), before);
}

#[test]
fn a_low_limit_on_open_files_means_lower_numbers() {
    let _alone = alone();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    for limit in [80_u64, 40, 20] {
        let (ours, theirs) = boot::socket_pair().unwrap();
        let (pipe, _write) = pipe_pair().unwrap();
        boot::send(ours.as_fd(), &a_boot(), [pipe.as_fd(); 3]).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        let received = boot::receive(theirs.as_fd());
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        let (_, ends) = received.unwrap();
        for fd in [&ends.tasks, &ends.results, &ends.region] {
            let number = fd.as_raw_fd();
            assert!(
                number >= 10 && u64::from(number.unsigned_abs()) < limit,
                "{number} under a limit of {limit}"
            );
        }
    }
}

#[test]
fn regions_are_unmapped_with_their_last_handle_and_closed() {
    let _alone = alone();
    let maps = || fs::read_to_string("/proc/self/maps").unwrap().matches("pool-region").count();
    let (descriptors, mappings) = (open_descriptors(), maps());
    {
        let (supervisor, memory) = Region::create().unwrap();
        let worker = Region::open(memory.as_fd()).unwrap();
        assert_eq!((open_descriptors(), maps()), (descriptors + 1, mappings + 2));
        let (board, ends) = (supervisor.board(), worker.worker());
        drop((supervisor, worker));
        assert_eq!(maps(), mappings + 2, "the board keeps one, the ends of the rings the other");
        drop((board, ends));
        assert_eq!(maps(), mappings);
    }
    assert_eq!(open_descriptors(), descriptors);
}

#[test]
fn a_passed_descriptor_is_one_more_and_a_refused_one_is_none() {
    let _alone = alone();
    let (ours, theirs) = boot::socket_pair().unwrap();
    let (pipe, _write) = pipe_pair().unwrap();
    let before = open_descriptors();
    boot::send_descriptor(ours.as_fd(), 7, pipe.as_fd()).unwrap();
    let (id, received) = boot::receive_descriptor(theirs.as_fd(), false).unwrap().unwrap();
    assert_eq!((id, open_descriptors()), (7, before + 1));
    drop(received);
    for (bytes, count) in
        [(&b"POOLDSCR\x07\0\0\0\0\0\0\0"[..], 2), (b"POOLDSCR", 1), (b"", 1), (&[0; 100], 40)]
    {
        send_raw(&ours, bytes, &vec![pipe.as_fd(); count]);
        let error = boot::receive_descriptor(theirs.as_fd(), true).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert_eq!(open_descriptors(), before, "{count} descriptors sent with {} bytes", bytes.len());
    }
}

#[test]
fn a_descriptor_for_which_no_number_is_left_is_an_error_and_arrives_later() {
    let _alone = alone();
    let (ours, theirs) = boot::socket_pair().unwrap();
    let (pipe, _write) = pipe_pair().unwrap();
    for id in [1, 2] {
        boot::send_descriptor(ours.as_fd(), id, pipe.as_fd()).unwrap();
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // No number is allowed, and none of those allowed is free: they are those of the standard streams.
    for limit in [0, 3] {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        let received = boot::receive_descriptor(theirs.as_fd(), false);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        assert_eq!(received.unwrap_err().raw_os_error(), Some(nix::libc::EMFILE), "limit {limit}");
    }
    for id in [1, 2] {
        assert_eq!(boot::receive_descriptor(theirs.as_fd(), false).unwrap().unwrap().0, id);
    }
}
