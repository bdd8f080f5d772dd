//! Checks the documents: the targets of links, the named files, and every word of a command must exist.
//!
//! Commands of cargo are checked here (`commands`), also those in comments and messages of source files. Commands of `linger`
//! are checked by its own parser, in `crates/cli/src/docs_tests.rs`, which `check` runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::commands::{self, Known};
use crate::workspace::Package;
use crate::{call, cargo, root, sources};

/// Every file of the tree with one of these endings, except generated ones.
fn files(endings: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                // `recorded` holds the output of programs, whose words are not checked.
                if name != "target" && name != "recorded" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Checks all documents: first what needs no compiler, then the commands of `linger`.
pub(crate) fn check(known: &Known<'_>) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for path in files(&[".md", ".rs", ".toml"])? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(root());
        let shown = path.strip_prefix(root()).unwrap_or(&path).display();
        let is_document = path.extension().is_some_and(|ending| ending == "md");
        for (place, line) in without_tests(&text).lines().enumerate() {
            let faults =
                if is_document { faults(line, folder, known) } else { faults_of_comment(line, known) };
            wrong.extend(faults.into_iter().map(|fault| format!("{shown}:{}: {fault}", place + 1)));
        }
    }
    wrong.extend(unmapped(known.packages)?);
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The whole workspace and all features, as in the other steps: otherwise all of it would be compiled twice.
    let own = ["test", "--quiet", "--workspace", "--all-features", "--bin", "linger", "docs_tests::"];
    call(&mut cargo(&own)).context("the commands of linger")
}

fn faults(line: &str, folder: &Path, known: &Known<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for link in links(line) {
        let file = link.split('#').next().unwrap_or_default();
        let is_elsewhere = file.contains("://") || file.starts_with("mailto:") || file.is_empty();
        if !is_elsewhere && !folder.join(file).exists() {
            wrong.push(format!("the link to {link} leads nowhere"));
        }
    }
    for name in spans(line) {
        let is_path = ["crates/", "xtask/", "scenarios/", "docs/", "fuzz/", "deploy/", ".ci/"]
            .iter()
            .any(|top| name.starts_with(top));
        let is_pattern = name.contains(['*', '…', ' ', '{', '<']) || name.contains("...");
        if is_path && !is_pattern && !root().join(name).exists() {
            wrong.push(format!("`{name}` does not exist"));
        }
    }
    wrong.extend(cells(line));
    wrong.extend(commands(line).flat_map(|command| commands::faults(command, known)));
    wrong
}

/// Checks a row of a table: every file is where the row says, and if a name is "in" a Rust file, it occurs there.
fn cells(line: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for Mention { words, file, before } in mentions(line) {
        if !file.exists() {
            wrong.push(format!("`{words}` is not in the folder of the path before it"));
        }
        if let Some(name) = before.filter(|_| file.extension().is_some_and(|ending| ending == "rs")) {
            let word = name.rsplit("::").next().unwrap_or_default();
            if !fs::read_to_string(&file).is_ok_and(|text| text.contains(word)) {
                wrong.push(format!("`{name}` is not in `{words}`"));
            }
        }
    }
    wrong
}

/// A file or folder of the code in a row of a table.
struct Mention<'a> {
    /// As the row has it.
    words: &'a str,
    file: PathBuf,
    /// The name that the row says is in the file.
    before: Option<&'a str>,
}

/// The files of a row of a table. One without its full path is in the folder of the last full path before it in the same cell.
fn mentions(line: &str) -> Vec<Mention<'_>> {
    let mut found = Vec::new();
    for cell in line.split(" | ").filter(|_| line.starts_with('|')) {
        let mut folder: Option<PathBuf> = None;
        // Texts outside and inside of back-ticks take turns.
        let parts: Vec<&str> = cell.split('`').collect();
        for at in (1..parts.len()).step_by(2) {
            let is_full = parts[at].starts_with("crates/") || parts[at].starts_with("xtask/");
            let file = match &folder {
                _ if is_full && parts[at].contains('*') => continue,
                _ if is_full => root().join(parts[at]),
                Some(folder) if parts[at].ends_with(".rs") => folder.join(parts[at]),
                _ => continue,
            };
            if is_full {
                folder = if file.is_dir() { Some(file.clone()) } else { file.parent().map(Path::to_owned) };
            }
            let before = (at > 2 && parts[at - 1] == " in ").then(|| parts[at - 2]);
            found.push(Mention { words: parts[at], file, before });
        }
    }
    found
}

