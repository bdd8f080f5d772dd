//! Skips tests, if `cargo xtask setup` allows it, and reports each skip.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// The needs of tests that this machine does not meet, one `need: why` per line. Written by `cargo xtask setup`.
const MISSING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/missing-for-tests");
/// Environment variable with a file to which skips are appended; `cargo xtask test` prints them.
const SKIPS: &str = "LINGER_SKIPS";

/// Skips a test, or a part of one, because `need` is missing: a package, by its name in `xtask/src/setup.rs`, or a
/// property of the machine, by its name in `xtask/src/machine.rs`.
///
/// # Panics
/// Panics if `cargo xtask setup` has not recorded `need` as missing: then a test that does not run is a failure.
#[track_caller]
pub fn skip(need: &str, why: &str) {
    let missing = fs::read_to_string(MISSING).unwrap_or_default();
    assert!(
        is_missing(&missing, need),
        "this test needs `{need}`, and cannot have it: {why}\n\
         `cargo xtask setup` installs it, or records that this machine lacks it, which allows the skip"
    );
    eprintln!("skipped: {need}: {why}");
    if let Some(path) = std::env::var_os(SKIPS).as_deref().map(Path::new) {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let written = file.and_then(|mut file| file.write_all(format!("{need}: {why}\n").as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn is_missing(missing: &str, need: &str) -> bool {
    missing.lines().any(|line| line.strip_prefix(need).is_some_and(|rest| rest.starts_with(": ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_a_whole_name() {
        let missing = "nginx-light: not in this distribution\nroot: user 1000\n";
        assert!(is_missing(missing, "nginx-light") && is_missing(missing, "root"));
        for other in ["nginx", "light", "", "user 1000", "root: user 1000"] {
            assert!(!is_missing(missing, other), "{other}");
        }
    }

    #[test]
    #[should_panic(expected = "this test needs `nothing that has this name`")]
    fn what_setup_did_not_miss_is_a_failure() {
        skip("nothing that has this name", "a test of the skip");
    }
}
