use pool_core::task;

struct Opaque;

#[derive(serde::Serialize)]
struct OneWay;

#[task]
fn by_value(n: u32, _opaque: Opaque) -> u32 {
    n
}

#[task]
fn by_reference(n: u32, _opaque: &Opaque) -> u32 {
    n
}

#[task]
fn nested(_one_way: Vec<OneWay>) -> u32 {
    3
}

fn main() {}
