//! Skipping that is said aloud.

use std::io::Write;

/// Names a file to which reasons for skipping are appended; `cargo xtask test` compares them with what it allows.
const SKIPS: &str = "LINGER_SKIPS";

/// Says that a group of tests is skipped here, and why.
pub fn skip(group: &str, why: &str) {
    eprintln!("skipped: {group}: {why}");
    if let Some(path) = std::env::var_os(SKIPS) {
        let line = format!("{group}: {why}\n");
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
