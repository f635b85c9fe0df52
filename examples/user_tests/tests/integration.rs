//! An integration test of a library with tasks: a test crate of its own, with a root of its own.

use pool_core::{Pool, task};
use user_tests::{count_words, divide};

pool_core::test_worker!();

/// A task of the test itself.
#[task]
fn shout(text: &str) -> String {
    text.to_uppercase()
}

#[test]
fn tasks_of_the_library_and_of_the_test_share_a_pool() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(2).build()?;
    assert_eq!(pool.apply(count_words("two words"))?, 2);
    assert_eq!(pool.apply(shout("quiet"))?, "QUIET");
    Ok(())
}

#[test]
fn a_state_lives_as_long_as_its_worker() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().workers(1).build()?;
    let counts: Vec<u64> = pool.map(|n| divide(n, 1), 0..5)?.into_iter().map(|(_, count)| count).collect();
    assert_eq!(counts, [1, 2, 3, 4, 5]);
    Ok(())
}
