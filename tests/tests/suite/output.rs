//! What tasks print, and who is told that they have.

use std::fs::File;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool_core::{Output, OutputStream, RetryOn, TaskContext, TaskError, TaskId, task};
use pool_tests::{Part, Scene, expect_healthy, play, wait_for_file, wait_until};
use serde::{Deserialize, Serialize};

/// A line that was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    task: Option<TaskId>,
    stream: OutputStream,
    text: String,
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<Line>>>);

impl Captured {
    fn output(&self) -> Output {
        let lines = Arc::clone(&self.0);
        Output::capture(move |line| {
            let line = Line { task: line.task, stream: line.stream, text: line.text.to_owned() };
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        })
    }

    fn lines(&self) -> Vec<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Prints its number in several ways: a whole line on each stream, one from C, and one without an end.
#[task]
fn say_number(#[context] cx: &TaskContext) -> u64 {
    let number = cx.task_id().get();
    println!("{number} out");
    eprintln!("{number} err");
    if number.is_multiple_of(3) {
        let line = std::ffi::CString::new(format!("{number} from C")).expect("no NUL");
        // SAFETY: it is a C string.
        unsafe { libc::puts(line.as_ptr()) };
    }
    if number.is_multiple_of(2) {
        print!("{number} without an end");
    }
    number
}

/// Fails in the midst of a line.
#[task]
fn print_and_panic() {
    print!("so far");
    panic!("on purpose");
}

#[test]
fn a_line_without_an_end_is_part_of_what_a_failed_task_has_printed() {
    let scene = Scene::new();
    for output in [Output::Null, Captured::default().output()] {
        let pool = scene.builder().workers(1).output(output).build().unwrap();
        let error = pool.apply(print_and_panic()).unwrap_err();
        assert_eq!(error.output().map(|output| output.stdout), Some("so far".to_owned()), "{error:?}");
    }
}

#[test]
fn every_line_has_its_task_and_no_mark() {
    const TASKS: usize = 3000;
    let scene = Scene::new();
    let captured = Captured::default();
    let pool = scene.builder().output(captured.output()).build().unwrap();
    let numbers = pool.map(|_| say_number(), 0..TASKS).unwrap();
    pool.join();
    let lines = captured.lines();
    for line in &lines {
        let task = line.task.unwrap_or_else(|| panic!("of no task: {line:?}"));
        assert_eq!(line.text.split(' ').next(), Some(&*task.to_string()), "{line:?}");
        assert!(!line.text.contains(['\u{1e}', '\u{1f}']), "{line:?}");
    }
    let ending = |end: &str| lines.iter().filter(|line| line.text.ends_with(end)).count();
    let (thirds, even) = (
        numbers.iter().filter(|n| n.is_multiple_of(3)).count(),
        numbers.iter().filter(|n| n.is_multiple_of(2)).count(),
    );
    let found = (ending(" out"), ending(" err"), ending(" from C"), ending(" without an end"));
    assert_eq!(found, (TASKS, TASKS, thirds, even));
    let err = lines.iter().filter(|line| line.stream == OutputStream::Stderr).count();
    assert_eq!(err, TASKS);
}

/// How [`say_and_fail`] ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    Well,
    Panic,
    Hang,
    Exit,
}

#[task]
fn say_and_fail(text: String, end: End) {
    println!("{text} on stdout");
    print!("{text} half");
    stdout().flush().expect("a pipe");
    eprintln!("{text} on stderr");
    match end {
        End::Well => {}
        End::Panic => panic!("on purpose"),
        End::Hang => loop {
            std::thread::park();
        },
        End::Exit => std::process::exit(3),
    }
}

fn fail(end: End, pool: &pool_core::Pool) -> TaskError {
    pool.apply(say_and_fail("before".to_owned(), End::Well)).unwrap();
    // Making a backtrace counts as running time, and takes long in an unoptimised program.
    let limit = if matches!(end, End::Hang) { Duration::from_millis(300) } else { Duration::from_secs(60) };
    let call = say_and_fail("mine".to_owned(), end).timeout(limit);
    let error = pool.apply(call).unwrap_err();
    let is_right = match end {
        End::Well => false,
        End::Panic => matches!(error, TaskError::Panicked { .. }),
        End::Hang => matches!(error, TaskError::TimedOut { .. }),
        End::Exit => matches!(error, TaskError::WorkerDied(_)),
    };
    assert!(is_right, "{error}");
    error
}

