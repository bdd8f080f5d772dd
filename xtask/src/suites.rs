//! `cargo xtask suites [NAME ...]`: other projects' own tests, on their streams and on lingering ones.
//!
//! A test that passes on a project's own streams and not on lingering ones shows a fault of crate `linger`. Not a part of CI:
//! it fetches four projects and compiles each of them twice. `crates/linger/tests/suites.py` makes all changes to their
//! checkouts; none of their code is kept here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::{call, cargo, root};

struct Suite {
    name: &'static str,
    source: &'static str,
    /// Arguments of `cargo test`.
    tests: &'static [&'static str],
}

static SUITES: [Suite; 4] = [
    Suite {
        name: "hyper",
        source: "https://github.com/hyperium/hyper",
        tests: &["--features=full", "--test=server", "--", "--test-threads=4"],
    },
    Suite { name: "axum", source: "https://github.com/tokio-rs/axum", tests: &["--package=axum", "--lib"] },
    Suite {
        name: "tokio-tungstenite",
        source: "https://github.com/snapview/tokio-tungstenite",
        tests: &["--tests"],
    },
    Suite {
        name: "tonic",
        source: "https://github.com/hyperium/tonic",
        tests: &["--package=integration-tests", "--package=test_web", "--package=default_stubs", "--tests"],
    },
];

pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    if let Some(unknown) = only.iter().find(|name| !knows(name)) {
        let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        bail!("{unknown}: no such suite; there are {}", known.join(", "));
    }
    let chosen = SUITES.iter().filter(|suite| only.is_empty() || only.contains(&suite.name));
    let mut failed = Vec::new();
    for suite in chosen {
        // One project that cannot be built must not hide what the others show.
        if let Err(error) = suite.run() {
            println!("{}: {error:#}", suite.name);
            failed.push(suite.name);
        }
    }
    ensure!(failed.is_empty(), "not as on their own streams: {}", failed.join(", "));
    Ok(())
}

pub(crate) fn knows(name: &str) -> bool {
    SUITES.iter().any(|suite| suite.name == name)
}

impl Suite {
    fn run(&self) -> anyhow::Result<()> {
        let checkout = self.checkout()?;
        let bare = self.results(&checkout, &["bare"])?;
        let lingering = self.results(&checkout, &[]);
        // Whatever comes of it, the checkout is left as its authors have it.
        self.prepare(&checkout, &["clean"])?;
        let lingering = lingering?;
        println!("{}: bare {}; lingering {}", self.name, counted(&bare), counted(&lingering));
        let worse = worse(&bare, &lingering);
        ensure!(worse.is_empty(), "on lingering streams alone these do not pass:\n  {}", worse.join("\n  "));
        Ok(())
    }

    /// The project's source, which is fetched if it is not there: whoever has it can put it there.
    fn checkout(&self) -> anyhow::Result<PathBuf> {
        let folder = root().join("target/suites").join(self.name);
        if !folder.join("Cargo.toml").exists() {
            call(Command::new("git").args(["clone", "--quiet", "--depth=1", self.source]).arg(&folder))?;
        }
        Ok(folder)
    }

    /// Makes the checkout's tests run on lingering streams; with `bare` on their own. With `clean`, only restores the checkout.
    fn prepare(&self, checkout: &Path, how: &[&str]) -> anyhow::Result<()> {
        let script = root().join("crates/linger/tests/suites.py");
        call(Command::new("python3").arg(script).arg(self.name).arg(checkout).args(how))
    }

    /// Runs the tests. Their output is kept beside the checkout.
    fn results(&self, checkout: &Path, how: &[&str]) -> anyhow::Result<SuiteResults> {
        self.prepare(checkout, how)?;
        let folder = root().join("target/suites");
        let log = folder.join(format!("{}-{}.log", self.name, how.first().unwrap_or(&"lingering")));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut test = cargo(&["test", "--no-fail-fast"]);
        test.args(self.tests).current_dir(checkout);
        // One folder for both ways: only what was changed is compiled again.
        test.env("CARGO_TARGET_DIR", folder.join(format!("build-{}", self.name)));
        test.stdout(file.try_clone()?).stderr(file);
        // The exit status is the same for a failed test and for a failed compilation: the results tell them apart.
        test.status()?;
        let results = parse(&fs::read_to_string(&log)?);
        ensure!(!results.is_empty(), "no test ran; {} says why", log.display());
        Ok(results)
    }
}

/// What became of each test: `ok`, `FAILED` or `ignored`, by binary and name.
type SuiteResults = BTreeMap<String, String>;

/// Reads the output of `cargo test`.
fn parse(output: &str) -> SuiteResults {
    let mut results = SuiteResults::new();
    let mut binary = "";
    for line in output.lines() {
        if let Some(running) = line.trim_start().strip_prefix("Running ") {
            binary = running.split(" (").next().unwrap_or(running);
        }
        let test = line.strip_prefix("test ").and_then(|test| test.split_once(" ... "));
        if let Some((name, result)) = test {
            let result = result.split([' ', ',']).next().unwrap_or(result);
            results.insert(format!("{binary}: {name}"), result.to_owned());
        }
    }
    results
}

fn counted(results: &SuiteResults) -> String {
    let of = |word: &str| results.values().filter(|result| *result == word).count();
    format!("{} passed, {} failed, {} ignored", of("ok"), of("FAILED"), of("ignored"))
}

/// The tests that pass bare and not lingering, those that are missing there included.
fn worse(bare: &SuiteResults, lingering: &SuiteResults) -> Vec<String> {
    let passed = bare.iter().filter(|(_, result)| *result == "ok");
    let worse = passed.filter(|(name, _)| lingering.get(*name).is_none_or(|result| result != "ok"));
    worse.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "   Compiling hyper v1.11.0
     Running tests/server.rs (target/debug/deps/server-0)

running 3 tests
test h2::get ... ok
test upgrades ... ignored, needs a network
test fails_for_all ... FAILED
     Running tests/client.rs (target/debug/deps/client-0)
test h2::get ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn a_test_that_passes_bare_alone_is_named_with_its_binary() {
        let bare = parse(BARE);
        assert_eq!(counted(&bare), "2 passed, 1 failed, 1 ignored");
        assert_eq!(worse(&bare, &bare), [""; 0]);
        let failed = parse(&BARE.replacen("get ... ok", "get ... FAILED", 1));
        assert_eq!(worse(&bare, &failed), ["tests/server.rs: h2::get"]);
        let (server, _) = BARE.split_once("     Running tests/client.rs").unwrap();
        assert_eq!(worse(&bare, &parse(server)), ["tests/client.rs: h2::get"]);
        // Passing more than bare is no fault.
        assert_eq!(worse(&failed, &bare), [""; 0]);
    }
}
