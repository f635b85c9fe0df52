//! A worker without any task: the crates that define them are not linked.

fn main() {
    pool_core::init();
    eprintln!("bare-worker is started by the integration tests of the pool");
    std::process::exit(2);
}
