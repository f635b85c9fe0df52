//! A program that builds a pool and has forgotten `pool_core::init()`. It prints what `build` says, and exits with status 3
//! if that is an error.

use pool_core::Pool;

fn main() {
    match Pool::builder().workers(2).build() {
        Ok(_) => println!("built a pool"),
        Err(error) => {
            println!("{error}");
            std::process::exit(3);
        }
    }
}
