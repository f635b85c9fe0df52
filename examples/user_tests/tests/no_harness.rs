//! A test without a harness: its `main` is an ordinary one.

use pool_core::Pool;
use user_tests::count_words;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pool_core::init();
    let pool = Pool::builder().workers(2).build()?;
    let counts = pool.map(count_words, ["one", "one two", "one two three"])?;
    assert_eq!(counts, [1, 2, 3]);
    println!("counted {counts:?}");
    Ok(())
}
