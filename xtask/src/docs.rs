//! Checks the documents: the targets of links, the named files, tasks, packages and tests must exist.
//!
//! The commands of `linger` itself are checked by its own parser, in `crates/cli/src/docs_tests.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::workspace::Package;
use crate::{TASKS, root};

/// Every Markdown file of the tree except generated ones.
fn documents() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                // `recorded` holds recorded output of programs.
                if name != "target" && name != "recorded" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn check(packages: &[&Package]) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for path in documents()? {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let folder = path.parent().unwrap_or(root());
        let shown = path.strip_prefix(root()).unwrap_or(&path).display();
        for (place, line) in text.lines().enumerate() {
            let faults = faults(line, folder, packages);
            wrong.extend(faults.into_iter().map(|fault| format!("{shown}:{}: {fault}", place + 1)));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn faults(line: &str, folder: &Path, packages: &[&Package]) -> Vec<String> {
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
    wrong.extend(commands(line, packages));
    wrong
}

/// Checks a row of a table. A file that is named without its full path must be in the folder of the last full path before it
/// in the same cell. If a row says that a name is "in" a Rust file, the name must occur in that file.
fn cells(line: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for cell in line.split(" | ").filter(|_| line.starts_with('|')) {
        let mut folder: Option<PathBuf> = None;
        // Texts outside and inside of back-ticks take turns.
        let parts: Vec<&str> = cell.split('`').collect();
        for at in (1..parts.len()).step_by(2) {
            let is_full = parts[at].starts_with("crates/") || parts[at].starts_with("xtask/");
            let file = match &folder {
                _ if is_full => root().join(parts[at]),
                Some(folder) if parts[at].ends_with(".rs") => folder.join(parts[at]),
                _ => continue,
            };
            if is_full {
                let is_folder = file.is_dir();
                folder = if is_folder { Some(file.clone()) } else { file.parent().map(Path::to_owned) };
            } else if !file.exists() {
                wrong.push(format!("`{}` is not in the folder of the path before it", parts[at]));
            }
            if at > 2 && parts[at - 1] == " in " && file.extension().is_some_and(|ending| ending == "rs") {
                let name = parts[at - 2].rsplit("::").next().unwrap_or_default();
                if !fs::read_to_string(&file).is_ok_and(|text| text.contains(name)) {
                    wrong.push(format!("`{}` is not in `{}`", parts[at - 2], parts[at]));
                }
            }
        }
    }
    wrong
}

/// The targets of a line's Markdown links.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next())
}

/// The texts between back-ticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Checks `cargo xtask TASK`, and `-p PACKAGE` and `--test NAME` of cargo commands.
fn commands(line: &str, packages: &[&Package]) -> Vec<String> {
    let mut wrong = Vec::new();
    for command in line.split("cargo ").skip(1) {
        let command = command.split(['`', '#', '"']).next().unwrap_or_default();
        let words: Vec<&str> = command.split_whitespace().collect();
        let mut package = None;
        for pair in words.windows(2) {
            match pair {
                ["xtask", task] if !TASKS.contains(task) => {
                    wrong.push(format!("there is no `cargo xtask {task}`"))
                }
                ["-p" | "--package", name] => {
                    package = packages.iter().find(|package| package.name == *name);
                    if package.is_none() && is_name(name) {
                        wrong.push(format!("there is no package `{name}`"));
                    }
                }
                ["--test" | "--bin" | "--example", name] => {
                    let has = |package: &&Package| {
                        let all = [&package.fast, &package.guarded, &package.programs];
                        all.into_iter().flatten().any(|own| own == name)
                    };
                    if is_name(name) && !package.map_or_else(|| packages.iter().any(has), has) {
                        wrong.push(format!("there is no target `{name}`"));
                    }
                }
                _ => {}
            }
        }
    }
    wrong
}

/// Whether a word is a name, and not a placeholder such as `CRATE`.
fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> Package {
        Package {
            name: "linger-lab".into(),
            version: String::new(),
            oldest: String::new(),
            is_published: false,
            fast: vec!["cells".into()],
            guarded: vec!["random".into()],
            programs: vec![],
            folder: root().join("crates/lab"),
        }
    }

    #[test]
    fn a_link_leads_to_a_file() {
        let faults = |line| faults(line, root(), &[]).len();
        assert_eq!(
            faults("see [the map](ARCHITECTURE.md#the-lab) and [the RFC](https://example.org/nowhere)"),
            0
        );
        assert_eq!(faults("see [the map](ARCHITECTURES.md), [here](#the-lab)"), 1);
    }

    #[test]
    fn a_file_that_is_named_exists() {
        let faults = |line| faults(line, root(), &[]).len();
        assert_eq!(faults("in `xtask/src/docs.rs`, `crates/*/tests` and `nginx.conf`"), 0);
        assert_eq!(faults("in `xtask/src/documents.rs`"), 1);
    }

    #[test]
    fn a_row_names_files_and_what_stands_in_them() {
        let faults = |line| faults(line, root(), &[]);
        assert_eq!(
            faults("| a rule | `cells` in `xtask/src/docs.rs`, `names.rs`; `Names::of` is elsewhere |"),
            [""; 0]
        );
        assert_eq!(faults("| a rule | `xtask/src/docs.rs`, `nomen.rs` |").len(), 1);
        assert_eq!(faults("| a rule | `xtask/src/docs.rs` | `nomen.rs` |").len(), 0, "another cell");
        assert_eq!(faults("| a rule | `Documents::cellar` in `xtask/src/names.rs` |").len(), 1);
    }

    #[test]
    fn commands_name_what_there_is() {
        let package = package();
        let faults = |line| commands(line, &[&package]).len();
        assert_eq!(
            faults("`cargo xtask test CRATE`, or `cargo test -p linger-lab --test random -- --nocapture`"),
            0
        );
        assert_eq!(faults("$ cargo test -p CRATE --test NAME"), 0);
        assert_eq!(faults("$ cargo xtask tests # all"), 1);
        assert_eq!(faults("`cargo test -p linger-labs`"), 1);
        assert_eq!(faults("`cargo test -p linger-lab --test cell`"), 1);
    }
}
