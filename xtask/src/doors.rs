//! `cargo xtask test doors`: the recipes for other frameworks, compiled and run.

use crate::{call, cargo, root};

/// They are a workspace of their own, because a workspace build would compile all of those frameworks.
pub(crate) fn check() -> anyhow::Result<()> {
    let folder = root().join("crates/linger/doors");
    let mut test = cargo(&["test", "--quiet", "--locked"]);
    call(test.current_dir(folder).env("CARGO_TARGET_DIR", root().join("target/doors")))
}
