//! The program as a user runs it: threads that share the scanner go wrong, processes do not.

use std::process::Command;

/// Enough small files for threads to meet in the scanner.
fn sources() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    for n in 0..200 {
        let text = format!("fn f_{n}(x: u32) -> u32 {{ /* {n} */ x + {n} }} // \"end\"\n").repeat(1 + n % 50);
        std::fs::write(dir.path().join(format!("{n}.rs")), text).expect("a file can be written");
    }
    dir
}

fn scan(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_flex-scanner")).args(arguments).output();
    let output = output.expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn processes_are_right_where_threads_go_wrong() {
    let dir = sources();
    let path = dir.path().to_str().expect("temporary directories have plain names");
    let (status, stdout, stderr) = scan(&[path, "--repeat", "20", "--workers", "3"]);
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("4000 files"), "{stdout}");
    assert!(stdout.contains(" went wrong: "), "{stdout}");
    for run in ["pool, workers: 1", "pool, workers: 2", "pool, workers: 3"] {
        let line = stdout.lines().find(|line| line.starts_with(run));
        assert!(line.is_some_and(|line| line.ends_with("wrong 0")), "{run}: {stdout}");
    }
    assert!(stdout.contains("2 workers are "), "{stdout}");
}

#[test]
fn one_thread_is_right_without_a_lock() {
    let dir = sources();
    let path = dir.path().to_str().expect("temporary directories have plain names");
    let (status, stdout, _) = scan(&[path, "--share", "--threads", "1"]);
    assert_eq!(status, Some(0));
    // Each file repeats a line with 6 identifiers, 1 number and 2 comments 1 + n % 50 times; the string is in a comment.
    let lines: u64 = (0..200).map(|n| 1 + n % 50).sum();
    let expected =
        format!("identifiers: {}, numbers: {}, strings: 0, comments: {}", 6 * lines, lines, 2 * lines);
    assert!(stdout.contains(&expected), "{stdout}");
}

#[test]
fn a_directory_without_sources_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (status, _, stderr) = scan(&[dir.path().to_str().expect("temporary directories have plain names")]);
    assert_eq!(status, Some(2));
    assert!(stderr.contains("name another directory"), "{stderr}");
}
