use pool_core::task;

#[task]
fn slice(bytes: &[u8]) -> &[u8] {
    &bytes[1..]
}

#[task]
fn nested(text: &str) -> Result<Option<&str>, String> {
    Ok(text.get(1..))
}

#[task]
fn cow<'a>(text: &'a str) -> std::borrow::Cow<'a, str> {
    text.into()
}

#[task]
fn forever() -> &'static str {
    "text"
}

#[task]
fn any_error() -> Result<u8, Box<dyn std::error::Error>> {
    Ok(1)
}

#[task]
fn never(code: i32) -> ! {
    std::process::exit(code)
}

fn main() {}
