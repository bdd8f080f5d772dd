//! Runs the loom models, which try every order of the steps of threads that share state.

use std::fs;

use anyhow::Context;

use crate::workspace::Package;
use crate::{cargo, root, shown};

/// Runs the tests named `loom_...` of the crates whose manifests contain `cfg(loom)`.
pub(crate) fn run(packages: &[&Package]) -> anyhow::Result<()> {
    for package in packages {
        let manifest = package.folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        if text.contains("cfg(loom)") {
            models(&package.name)?;
        }
    }
    Ok(())
}

fn models(package: &str) -> anyhow::Result<()> {
    let mut command = cargo(&["test", "--quiet", "--lib", "--package", package, "loom_"]);
    // What executes a model is optimised, since a few steps take minutes otherwise; all else costs more to optimise than it
    // runs. In a target folder of its own, since the flag changes the build of every dependency.
    for name in ["loom", "generator"] {
        command.arg("--config").arg(format!("profile.dev.package.{name}.opt-level=2"));
    }
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", root().join("target/loom"));
    eprintln!("xtask: RUSTFLAGS='--cfg loom' {}", shown(&command));
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cargo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(output.status.success(), "loom models of {package}:\n{said}");
    // A filter that matches no test would pass.
    let passed = said.lines().find_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    anyhow::ensure!(
        passed.is_some_and(|count| count != "0"),
        "{package} speaks of loom and has no model:\n{said}"
    );
    println!("loom models of {package}: {} passed", passed.unwrap_or_default());
    Ok(())
}
