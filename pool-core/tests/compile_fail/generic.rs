use pool_core::task;

#[task]
fn of_type<T: Clone>(value: Vec<T>) -> usize {
    value.len()
}

#[task]
fn of_length<const N: usize>(value: [u8; N]) -> usize {
    value.len()
}

fn main() {}
