//! Has flex generate the scanner, and compiles it.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/scanner.l");
    let Some(out) = std::env::var_os("OUT_DIR").map(PathBuf::from) else {
        println!("cargo::error=OUT_DIR is not set: cargo runs this program");
        return;
    };
    let source = out.join("scanner.c");
    match Command::new("flex").arg("-o").arg(&source).arg("src/scanner.l").status() {
        Ok(status) if status.success() => cc::Build::new().file(&source).warnings(false).compile("scanner"),
        Ok(status) => {
            println!("cargo::error=flex could not generate the scanner from src/scanner.l: {status}")
        }
        Err(error) => println!("cargo::error=cannot run flex ({error}); install flex: apt-get install flex"),
    }
}
