//! Finding files to work on.

use std::io;
use std::path::{Path, PathBuf};

/// Every regular file below `dir`, in order. Symbolic links are not followed.
///
/// # Errors
/// When a directory cannot be read; the error names it.
pub fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let named = |dir: &Path, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot read {}: {error}", dir.display()))
    };
    let (mut files, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).map_err(|error| named(&dir, error))? {
            let entry = entry.map_err(|error| named(&dir, error))?;
            let kind = entry.file_type().map_err(|error| named(&entry.path(), error))?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The sources of the crates that cargo has downloaded, if there are any.
#[must_use]
pub fn cargo_sources() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")))?;
    Some(home.join("registry/src")).filter(|dir| dir.is_dir())
}
