//! A word that reads as zero in a forked child (`MADV_WIPEONFORK`).

use std::io;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The word, once it has been mapped. It lives as long as the process.
static WORD: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();

/// The word of this process; `None` when the kernel has refused the page.
pub(crate) fn word() -> Option<&'static AtomicU64> {
    *WORD.get_or_init(|| map().ok())
}

fn map() -> io::Result<&'static AtomicU64> {
    const PAGE: NonZeroUsize = NonZeroUsize::new(4096).expect("4096 is not 0");
    // SAFETY: a new private mapping, at an address that the kernel chooses.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE.get(),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is the mapping just made.
    if unsafe { libc::madvise(page, PAGE.get(), libc::MADV_WIPEONFORK) } < 0 {
        let error = io::Error::last_os_error();
        // SAFETY: the mapping just made; nothing refers to it.
        unsafe { libc::munmap(page, PAGE.get()) };
        return Err(error);
    }
    // SAFETY: page-aligned, zeroed, never unmapped, and only ever accessed as this atomic.
    let word = unsafe { &*page.cast::<AtomicU64>() };
    word.store(1, Ordering::Relaxed);
    Ok(word)
}
