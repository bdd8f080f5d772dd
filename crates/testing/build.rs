//! Does nothing: it is here because cargo passes over build dependencies, and their features, where there is no build script.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
