use pool_core::task;

struct Opaque;

#[derive(serde::Serialize)]
struct OneWay;

#[task]
fn opaque() -> Opaque {
    Opaque
}

#[task]
fn one_way() -> Result<Vec<u8>, OneWay> {
    Err(OneWay)
}

fn main() {}
