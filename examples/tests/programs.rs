//! The example programs as a user runs them.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn run(program: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// The value of a line of `word_count`'s report.
fn value(report: &str, name: &str) -> Option<u64> {
    report.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Three words in two lines, 14 bytes.
fn three_words(dir: &tempfile::TempDir, name: &str) -> String {
    let file = dir.path().join(name);
    std::fs::write(&file, "one two\nthree\n").expect("a file can be written");
    file.to_str().expect("temporary directories have plain names").to_owned()
}

#[test]
fn no_count_is_lost_or_wrong_under_fire() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    for n in 0..300 {
        three_words(&dir, &n.to_string());
    }
    let path = dir.path().to_str().expect("temporary directories have plain names");
    for mode in [&["--workers", "2"][..], &["--workers", "2", "--settled"]] {
        let arguments = [&[path, "--kill-every", "5ms", "--rounds", "300"], mode].concat();
        let (status, report, stderr) = run(env!("CARGO_BIN_EXE_word_count"), &arguments);
        assert_eq!(status, Some(0), "{report}{stderr}");
        assert_eq!((value(&report, "files"), value(&report, "words")), (Some(300), Some(900)), "{report}");
        assert_eq!((value(&report, "lost"), value(&report, "wrong")), (Some(0), Some(0)), "{report}");
        assert!(value(&report, "kills") > Some(0) && value(&report, "deaths") > Some(0), "{report}");
    }
}

#[test]
fn an_empty_directory_is_an_error_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path = dir.path().to_str().expect("temporary directories have plain names");
    let (status, _, stderr) = run(env!("CARGO_BIN_EXE_word_count"), &[path]);
    assert_eq!(status, Some(2));
    assert!(stderr.contains("name another directory"), "{stderr}");
}

#[test]
fn the_short_programs_do_what_they_say() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = three_words(&dir, "a.txt");
    let (status, stdout, _) = run(env!("CARGO_BIN_EXE_quick_start"), &[&file, &file]);
    assert_eq!((status, stdout.as_str()), (Some(0), "Ok(3)\nOk(3)\n"));
    let (status, stdout, stderr) = run(env!("CARGO_BIN_EXE_command"), &[&file, "/no/such/file"]);
    assert_eq!((status, stdout), (Some(0), format!("14 {file}\n")));
    assert!(stderr.starts_with("wc exited with status 1: "), "{stderr}");
}

#[test]
fn a_job_that_is_killed_goes_on_where_it_was() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let path = |name: &str| {
        dir.path().join(name).to_str().expect("temporary directories have plain names").to_owned()
    };
    let arguments =
        |journal: &str| [journal, "--blocks", "120", "--workers", "2", "--crash"].map(str::to_owned);
    let job = |journal: &str| {
        let arguments = arguments(journal);
        run(env!("CARGO_BIN_EXE_resume"), &arguments.each_ref().map(String::as_str))
    };
    let (status, whole, stderr) = job(&path("whole"));
    assert_eq!(status, Some(0), "{stderr}");
    let (first, whole) = whole.split_once('\n').expect("several lines");
    assert_eq!(first, "0 blocks were done before, 120 now");

    let journal = path("killed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_resume"))
        .args(arguments(&journal))
        .stdout(Stdio::null())
        .spawn()
        .expect("the program starts");
    let start = Instant::now();
    // A record has about 60 bytes.
    while std::fs::metadata(&journal).map_or(0, |file| file.len()) < 2000 {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is noted");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    let (status, again, stderr) = job(&journal);
    assert_eq!(status, Some(0), "{stderr}");
    let (first, again) = again.split_once('\n').expect("several lines");
    assert!(!first.starts_with("0 blocks"), "{first}");
    assert_eq!(again, whole);

    let other = run(env!("CARGO_BIN_EXE_resume"), &[&journal, "--blocks", "120"]);
    assert_eq!(other.0, Some(2));
    assert!(other.2.contains("had other arguments"), "{}", other.2);
}
