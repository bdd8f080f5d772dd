//! What runs tests: cargo-nextest, each test in a process of its own, or cargo's own runner.

use crate::setup::{self, allowed};

/// Whether a subcommand of cargo is installed. If not, it must be recorded as missing, and a line says that it is skipped.
pub(crate) fn is_there(name: &str) -> anyhow::Result<bool> {
    if setup::has_subcommand(name) {
        return Ok(true);
    }
    allowed(name).map(|()| false)
}

pub(crate) fn has_runner() -> anyhow::Result<bool> {
    is_there("cargo-nextest")
}

/// The words that run tests: each in a process of its own, if cargo-nextest is there.
pub(crate) fn runner() -> anyhow::Result<Vec<String>> {
    let words: &[&str] = if has_runner()? { &["nextest", "run"] } else { &["test"] };
    let mut words: Vec<String> =
        [words, &["--no-fail-fast"]].concat().into_iter().map(str::to_owned).collect();
    if has_runner()? {
        // A test takes three of these threads, or fewer if it mostly waits (.config/nextest.toml).
        let threads = std::thread::available_parallelism().map_or(3, |processors| 3 * processors.get());
        words.extend(["--test-threads".to_owned(), threads.to_string()]);
    }
    Ok(words)
}
