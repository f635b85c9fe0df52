use pool_core::task;

#[task]
async fn asynchronous(n: u32) -> u32 {
    n
}

#[task]
unsafe fn dereferences(n: usize) -> u32 {
    unsafe { *(n as *const u32) }
}

#[task]
extern "C" fn foreign(n: u32) -> u32 {
    n
}

#[task]
const fn constant() -> u32 {
    3
}

#[task]
unsafe extern "C" fn variadic(n: u32, rest: ...) -> u32 {
    n
}

fn main() {}