/// The source files that no row of ARCHITECTURE.md names: whoever wants to change what they decide would not find them.
fn unmapped(packages: &[&Package]) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let mapped: BTreeSet<PathBuf> = text.lines().flat_map(mentions).map(|mention| mention.file).collect();
    let mut wrong = Vec::new();
    for package in packages {
        for file in sources::shipped(&package.folder.join("src"))?.into_iter().filter(|file| !file.is_root())
        {
            if !mapped.contains(&file.path) {
                let shown = file.path.strip_prefix(root()).unwrap_or(&file.path).display();
                wrong.push(format!("ARCHITECTURE.md: no row names `{shown}`"));
            }
        }
    }
    Ok(wrong)
}

/// The targets of a line's Markdown links.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

/// The texts between back-ticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The commands of cargo in a line, each without its first word.
fn commands(line: &str) -> impl Iterator<Item = &str> {
    line.split("cargo ").skip(1).map(|command| command.split(['`', '#', '"']).next().unwrap_or_default())
}

/// What is wrong with the commands of cargo between the back-ticks of a comment or a message.
fn faults_of_comment(line: &str, known: &Known<'_>) -> Vec<String> {
    let spans = spans(line).filter(|span| span.starts_with("cargo "));
    spans.flat_map(commands).flat_map(|command| commands::faults(command, known)).collect()
}

/// The text of a Rust file up to its tests, which contain wrong commands on purpose.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Known<'_> = Known { packages: &[], steps: &["rooms"] };

    #[test]
    fn a_link_leads_to_a_file() {
        let faults = |line| faults(line, root(), &NONE).len();
        assert_eq!(
            faults("see [the map](ARCHITECTURE.md#the-lab) and [the RFC](https://example.org/nowhere)"),
            0
        );
        assert_eq!(faults("see [the map](ARCHITECTURES.md), [here](#the-lab)"), 1);
    }

    #[test]
    fn a_file_that_is_named_exists() {
        let faults = |line| faults(line, root(), &NONE).len();
        assert_eq!(faults("in `xtask/src/docs.rs`, `crates/*/tests` and `nginx.conf`"), 0);
        assert_eq!(faults("in `xtask/src/documents.rs`"), 1);
    }

    #[test]
    fn a_row_names_files_and_what_stands_in_them() {
        let faults = |line| faults(line, root(), &NONE);
        assert_eq!(
            faults("| a rule | `cells` in `xtask/src/docs.rs`, `names.rs`; `Names::of` is elsewhere |"),
            [""; 0]
        );
        assert_eq!(faults("| a rule | `xtask/src/docs.rs`, `nomen.rs` |").len(), 1);
        assert_eq!(faults("| a rule | `xtask/src/docs.rs` | `nomen.rs` |").len(), 0, "another cell");
        assert_eq!(faults("| a rule | `Documents::cellar` in `xtask/src/names.rs` |").len(), 1);
    }

    #[test]
    fn commands_are_found_wherever_a_document_shows_them() {
        let faults = |line| faults(line, root(), &NONE).len();
        assert_eq!(faults("| `cargo xtask test rooms` | or `cargo xtask test` |"), 0);
        assert_eq!(faults("$ cargo xtask test rooms # and no more"), 0);
        assert_eq!(faults("$ cargo xtask test room # and no more"), 1);
        assert_eq!(faults("| `cargo xtask test rooms` | or `cargo xtask bench lap` |"), 1);
    }

    #[test]
    fn commands_in_comments_stand_between_back_ticks() {
        let faults = |line| faults_of_comment(line, &NONE).len();
        assert_eq!(faults("//! `cargo xtask test rooms` says what cargo xtask test says"), 0);
        assert_eq!(faults("//! The numbers are of `cargo xtask bench ruin`."), 1);
        assert_eq!(faults("println!(\"run `cargo xtask set-up` first\")"), 1);
    }
}
