use pool_core::task;

#[task]
fn argument(text: impl AsRef<str>) -> usize {
    text.as_ref().len()
}

#[task]
fn nested_argument(lines: Vec<impl AsRef<str>>) -> usize {
    lines.len()
}

#[task]
fn result(n: u32) -> impl Iterator<Item = u32> {
    0..n
}

fn main() {}
