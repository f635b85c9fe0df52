//! Results that are nested so deeply that a stack may not be enough to decode them.

use pool_core::{TaskError, task};
use pool_tests::{Scene, Trial, in_every_mode};
use serde::{Deserialize, Serialize};

/// Boxes in boxes.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Nested(Option<Box<Nested>>);

fn boxes(levels: u64) -> Nested {
    (0..levels).fold(Nested(None), |within, _| Nested(Some(Box::new(within))))
}

#[task]
fn nested(levels: u64) -> Nested {
    boxes(levels)
}

/// Enough of them for the stack of a worker, and too many for a small one.
const DEEP: u64 = 6_000;
const SMALL: usize = 1 << 20;

/// Runs something on a thread with a stack of so many bytes.
fn on_a_stack_of(bytes: usize, run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, run);
        thread.unwrap().join().unwrap();
    });
}

/// Without a limit, the program would overflow its stack.
#[test]
fn a_result_that_is_nested_too_deeply_fails_its_task_only() {
    let trial = Trial { victim: || nested(DEEP), innocent: |n| nested(n % 5) };
    on_a_stack_of(SMALL, || {
        in_every_mode(
            Scene::builder,
            &trial,
            |n| boxes(n % 5),
            |mode, pool, result| {
                let Err(TaskError::Decode { message, .. }) = result else { panic!("{mode:?}: {result:?}") };
                assert!(message.contains("nested too deeply"), "{mode:?}: {message}");
                assert_eq!(pool.stats().deaths.total(), 0, "{mode:?}: its worker is not to blame");
            },
        );
    });
}

#[test]
fn a_result_is_decoded_where_the_stack_has_room() {
    let scene = Scene::new();
    let pool = scene.builder().build().unwrap();
    on_a_stack_of(64 << 20, || {
        let back = pool.apply(nested(DEEP)).unwrap();
        assert_eq!(std::iter::successors(Some(&back), |boxes| boxes.0.as_deref()).count() as u64, DEEP + 1);
    });
}
