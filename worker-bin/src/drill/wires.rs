//! Tasks that attack what connects a worker with its pool.

use pool_core::task;

use crate::drill::hangs::sleep_for_ever;
use crate::sys;

/// Garbage written at once: less than `PIPE_BUF`, so that a pipe takes it whole.
const GARBAGE: usize = 64;

/// Writes 64 bytes of garbage to every descriptor from `first` to `last`; those that are closed or not writable are passed over.
///
/// The bytes differ from descriptor to descriptor, and are the same each time.
#[task]
pub fn garbage_fds(first: i32, last: i32) {
    for fd in first..=last {
        let mut state = u64::from(fd.unsigned_abs()) ^ 0x9E37_79B9_7F4A_7C15;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .take(GARBAGE)
        .collect();
        // Most numbers in the range are closed.
        let _ = sys::write_raw(fd, &bytes);
    }
}

/// Writes 64 bytes that are no frame to its own result pipe, and returns. With rings, that pipe is a doorbell, where they mean
/// nothing.
#[task]
pub fn garbage_frame() {
    let pipes =
        sys::open_fds().map(|fds| fds.into_iter().find(|fd| *fd >= 100 && sys::is_write_end_of_pipe(*fd)));
    let written = pipes.and_then(|pipe| match pipe {
        Some(pipe) => sys::write_raw(pipe, &[0xFF; GARBAGE]),
        None => Err(std::io::Error::other("no write end of a pipe has a number of 100 or above")),
    });
    if let Err(error) = written {
        panic!("cannot write to the result pipe: {error}");
    }
}

/// Closes every descriptor from 3 on, and sleeps for ever.
#[task]
pub fn close_pipes() {
    if let Err(error) = sys::close_all_fds() {
        panic!("cannot close all descriptors: {error}");
    }
    sleep_for_ever()
}

/// Closes every descriptor from 3 on, and returns.
#[task]
pub fn close_pipes_and_return() {
    if let Err(error) = sys::close_all_fds() {
        panic!("cannot close all descriptors: {error}");
    }
}

/// Closes every socket from 3 on, and returns how many there were. Descriptors of shared memory travel over such a socket.
#[task]
pub fn close_sockets() -> u64 {
    match sys::close_all_sockets() {
        Ok(count) => count as u64,
        Err(error) => panic!("cannot close all sockets: {error}"),
    }
}

/// Puts `/dev/null` in the place of every descriptor from 3 on; then returns, or sleeps for ever.
#[task]
pub fn cover_pipes(returns: bool) {
    match sys::cover_all_fds() {
        Ok(()) if returns => {}
        Ok(()) => sleep_for_ever(),
        Err(error) => panic!("cannot cover all descriptors: {error}"),
    }
}

/// Overwrites what the worker shares with its supervisor (the claim board, and rings if there are some) with 0xA5; then returns, or sleeps for ever.
#[task]
pub fn scribble_board(returns: bool) {
    match sys::scribble_shared_memory(0xA5) {
        Ok(0) => panic!("no writable shared mapping of a memfd is in /proc/self/maps"),
        Ok(_) if returns => {}
        Ok(_) => sleep_for_ever(),
        Err(error) => panic!("cannot read /proc/self/maps: {error}"),
    }
}
