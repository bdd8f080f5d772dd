//! `cargo xtask test doors`: the recipes for other frameworks, compiled and run.

use crate::{call, cargo, root};

/// The recipes are a workspace of their own: otherwise every build of the main workspace would compile all these frameworks.
/// They share its target folder, and with it the dependencies that both need with the same features.
pub(crate) fn check() -> anyhow::Result<()> {
    test(&[])
}

/// Compiles what [`check`] runs.
pub(crate) fn compile() -> anyhow::Result<()> {
    test(&["--no-run"])
}

fn test(words: &[&str]) -> anyhow::Result<()> {
    let folder = root().join("crates/linger/doors");
    let mut test = cargo(&["test", "--quiet", "--locked"]);
    call(test.args(words).current_dir(folder).env("CARGO_TARGET_DIR", root().join("target")))
}
