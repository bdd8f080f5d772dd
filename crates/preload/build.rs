//! Compiles the preloaded library, so that it can be shipped inside the program.
//!
//! Not left to cargo: the library must have no allocator, no unwinding and no dependency but the C library, and
//! cargo has no panic strategy for one crate alone, nor a way to name the file for `include_bytes!`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../custody/src");
    println!("cargo::rustc-check-cfg=cfg(preloaded)");
    let out = PathBuf::from(variable("OUT_DIR"));
    let custody = out.join("liblinger_custody.rlib");
    compile("linger_custody", "rlib", "../custody/src/lib.rs".as_ref(), &custody, &[]);
    let mut with = OsString::from("--extern=linger_custody=");
    with.push(&custody);
    let options = [
        with,
        "--cfg=preloaded".into(),
        "-Clto=yes".into(),
        "-Cstrip=symbols".into(),
        "-Clink-arg=-Wl,-z,now".into(),
        "-Clink-arg=-Wl,-z,nodelete".into(),
    ];
    compile("linger_preload", "cdylib", "src/lib.rs".as_ref(), &out.join("liblinger_preload.so"), &options);
}

fn compile(name: &str, kind: &str, root: &OsStr, to: &PathBuf, options: &[OsString]) {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition=2024", "--cap-lints=allow", "-Copt-level=3", "-Cpanic=abort", "-Ccodegen-units=1"])
        .args(["--crate-name", name, "--crate-type", kind, "--target"])
        .arg(variable("TARGET"))
        .args(options)
        .arg("-o")
        .arg(to)
        .arg(root);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        rustc.arg(option);
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("{rustc:?}: {error}"));
    assert!(status.success(), "{rustc:?}: {status}");
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
