//! Whether the limits on the memory of this process leave room for something large.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// Whether so many bytes could be had at once, as far as `RLIMIT_AS` and `RLIMIT_DATA` go. Without such a limit nothing is tried.
pub(crate) fn has(bytes: usize) -> bool {
    let is_limited = |resource| getrlimit(resource).is_ok_and(|(soft, _)| soft != RLIM_INFINITY);
    if ![Resource::RLIMIT_AS, Resource::RLIMIT_DATA].into_iter().any(is_limited) {
        return true;
    }
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at a place of the kernel's choice; nobody learns of it before it is gone.
    unsafe {
        let place = libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0);
        place != libc::MAP_FAILED && libc::munmap(place, bytes) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_there_is_room() {
        assert!(has(1 << 20));
    }
}
