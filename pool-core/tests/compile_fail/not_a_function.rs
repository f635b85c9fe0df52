use pool_core::task;

#[task]
struct Image;

#[task]
const fn_like: u32 = 3;

#[task]
mod images {}

trait Resize {
    #[task]
    fn resize(width: u32) -> u32;
}

fn main() {}
