use pool_core::task;

struct Model;

#[task]
fn predict(x: f32, #[state] _model: &mut Model) -> f32 {
    x
}

#[task]
fn mistaken(x: f32, #[context] _cx: &Model) -> f32 {
    x
}

fn main() {}
