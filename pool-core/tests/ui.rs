//! Misuse of `#[task]` is refused with an error that says what to do, and correct use with nothing.

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/pass/*.rs");
    cases.compile_fail("tests/compile_fail/*.rs");
}
