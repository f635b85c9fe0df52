//! Programs that treat their children, their descriptors or themselves in unusual ways.

use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use pool_core::{MAX_DEPTH, Pool, task};
use pool_tests::{Scene, start_method, transport};

use crate::programs::{host, stock_path};

/// What the host program finds in one of its plays.
#[track_caller]
fn findings(scene: &Scene, play: &str) -> Vec<String> {
    findings_of(scene, play, Command::new(host()))
}

#[track_caller]
fn findings_of(scene: &Scene, play: &str, mut program: Command) -> Vec<String> {
    let (key, value) = scene.mark().split_once('=').unwrap();
    let output = program.arg(play).arg(stock_path()).env(key, value).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{play}: {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn tasks_end_right_in_a_program_that_ignores_sigchld_or_reaps_every_child() {
    for play in ["ignores-sigchld", "waits-for-any-child"] {
        let scene = Scene::new();
        let found = findings(&scene, play);
        let [right, segv, exit, hang, left] = &found[..] else { panic!("{found:#?}") };
        assert_eq!(right, "98 right", "{play}");
        // The status may be lost, and then it says so; it is never made up.
        let lost = "exit status was lost";
        assert!(segv.contains("SIGSEGV") || segv.contains(lost), "{play}: {segv}");
        assert!(exit.contains("exited with status 7") || exit.contains(lost), "{play}: {exit}");
        assert_eq!((&hang[..], &left[..]), ("hang: timed out", "0 children left"), "{play}");
    }
}

#[test]
fn in_a_forked_child_every_call_says_so_and_the_parent_does_not_notice() {
    let scene = Scene::new();
    assert_eq!(findings(&scene, "forks"), ["child exited with 0", "50 right"]);
}

#[test]
fn a_program_may_fork_while_its_threads_wait_and_submit() {
    let scene = Scene::new();
    assert_eq!(findings(&scene, "forks-while-leading"), ["children exited with 0", "50 right"]);
}

#[test]
fn a_program_that_runs_out_of_descriptors_goes_on_and_recovers() {
    let scene = Scene::new();
    let expected = ["death: true", "50 right", "full size again"];
    assert_eq!(findings(&scene, "few-descriptors"), expected);
}

#[test]
fn a_program_without_descriptors_for_large_results_says_so_and_blames_no_worker() {
    let scene = Scene::new();
    let found = findings(&scene, "large-results-without-descriptors");
    let large = format!("large {}", 1 << 20);
    let expected = ["told true", "told true", "small 1000", &large, &large, "same worker true, 0 deaths"];
    assert_eq!(found, expected);
}

#[test]
fn a_niceness_that_the_program_may_not_set_is_refused_at_once() {
    let scene = Scene::new();
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let program = if is_root {
        // Root, but for this.
        let mut program = Command::new("setpriv");
        program.args(["--bounding-set=-sys_nice", "--inh-caps=-sys_nice"]).arg(host());
        program
    } else {
        Command::new(host())
    };
    let found = findings_of(&scene, "unprivileged", program);
    let [at_build, later, spawned] = &found[..] else { panic!("{found:#?}") };
    assert!(
        at_build.starts_with("not built: `.nice(…)`: -5 cannot") && at_build.contains("RLIMIT_NICE"),
        "{at_build}"
    );
    // The second net: no worker is tried after the first.
    assert!(
        later.starts_with("broken: worker executable") && later.contains("-5 cannot be added"),
        "{later}"
    );
    assert_eq!(spawned, "1 spawned");
}

#[test]
fn a_program_that_has_given_up_root_can_still_kill_its_workers() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return pool_tests::skipped("it takes root to give it up");
    }
    let scene = Scene::new();
    let told = "told true, another one true";
    assert_eq!(findings(&scene, "gives-up-root"), [told, told, "0 children left"]);
}

#[test]
fn a_pool_waits_until_there_are_fewer_descriptors_on_the_way() {
    let scene = Scene::new();
    let expected = ["refused: Some(ETOOMANYREFS)", "right: true"];
    assert_eq!(findings(&scene, "descriptors-on-the-way"), expected);
}

#[test]
fn a_log_that_may_not_become_longer_does_not_end_the_program() {
    let scene = Scene::new();
    assert_eq!(findings(&scene, "full-log"), ["the log is full: true"]);
    let expected = r#"it is full: true, and begins with Ok("the program itself, x")"#;
    assert_eq!(findings(&scene, "full-output"), [expected]);
}

#[test]
fn what_workers_print_is_not_lost_where_the_output_is_non_blocking() {
    let scene = Scene::new();
    assert_eq!(findings(&scene, "late-reader"), ["all lines: true"]);
}

#[test]
fn a_task_that_asks_something_on_the_terminal_is_told_that_there_is_none() {
    let scene = Scene::new();
    // As in a shell: the program is in the foreground of a terminal.
    let terminal = nix::pty::openpty(None, None).unwrap();
    let slave = terminal.slave.as_raw_fd();
    let mut program = Command::new(host());
    // SAFETY: setsid(2) and ioctl(2) are async-signal-safe, and take integers; the descriptor is open until the program has ended.
    unsafe {
        program.pre_exec(move || match libc::setsid() >= 0 && libc::ioctl(slave, libc::TIOCSCTTY, 0) >= 0 {
            true => Ok(()),
            false => Err(std::io::Error::last_os_error()),
        });
    }
    let found = findings_of(&scene, "terminal", program);
    assert_eq!(found, ["a terminal: true", "there is none: true", "there is none: true"]);
}

/// Builds a pool whose worker builds a pool, and so on; how many there were, or why there were no more.
#[task]
fn descend(levels: u32) -> Result<u32, String> {
    let Some(left) = levels.checked_sub(1) else { return Ok(0) };
    // In a worker, signals are left alone whatever is asked for.
    let builder = Pool::builder().name("deeper").workers(1).terminate_on_signals(true);
    let pool = builder.transport(transport()).start(start_method()).build();
    let below = pool.map_err(|error| error.to_string())?.apply(descend(left));
    below.map_err(|error| error.to_string())?.map(|pools| pools + 1)
}

#[test]
fn pools_nest_to_the_limit_and_no_deeper() {
    let scene = Scene::new();
    let pool = scene.builder().workers(1).build().unwrap();
    // This one is the first.
    assert_eq!(pool.apply(descend(MAX_DEPTH - 1)).unwrap(), Ok(MAX_DEPTH - 1));
    let error = pool.apply(descend(MAX_DEPTH)).unwrap().unwrap_err();
    assert!(error.starts_with("pools are nested 4 deep, 4 is the limit"), "{error}");
}
