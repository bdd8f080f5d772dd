//! Performance, as ratios within one run.

use crate::{call, cargo};

/// The benches: name, package, features.
const BENCHES: [(&str, &str, &str); 8] = [
    ("close", "linger", "axum,hyper,metrics,rustls,serde,tokio,tracing"),
    ("fastcgi", "linger-fastcgi", ""),
    ("link", "linger-lab", ""),
    ("netem", "linger-lab", ""),
    ("run", "linger-run", ""),
    ("transfer", "linger-transfer", ""),
    ("watch", "linger-watch", ""),
    ("why", "linger-why", ""),
];

/// The names of the benches.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BENCHES.iter().map(|(name, ..)| *name)
}

pub(crate) fn run(name: &str, more: &[&str]) -> anyhow::Result<()> {
    let Some((name, package, features)) = BENCHES.iter().find(|(known, ..)| *known == name) else {
        anyhow::bail!("there is no bench `{name}`; known are {}", names().collect::<Vec<_>>().join(", "));
    };
    let mut command = cargo(&["bench", "--quiet", "--package", package, "--bench", name]);
    if !features.is_empty() {
        command.args(["--features", features]);
    }
    call(command.arg("--").args(more))
}

pub(crate) fn all() -> anyhow::Result<()> {
    names().try_for_each(|name| run(name, &[]))
}
