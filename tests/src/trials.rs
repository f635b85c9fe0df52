//! One fault in every result mode, and what has to hold after each.

use std::fmt::Debug;

use pool_core::{Builder, Call, Pool, TaskError};

use crate::modes::{Mode, Trial};
use crate::outcome::expect_healthy;
use crate::scene::Scene;

/// Lets one task among innocents commit a fault, in every mode, on a fresh pool each time. `expect` looks at how it ended.
///
/// Innocents must have their results, each task must have ended once, the pool must work at the size that it had, and when it
/// is gone nothing may be left.
///
/// # Panics
/// When something of that is not so.
#[track_caller]
pub fn in_every_mode<R, V, I>(
    build: impl Fn(&Scene) -> Builder,
    trial: &Trial<V, I>,
    right: impl Fn(u64) -> R,
    expect: impl Fn(Mode, &Pool, Result<R, TaskError>),
) where
    R: PartialEq + Debug + 'static,
    V: Fn() -> Call<R>,
    I: Fn(u64) -> Call<R>,
{
    for mode in Mode::ALL {
        let scene = Scene::new();
        let pool = build(&scene).build().expect("a pool");
        let size = pool.workers().len();
        let outcome = trial.run(&pool, mode, &right);
        expect(mode, &pool, outcome);
        expect_healthy(&pool);
        assert_eq!(pool.workers().len(), size, "{mode:?}: it has the size that it had");
        drop(pool);
        scene.expect_nothing_left();
    }
}
