//! The wall clock jumps.
//!
//! The system's own is not touched: this program, which is its own worker, has one that it can set. Waits in the kernel are
//! on another clock already, or could not be tested like this; that timers are is looked up.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use pool_core::{Builder, TaskError, WorkerExe, task};
use pool_tests::{Mode, Scene, Trial, in_every_mode, wait_until};

use crate::say;
use crate::shortage::{AHEAD, ASKED};

const HOUR: i64 = 3600;

/// Sets the wall clock of the worker, as far as the worker can see, sleeps, and returns the number.
#[task]
fn jump(ahead: i64, ms: u64, n: u64) -> u64 {
    AHEAD.store(ahead, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(ms));
    AHEAD.store(-ahead, Ordering::SeqCst);
    n
}

/// How far this program's wall clock is ahead of the system's, in seconds.
fn seen() -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to the place passed.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, &raw mut time) };
    let own = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    i64::try_from(own).expect("before the end of time") - time.tv_sec
}

fn build(scene: &Scene) -> Builder {
    // This program is the worker, too, so that its clock jumps as well.
    scene.builder().worker(WorkerExe::current()).start(pool_core::StartMethod::Spawn)
}

/// Both sides' clocks jump; nothing ends too early, and nothing waits for the clock.
pub(crate) fn play() {
    AHEAD.store(HOUR, Ordering::SeqCst);
    let forth = seen();
    AHEAD.store(-HOUR, Ordering::SeqCst);
    let back = seen();
    say(&format!("jumps {}", (HOUR..=HOUR + 1).contains(&forth) && (-HOUR..=1 - HOUR).contains(&back)));

    // A limit that is far away does not come nearer, and one that is near does not go away.
    for by in [HOUR, -HOUR] {
        let jumping =
            || AHEAD.store(if AHEAD.load(Ordering::SeqCst) == by { 0 } else { by }, Ordering::SeqCst);
        let far = Duration::from_secs(600);
        let trial = Trial {
            victim: || {
                jumping();
                jump(by, 30, Trial::<(), ()>::VICTIM).timeout(far)
            },
            innocent: |n| {
                jumping();
                jump(by, 1, n).timeout(far)
            },
        };
        in_every_mode(
            build,
            &trial,
            |n| n,
            |_, pool, outcome| {
                assert_eq!(outcome.expect("its limit is far away"), Trial::<(), ()>::VICTIM);
                assert_eq!(pool.stats().deaths.total(), 0);
            },
        );
        let near = Duration::from_millis(150);
        let trial = Trial {
            victim: || {
                jumping();
                jump(by, 600_000, 0).timeout(near)
            },
            innocent: |n| jump(by, 1, n),
        };
        let began = Instant::now();
        in_every_mode(
            build,
            &trial,
            |n| n,
            |mode, _, outcome| {
                assert!(matches!(outcome, Err(TaskError::TimedOut { .. })), "{mode:?}: {outcome:?}");
            },
        );
        let took = began.elapsed();
        assert!(took >= near * Mode::ALL.len() as u32 && took < Duration::from_secs(50), "{took:?}");
        say(&format!("limits hold {by}"));
    }

    // Waits, a deadline and a replacement that has to wait.
    let scene = Scene::new();
    let pool = build(&scene).build().expect("a pool");
    for by in [HOUR, -HOUR] {
        let long = pool.apply_async(jump(by, 300, 1));
        AHEAD.store(by, Ordering::SeqCst);
        assert!(!long.wait_timeout(Duration::from_millis(50)), "it takes longer than that");
        AHEAD.store(-by, Ordering::SeqCst);
        assert!(long.wait_timeout(Duration::from_secs(30)));
        assert_eq!(long.get().expect("no limit"), 1);
        let began = Instant::now();
        let error = pool.batch().deadline(Duration::from_millis(200)).map(|n| jump(by, 600_000, n), 0..4);
        assert!(matches!(error.expect_err("too late").error, TaskError::DeadlineExceeded { .. }));
        assert!((Duration::from_millis(200)..Duration::from_secs(30)).contains(&began.elapsed()));
        wait_until("everybody is ready again", || pool.stats().workers_ready == 2);
    }
    say("waits and deadlines hold");
    say(&format!("timers on {:?}", timers()));
    let asked = ASKED.load(Ordering::SeqCst);
    assert_eq!(pool.map(|n| jump(0, 0, n), 0..1000).expect("no limit").len(), 1000);
    say(&format!("asked {} times", ASKED.load(Ordering::SeqCst) - asked));
}

/// The clocks that timers of this program are on, as the kernel numbers them.
fn timers() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fdinfo").expect("Linux has /proc").flatten();
    let text = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let clock =
        |text: String| text.lines().find_map(|line| line.strip_prefix("clockid: ").map(str::to_owned));
    text.filter_map(clock).collect()
}
