//! Compiles the programs and the tests: what a set-up does while it waits for the network.

use std::fs;

use anyhow::Context;

use crate::workspace::{Package, packages};
use crate::{call, cargo, root};

/// Compiles all that the tests of all crates need.
pub(crate) fn compile_all() -> anyhow::Result<()> {
    let all = packages(&root().join("Cargo.toml"))?;
    let selected = compile(&all.iter().collect::<Vec<_>>())?;
    call(cargo(&["test", "--no-run", "--quiet"]).args(selected))
}

/// Compiles the programs of these crates and all that they depend on. Returns the arguments that select their tests.
pub(crate) fn compile(packages: &[&Package]) -> anyhow::Result<Vec<String>> {
    let all: Vec<&str> = packages.iter().flat_map(|package| ["--package", package.name.as_str()]).collect();
    // Only the tests of `linger` start examples as programs. With all packages, or their dependencies would be built twice.
    let started =
        packages.iter().filter(|package| package.name == "linger").flat_map(|package| &package.examples);
    let started: Vec<&str> = started.flat_map(|name| ["--example", name]).collect();
    if !started.is_empty() {
        call(cargo(&["build", "--quiet", "--all-features"]).args(&all).args(started))
            .context("the examples")?;
    }
    // Select targets by name: `--tests` leaves out those with `test = false`, even if they are named as well, and `--bins`
    // builds a test binary of each program, whether it has tests or not.
    for file in packages.iter().flat_map(|package| &package.untested) {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        anyhow::ensure!(!text.contains("#[test]"), "the tests of {} are not run", file.display());
    }
    let programs = packages.iter().flat_map(|package| &package.tested_programs);
    let programs = programs.flat_map(|name| ["--bin", name.as_str()]);
    let tests = packages.iter().flat_map(|package| package.fast.iter().chain(&package.guarded));
    let tests = tests.flat_map(|name| ["--test", name.as_str()]);
    let selected = all.into_iter().chain(["--all-features", "--lib"]).chain(programs).chain(tests);
    Ok(selected.map(str::to_owned).collect())
}
