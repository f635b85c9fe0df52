//! Everything that the fuzzer has kept goes through its targets, without the fuzzer.

use std::fs;
use std::path::{Path, PathBuf};

#[allow(unreachable_pub, missing_docs, dead_code, reason = "the targets include it as well")]
#[path = "../../fuzz/src/durable/mod.rs"]
mod durable;

/// The variable that has the seeds written.
const WRITE: &str = "POOL_FUZZ_WRITE_SEEDS";

fn replay(name: &str, target: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
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

#[test]
fn every_input_of_the_journals_corpus_is_survived() {
    replay("journal", durable::journal::journal);
}

#[test]
fn every_input_of_the_entries_corpus_is_survived() {
    replay("entry", durable::entry::entry);
}

#[test]
fn the_corpus_of_entries_begins_with_valid_ones_of_this_version() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/entry");
    for (name, bytes) in durable::entry::seeds() {
        let file = corpus.join(name);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(&corpus).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        let found = fs::read(&file).unwrap_or_default();
        assert!(found == bytes, "{} is not up to date: run this test with {WRITE}=1", file.display());
    }
}
