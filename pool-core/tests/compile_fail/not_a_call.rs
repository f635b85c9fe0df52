use pool_core::{IntoCall, task};

fn apply<C: IntoCall>(call: C) {
    call.into_call().run_here().unwrap();
}

fn map<T, C: IntoCall>(f: impl FnMut(T) -> C, items: Vec<T>) {
    for call in items.into_iter().map(f) {
        apply(call);
    }
}

#[task]
fn double(n: u32) -> u32 {
    2 * n
}

fn plain(n: u32) -> u32 {
    2 * n
}

fn main() {
    apply(double(3));
    apply(plain(3));
    apply(|| 3);
    map(plain, vec![1, 2]);
    map(|n| n + 1, vec![1, 2]);
}
