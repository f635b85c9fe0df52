use pool_core::Pool;

fn main() {
    let _ = Pool::builder().share_slice("flags", &[true, false]);
    let _ = Pool::builder().share_slice("words", &[String::new()]);
}
