//! The soak works, shortly. How long it holds is not for a test to say.

use std::process::Command;

use pool_tests::Scene;

#[test]
fn a_short_soak_is_clean_and_says_so() {
    let _scene = Scene::new();
    let mut soak = Command::new(env!("CARGO_BIN_EXE_chaos"));
    let output = soak.args(["--seed", "1", "--duration", "3s"]).output().unwrap();
    let (verdict, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{verdict}{errors}");
    let clean = "lost 0, doubled 0, wrongly blamed 0, unsound 0, leaked 0, hangs 0\n";
    assert!(verdict.starts_with("seed 1, ") && verdict.ends_with(clean), "{verdict}");
}
