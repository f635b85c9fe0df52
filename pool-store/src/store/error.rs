//! What can go wrong with a store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a store could not be opened, read or written.
///
/// ```
/// use pool_store::Store;
///
/// let refused = Store::open("/proc/store").unwrap_err();
/// assert!(refused.to_string().contains("/proc/store"));
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[error("store: cannot {what} {}: {source}", path.display())]
#[non_exhaustive]
pub struct StoreError {
    /// What was tried.
    pub what: &'static str,
    /// The file or directory that it was tried with.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: Arc<io::Error>,
}

impl StoreError {
    pub(crate) fn new(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self { what, path: path.to_owned(), source: Arc::new(source) }
    }

    /// For `map_err`.
    pub(crate) fn of(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(what, path, source)
    }
}

/// Whether a file is not there. A file that was removed by another host while it was open is as good as none.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ESTALE)
}
