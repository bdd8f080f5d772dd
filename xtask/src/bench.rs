//! Performance, as ratios within one run.

use crate::{call, cargo};

/// The benches: name, package, features.
const BENCHES: [(&str, &str, &str); 7] = [
    ("close", "linger", "axum,hyper,metrics,rustls,serde,tokio,tracing"),
    ("fastcgi", "linger-fastcgi", ""),
    ("link", "linger-lab", ""),
    ("run", "linger-run", ""),
    ("transfer", "linger-transfer", ""),
    ("watch", "linger-watch", ""),
    ("why", "linger-why", ""),
];

pub(crate) fn run(name: &str, more: &[&str]) -> anyhow::Result<()> {
    let Some((name, package, features)) = BENCHES.iter().find(|(known, ..)| *known == name) else {
        let known: Vec<&str> = BENCHES.iter().map(|(name, ..)| *name).collect();
        anyhow::bail!("there is no bench `{name}`; known are {}", known.join(", "));
    };
    let mut command = cargo(&["bench", "--quiet", "--package", package, "--bench", name]);
    if !features.is_empty() {
        command.args(["--features", features]);
    }
    call(command.arg("--").args(more))
}

pub(crate) fn all() -> anyhow::Result<()> {
    BENCHES.iter().try_for_each(|(name, ..)| run(name, &[]))
}
