use pool_core::task;

struct Model;

#[task]
fn two_contexts(#[context] a: &TaskContext, #[context] b: &TaskContext) {}

#[task]
fn two_states(#[state] a: &mut Model, #[state] b: &mut Model) {}

#[task]
fn owned_context(#[context] cx: TaskContext) {}

#[task]
fn mutable_context(#[context] cx: &mut TaskContext) {}

#[task]
fn shared_state(#[state] model: &Model) {}

#[task]
fn owned_state(#[state] model: Model) {}

#[task]
fn both(
    #[context]
    #[state]
    model: &mut Model,
) {
}

#[task]
fn with_options(#[state(fresh)] model: &mut Model) {}

fn main() {}
