//! Compiles the programs: the first part of what the tests need, and what a set-up does while it waits for the network.

use anyhow::Context;

use crate::workspace::{Package, packages};
use crate::{call, cargo, root};

/// Compiles the programs of all crates and all that they depend on.
pub(crate) fn compile_all() -> anyhow::Result<()> {
    let all = packages(&root().join("Cargo.toml"))?;
    compile(&all.iter().collect::<Vec<_>>()).map(drop)
}

/// Compiles the programs of these crates and all that they depend on. Returns the arguments that select the crates.
pub(crate) fn compile<'a>(packages: &[&'a Package]) -> anyhow::Result<Vec<&'a str>> {
    let all: Vec<&str> = packages.iter().flat_map(|package| ["--package", package.name.as_str()]).collect();
    // Only the tests of `linger` start examples as programs. With all packages, or their dependencies would be built twice.
    let started =
        packages.iter().filter(|package| package.name == "linger").flat_map(|package| &package.examples);
    let started: Vec<&str> = started.flat_map(|name| ["--example", name]).collect();
    if !started.is_empty() {
        call(cargo(&["build", "--quiet", "--all-features"]).args(&all).args(started))
            .context("the examples")?;
    }
    Ok(all)
}
