//! Compiles the preloaded library, so that it can be shipped inside the program.
//!
//! Not left to cargo: the library must have no allocator, no unwinding and no dependency but the C library, and
//! cargo has no panic strategy for one crate alone, nor a way to name the file for `include_bytes!`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(clippy)");
    let variable = |name| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"));
    let library = PathBuf::from(variable("OUT_DIR")).join("liblinger_shim.so");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition=2024", "--crate-type=cdylib", "--crate-name=linger_shim", "--cap-lints=allow"])
        .args(["-Copt-level=3", "-Cpanic=abort", "-Ccodegen-units=1", "-Clto=yes", "-Cstrip=symbols"])
        .args(["-Clink-arg=-Wl,-z,now", "-Clink-arg=-Wl,-z,nodelete", "--target"])
        .arg(variable("TARGET"))
        .arg("-o")
        .arg(&library)
        .arg("src/preload.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("-Clinker=");
        option.push(linker);
        rustc.arg(option);
    }
    let status = rustc.status().unwrap_or_else(|error| panic!("{rustc:?}: {error}"));
    assert!(status.success(), "{rustc:?}: {status}");
}
