//! Workers in programs whose `main` belongs to the test harness.
//!
//! `test_worker!()` registers a mark. A function in `.init_array`, which the C library calls before `main`, finds the mark and
//! calls [`init`](crate::init) in place of `main`. The mark and the task table are plain data in link sections, so they are
//! complete by then, whatever the order of such functions. In any program that a pool has launched, it closes what was inherited.

use crate::worker::init;

/// One entry for each `test_worker!()` of this program.
#[linkme::distributed_slice]
pub static TEST_WORKERS: [bool];

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    init::note_launch();
    if !TEST_WORKERS.is_empty() {
        // A panic here would unwind into C: it ends the process instead, with its message.
        init::init();
    }
}

/// Makes pools work in `#[test]` functions: put it once at the root of a test crate.
///
/// An ordinary test program has its `main` from the test harness, so there is no place for
/// [`pool_core::init()`](crate::init). With this macro a launched copy of the test program becomes a worker before `main`, and runs
/// no tests. In targets with `harness = false`, call `init()` in `main` as usual.
///
/// ```
/// // tests/my_test.rs, or src/lib.rs behind #[cfg(test)]
/// pool_core::test_worker!();
///
/// #[pool_core::task]
/// fn double(n: u32) -> u32 {
///     2 * n
/// }
///
/// # /*
/// #[test]
/// # */
/// fn doubles() {
///     let pool = pool_core::Pool::builder().workers(1).build().unwrap();
///     assert_eq!(pool.apply(double(21)).unwrap(), 42);
/// }
/// # fn main() { doubles() }
/// ```
///
/// In such a worker the runtime of Rust's standard library has not been initialised, which shows in one place: a stack
/// overflow is a plain SIGSEGV, without the message.
#[macro_export]
macro_rules! test_worker {
    () => {
        const _: () = {
            #[$crate::__private::linkme::distributed_slice($crate::__private::TEST_WORKERS)]
            #[linkme(crate = $crate::__private::linkme)]
            static TEST_WORKER: bool = true;
        };
    };
}
