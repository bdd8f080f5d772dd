//! `cargo xtask mutants CRATE [K/N]`: which faults in the deciding code would no test notice? (cargo-mutants)
//!
//! Not a part of CI: a crate takes an hour or more. `K/N` runs the K-th of N parts, counted from 0. Mutants that no test
//! noticed are listed in `target/mutants/CRATE/mutants.out/missed.txt`.

use std::fs;

use anyhow::Context;

use crate::{call, cargo, root, setup};

/// Which files of a crate are mutated, and which tests must notice. Only fast ones, nearly all without I/O, since each mutant runs
/// them all.
struct Row {
    package: &'static str,
    /// Files, as globs from the workspace's root.
    files: &'static [&'static str],
    /// Features of the package.
    features: &'static str,
    /// Arguments of cargo that select the tests. Nothing else is built for a mutant.
    tests: &'static [&'static str],
    /// Longest test run, in seconds. A mutant that takes longer counts as hanging.
    seconds: u32,
}

/// Never mutated, whatever the rows say: it looks through all processes of the machine and kills those that carry a mark. A
/// mutant that takes every process for a marked one kills whatever else runs there. `.cargo/mutants.toml` leaves it out as well,
/// for whoever runs cargo-mutants without this task.
const NEVER: &str = "crates/transfer/src/launch/marked.rs";

static ROWS: [Row; 5] = [
    Row {
        package: "linger",
        files: &[
            "crates/linger/src/machine.rs",
            "crates/linger/src/machine/*.rs",
            "crates/linger/src/policy/*.rs",
            "crates/linger/src/closer/*.rs",
            "crates/linger/src/socket.rs",
        ],
        features: "tokio,serde,metrics",
        tests: &["--lib"],
        seconds: 90,
    },
    Row {
        package: "linger-fastcgi",
        files: &["crates/fastcgi/src/conversation.rs", "crates/fastcgi/src/conversation/*.rs"],
        features: "tokio",
        tests: &["--lib"],
        seconds: 60,
    },
    Row {
        package: "linger-why",
        files: &[
            "crates/why/src/app.rs",
            "crates/why/src/streams.rs",
            "crates/why/src/streams/*.rs",
            "crates/why/src/facts.rs",
            "crates/why/src/facts/*.rs",
            "crates/why/src/pair.rs",
            "crates/why/src/pair/conversations.rs",
            "crates/why/src/cause/*.rs",
            "crates/why/src/cause/*/*.rs",
        ],
        features: "",
        tests: &["--test=rules"],
        seconds: 20,
    },
    Row {
        package: "linger-transfer",
        files: &[
            "crates/transfer/src/machine.rs",
            "crates/transfer/src/wire.rs",
            "crates/transfer/src/state.rs",
            "crates/transfer/src/receive.rs",
            "crates/transfer/src/receive/*.rs",
            "crates/transfer/src/account.rs",
            "crates/transfer/src/receipt.rs",
            "crates/transfer/src/path.rs",
            "crates/transfer/src/client/attempts.rs",
            "crates/transfer/src/client/goodbye.rs",
            "crates/transfer/src/delivery/journal.rs",
        ],
        features: "",
        // What checks a receipt file is called by the tests of real receipts alone.
        tests: &["--lib", "--test=receipts"],
        seconds: 60,
    },
    Row {
        package: "linger-custody",
        files: &["crates/custody/src/**"],
        features: "world",
        tests: &["--tests"],
        seconds: 60,
    },
];

fn row(name: &str) -> Option<&'static Row> {
    let full = format!("linger-{name}");
    ROWS.iter().find(|row| row.package == name || row.package == full)
}

/// Whether there is a row about a crate.
pub(crate) fn knows(name: &str) -> bool {
    row(name).is_some()
}

pub(crate) fn run(name: &str, shard: Option<&str>) -> anyhow::Result<()> {
    let Some(row) = row(name) else {
        let known: Vec<&str> = ROWS.iter().map(|row| row.package).collect();
        anyhow::bail!("no row of xtask/src/mutants.rs is about `{name}`; there are {}", known.join(", "));
    };
    anyhow::ensure!(
        setup::has_subcommand("cargo-mutants"),
        "cargo-mutants is not installed: cargo install --locked cargo-mutants"
    );
    let out = root().join("target/mutants").join(name);
    fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let mut command = cargo(&["mutants", "--package", row.package, "--timeout", &row.seconds.to_string()]);
    command.arg("--output").arg(&out).args(["--exclude", NEVER]);
    for file in row.files {
        command.args(["--file", file]);
    }
    if !row.features.is_empty() {
        command.args(["--features", row.features]);
    }
    if let Some(shard) = shard {
        anyhow::ensure!(is_shard(shard), "a part is K/N with K below N, not `{shard}`");
        command.args(["--shard", shard]);
    }
    // No debug information: it is half of the linking time, and nobody debugs a mutant.
    command
        .args(row.tests.iter().map(|test| format!("--cargo-arg={test}")))
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    call(&mut command)
}

fn is_shard(text: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    text.split_once('/').and_then(|(k, n)| Some(number(k)? < number(n)?)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kills_processes_exists_and_is_left_out() {
        assert!(root().join(NEVER).is_file(), "it has moved: the exclusion has to follow");
        let settings = fs::read_to_string(root().join(".cargo/mutants.toml")).unwrap();
        assert!(settings.contains(NEVER), "{settings}");
        assert!(ROWS.iter().all(|row| !row.files.contains(&NEVER)));
    }

    #[test]
    fn parts_are_counted_from_zero() {
        assert!(is_shard("0/4") && is_shard("3/4"));
        for other in ["4/4", "1", "a/b", "-1/4", "0/0", ""] {
            assert!(!is_shard(other), "{other}");
        }
    }
}
