//! No more descriptors.

use std::fs::File;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pool_core::{BuildError, TaskError};
use pool_tests::{Part, expect_healthy, play as act, right};

use crate::{builder, say};

/// Builds a pool with 0, 1, 2, … descriptors left.
pub(crate) fn play(worker: &Path) {
    const MOST: usize = 60;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 256, hard).expect("a lower limit");
    let (mut not_built, mut broken, mut worked) = (0, 0, 0);
    for left in 0..MOST {
        let mut hoard = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hoard.push(file);
        }
        hoard.truncate(hoard.len().saturating_sub(left));
        match builder(worker).workers(1).build() {
            Err(error @ (BuildError::Os { .. } | BuildError::Executable { .. })) => {
                let text = error.to_string();
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                assert!(format!("{text} {source}").contains("os error 24"), "{left} left: {text} {source}");
                not_built += 1;
            }
            Err(other) => panic!("{left} left: {other:?}"),
            Ok(pool) => match pool.apply(act(1, Part::Innocent)) {
                Ok(answer) => {
                    assert_eq!(answer, right(1));
                    drop(hoard);
                    expect_healthy(&pool);
                    worked += 1;
                }
                Err(TaskError::PoolBroken(reason)) => {
                    let text = reason.to_string();
                    assert!(text.contains("os error 24"), "{left} left: {text}");
                    broken += 1;
                }
                Err(other) => panic!("{left} left: {other:?}"),
            },
        }
    }
    assert_eq!(not_built + broken + worked, MOST);
    say(&format!("not built {}, broken {}, worked {}", not_built > 0, broken > 0, worked > 0));
    let pool = builder(worker).build().expect("there are descriptors again");
    expect_healthy(&pool);
    say("healthy");
}
