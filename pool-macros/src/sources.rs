//! A fingerprint of the sources of the crate that defines a task.
//!
//! A signature names types, and a type of the same name may have other fields in another build: two programs would
//! misunderstand each other without noticing. So the signature also holds a fingerprint of the crate's sources. Types of
//! other crates are not covered.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// More source files than any crate has; it bounds what a strange directory costs.
const MOST_FILES: usize = 10_000;

/// FNV-1a over the names and contents of the `.rs` files below the crate's `src`, as 16 hexadecimal digits; empty where they
/// cannot be read, which only makes the check weaker.
pub(crate) fn fingerprint() -> &'static str {
    static FINGERPRINT: OnceLock<String> = OnceLock::new();
    FINGERPRINT.get_or_init(|| {
        let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        crate_dir.and_then(|dir| of(&dir.join("src"))).map_or_else(String::new, |hash| format!("{hash:016x}"))
    })
}

fn of(dir: &Path) -> Option<u64> {
    let mut files = Vec::new();
    collect(dir, &mut files)?;
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325;
    for file in files {
        // Relative, so that the place of a checkout makes no difference.
        let name = file.strip_prefix(dir).ok()?.as_os_str().as_encoded_bytes();
        for byte in name.iter().chain(&[0]).chain(&fs::read(&file).ok()?).chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Some(hash)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Option<()> {
    for entry in fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        // Links are left alone: they may form a circle.
        let kind = entry.file_type().ok()?;
        let path = entry.path();
        if kind.is_dir() {
            collect(&path, files)?;
        } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
        if files.len() > MOST_FILES {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_of_a_source_file_changes_the_fingerprint_and_nothing_else_does() {
        let dir = std::env::temp_dir().join(format!("pool-macros-sources-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            fs::create_dir_all(dir.join("deep")).expect("a writable temporary directory");
            fs::write(dir.join(name), text).expect("a writable temporary directory");
        };
        write("lib.rs", "struct Size { width: u32, height: u32 }");
        let before = of(&dir);
        assert!(before.is_some());
        write("notes.txt", "no source");
        assert_eq!(of(&dir), before);
        write("lib.rs", "struct Size { height: u32, width: u32 }");
        let swapped = of(&dir);
        assert_ne!(swapped, before);
        write("deep/mod.rs", "");
        assert_ne!(of(&dir), swapped);
        fs::remove_dir_all(&dir).expect("it was made above");
        assert_eq!(of(&dir), None);
    }
}