#[test]
fn a_failed_task_carries_exactly_its_own_output_where_it_is_captured() {
    for end in [End::Panic, End::Hang, End::Exit] {
        let scene = Scene::new();
        let captured = Captured::default();
        let builder = scene.builder().workers(1).output(captured.output());
        let pool = builder.cancel_grace(Duration::from_millis(1)).build().unwrap();
        let output = fail(end, &pool).output().expect("it has printed");
        assert_eq!(output.stdout, "mine on stdout\nmine half", "{end:?}");
        assert!(output.stderr.starts_with("mine on stderr\n"), "{end:?}: {}", output.stderr);
        assert!(!output.stderr.contains("before on"), "{end:?}: {}", output.stderr);
        pool.apply(play(1, Part::Innocent)).unwrap();
        let silent = pool.apply(play(1, Part::Exit(1))).unwrap_err();
        assert_eq!(silent.output(), None, "what others have printed is not its own");
    }
}

#[test]
fn a_failed_task_carries_its_output_where_nobody_captures_it() {
    for end in [End::Panic, End::Hang, End::Exit] {
        let scene = Scene::new();
        let pool = scene.builder().workers(1).build().unwrap();
        let output = fail(end, &pool).output().expect("it has printed");
        assert!(output.stdout.ends_with("mine on stdout\nmine half"), "{end:?}: {}", output.stdout);
        assert!(output.stderr.contains("mine on stderr\n"), "{end:?}: {}", output.stderr);
    }
}

/// Prints which attempt it is, and hangs.
#[task]
fn say_attempt_and_hang(#[context] cx: &TaskContext) {
    println!("attempt {}", cx.attempt());
    loop {
        std::thread::park();
    }
}

#[test]
fn of_several_attempts_the_output_of_the_last_one_is_attached() {
    let scene = Scene::new();
    let captured = Captured::default();
    let pool = scene.builder().workers(1).output(captured.output()).build().unwrap();
    let call = say_attempt_and_hang().timeout(Duration::from_millis(150));
    let error = pool.apply(call.retries(2).retry_on(RetryOn::TIMEOUT)).unwrap_err();
    assert!(matches!(error, TaskError::TimedOut { .. }), "{error}");
    assert_eq!(error.output().map(|output| output.stdout).as_deref(), Some("attempt 3\n"));
    expect_healthy(&pool);
}

/// Leaves a thread behind that prints a line once a file is there, and makes another file when it has.
#[task]
fn leave_a_printer(when: PathBuf, done: PathBuf) {
    std::thread::spawn(move || {
        wait_for_file(&when);
        println!("late");
        File::create(done).expect("the directory is the test's own");
    });
}

/// Makes a file, and waits until another one is there.
#[task]
fn let_it_print(when: PathBuf, done: PathBuf, #[context] cx: &TaskContext) -> u64 {
    File::create(when).expect("the directory is the test's own");
    wait_for_file(&done);
    cx.task_id().get()
}

#[test]
fn a_thread_that_prints_later_is_taken_for_the_task_that_runs_then() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let (when, done) = (dir.path().join("when"), dir.path().join("done"));
    let captured = Captured::default();
    let pool = scene.builder().workers(1).output(captured.output()).build().unwrap();
    pool.apply(leave_a_printer(when.clone(), done.clone())).unwrap();
    let number = pool.apply(let_it_print(when, done)).unwrap();
    pool.join();
    let expected =
        Line { task: Some(TaskId::new(number)), stream: OutputStream::Stdout, text: "late".to_owned() };
    assert_eq!(captured.lines(), [expected]);
}

/// Puts a file in the place of stdout.
#[task]
fn redirect(file: PathBuf) {
    let file = File::create(file).expect("the directory is the test's own");
    nix::unistd::dup2_stdout(file).expect("descriptor 1 is free to be changed");
}

#[test]
fn marks_go_to_the_pool_and_nowhere_else() {
    let scene = Scene::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stdout");
    let captured = Captured::default();
    let pool = scene.builder().workers(1).output(captured.output()).build().unwrap();
    pool.apply(redirect(file.clone())).unwrap();
    let number = pool.apply(say_number()).unwrap();
    pool.join();
    let printed = std::fs::read_to_string(&file).unwrap();
    assert!(printed.starts_with(&format!("{number} out\n")) && !printed.contains('\u{1e}'), "{printed:?}");
    wait_until("the line on stderr has been told", || !captured.lines().is_empty());
    let [line] = &captured.lines()[..] else { panic!("{:?}", captured.lines()) };
    assert_eq!((line.task, &*line.text), (Some(TaskId::new(number)), &*format!("{number} err")));
}
