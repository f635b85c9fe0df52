//! Misuse of `#[task]` is refused with an error that says what to do, and correct use with nothing.

use std::process::Command;

/// Errors that are worded by `#[task]` itself, the same with every compiler.
const OURS: [&str; 9] = [
    "arguments",
    "context_and_state",
    "generic",
    "impl_trait",
    "not_a_function",
    "options",
    "qualifiers",
    "receiver",
    "results",
];

/// The compiler whose own wording the other expectations hold.
const RUSTC: &str = "1.95";

#[test]
fn ui() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version =
        Command::new(rustc).arg("--version").output().expect("the compiler that has built this test runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    if version.starts_with(&format!("rustc {RUSTC}.")) {
        cases.compile_fail("tests/compile_fail/*.rs");
    } else {
        eprintln!("skipped: expectations worded by rustc {RUSTC}, because this is {version}");
        for name in OURS {
            cases.compile_fail(format!("tests/compile_fail/{name}.rs"));
        }
    }
}
