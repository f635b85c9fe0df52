use pool_core::task;

#[task]
fn in_place(pixels: &mut Vec<u8>) {
    pixels.clear();
}

#[task]
fn nested(pixels: Option<&mut [u8]>) -> bool {
    pixels.is_some()
}

#[task]
fn forever(text: &'static str) -> usize {
    text.len()
}

#[task]
fn raw(buffer: *const u8) -> bool {
    buffer.is_null()
}

#[task]
fn callback(f: fn(u32) -> u32, boxed: Box<dyn Fn(u32) -> u32>) -> u32 {
    boxed(f(1))
}

#[task]
fn conditional(#[cfg(unix)] n: u32) -> u32 {
    n
}

fn main() {}
