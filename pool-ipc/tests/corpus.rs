//! Everything that the fuzzer has kept goes through its targets, without the fuzzer.
#![cfg(not(loom))]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

#[allow(unreachable_pub, missing_docs, reason = "it is the library of the fuzz targets as well")]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// The variable that has the seeds written.
const WRITE: &str = "POOL_FUZZ_WRITE_SEEDS";

/// A target looks at the descriptors of the process.
static TURN: Mutex<()> = Mutex::new(());

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target)
}

#[test]
fn every_input_of_the_corpora_is_survived() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, target) in fuzz::TARGETS {
        let mut files: Vec<PathBuf> =
            fs::read_dir(corpus(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "the corpus of {name} is empty");
        for file in files {
            let input = fs::read(&file).unwrap();
            if let Err(panic) = std::panic::catch_unwind(|| target(&input)) {
                eprintln!("with {}", file.display());
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn the_corpora_begin_with_valid_encodings_of_this_version() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for (target, name, bytes) in fuzz::seeds() {
        let file = corpus(target).join(name);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(corpus(target)).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        let found = fs::read(&file).unwrap_or_default();
        assert!(found == bytes, "{} is not up to date: run this test with {WRITE}=1", file.display());
    }
}
