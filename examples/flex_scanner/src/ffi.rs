//! The scanner's C interface, behind functions that Rust can call.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::counts::Counts;

unsafe extern "C" {
    fn scan_file(path: *const c_char, result: *mut Counts) -> c_int;
}

/// Held while the scanner is in use.
static SCANNER: Mutex<()> = Mutex::new(());

/// Scans a file; threads that want to scan at the same time wait for each other.
pub(crate) fn scan(path: &Path) -> io::Result<Counts> {
    let _alone = SCANNER.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the lock is held.
    unsafe { scan_unguarded(path) }
}

/// Scans a file without a lock.
///
/// # Safety
/// No other thread may use the scanner at the same time: it keeps its buffer and its counters in global variables.
pub(crate) unsafe fn scan_unguarded(path: &Path) -> io::Result<Counts> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut counts = Counts::default();
    // SAFETY: a string that ends with NUL, and a structure of the layout that the C code declares, both valid for the call.
    // That no other thread scans is the caller's promise.
    match unsafe { scan_file(path.as_ptr(), &raw mut counts) } {
        0 => Ok(counts),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
