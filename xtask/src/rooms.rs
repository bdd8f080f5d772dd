//! Rules that the compiler does not check: files need each other in one direction only; unsafe code stays in its folders; a
//! type's name is defined in two files at most; functions fit on a page; ignored tests say how they are run, and skips are
//! counted; every crate takes the workspace's lints; what is built alone shares its dependencies with a build of all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::workspace::find_sources;
use crate::{circles, names, root, setup, shared, sources};

/// Crates that consist of system calls: the socket options, and the library that is preloaded into other programs.
const ALL_KERNEL: [&str; 2] = ["sys", "preload"];

/// Checks all rules on every file of the workspace.
///
/// # Errors
/// Returns an error that lists every place that breaks a rule.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let mut definitions = names::Definitions::new();
    for manifest in manifests()? {
        let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
        if !text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: it does not take the workspace's lints", shown(&manifest)));
        }
        let folder = manifest.parent().context("a manifest has a folder")?;
        let files = sources::shipped(&folder.join("src"))?;
        for circle in circles::circles(&files) {
            wrong.push(format!("{}: a circle of files: {}", shown(folder), circle.join(", ")));
        }
        wrong.extend(names::collect(&files, &mut definitions));
        let mut sources = Vec::new();
        find_sources(folder, &mut sources)?;
        for source in sources {
            let text = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
            wrong.extend(misplaced(&shown(&source), &text));
            wrong.extend(ignored(&shown(&source), &text));
            wrong.extend(skipped(&shown(&source), &text));
        }
    }
    wrong.extend(names::ambiguous(&definitions));
    wrong.extend(shared::differences()?);
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The manifests of the workspace's members.
fn manifests() -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![root().join("xtask/Cargo.toml")];
    for entry in fs::read_dir(root().join("crates"))? {
        let manifest = entry?.path().join("Cargo.toml");
        if manifest.is_file() {
            found.push(manifest);
        }
    }
    found.sort();
    Ok(found)
}

/// Unsafe code of one file, or permission to write it, outside the folders for it. `path` is from the workspace's root.
fn misplaced(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let in_kernel = match parts[..] {
        ["crates", name, ..] if ALL_KERNEL.contains(&name) => true,
        ["crates", _, "src", "kernel", ..] => true,
        _ => false,
    };
    if in_kernel {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((place, line)) = lines.next() {
        let code = line.split("//").next().unwrap_or_default().trim();
        let is_leave =
            ["allow", "expect", "warn"].iter().any(|level| code.contains(&format!("{level}(unsafe_code")));
        if code.starts_with('#') && is_leave {
            let next = lines.peek().map_or("", |(_, next)| next.trim());
            if code.starts_with("#![") || next.trim_start_matches("pub ") != "mod kernel;" {
                wrong.push(format!("{path}:{}: {code} is for `mod kernel;` alone", place + 1));
            }
        } else if is_unsafe(code) {
            wrong.push(format!("{path}:{}: unsafe code lives in src/kernel/: {code}", place + 1));
        }
    }
    wrong
}

/// Ignored tests of one file that do not say how they are run.
fn ignored(path: &str, text: &str) -> Vec<String> {
    let says = |line: &str| line.contains("cargo ") || line.contains("no test, but");
    let ignored = text.lines().enumerate().filter(|(_, line)| line.trim().starts_with("#[ignore"));
    let silent = ignored.filter(|(_, line)| !says(line));
    silent.map(|(place, line)| format!("{path}:{}: {}: say how it is run", place + 1, line.trim())).collect()
}

/// Skips of one file that are not counted, or whose need `cargo xtask setup` does not know.
fn skipped(path: &str, text: &str) -> Vec<String> {
    let is_test_code = path.contains("/tests/") || path.contains("/src/");
    if !is_test_code || path.starts_with("crates/testing/") || path.starts_with("xtask/") {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for (place, line) in text.lines().enumerate() {
        if line.contains("println!(\"skipped") {
            wrong.push(format!("{path}:{}: a skip that nobody counts: use linger_testing::skip", place + 1));
        }
        let need = line.split_once("skip(\"").and_then(|(_, rest)| rest.split('"').next());
        if let Some(need) = need.filter(|need| setup::needs().all(|known| known != *need)) {
            wrong.push(format!("{path}:{}: `cargo xtask setup` knows no `{need}`", place + 1));
        }
    }
    wrong
}

/// Whether a line of code is unsafe. The compiler's lint does not see code that a `cfg` leaves out.
fn is_unsafe(code: &str) -> bool {
    let keyword = concat!("un", "safe");
    ["{", "fn", "impl", "extern", "trait"].iter().any(|next| code.contains(&format!("{keyword} {next}")))
        || code.contains(&format!("#[{keyword}("))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_has_its_places() {
        let block = concat!("let fd = un", "safe { libc::dup(0) };\n");
        for path in ["crates/lab/src/kernel/port.rs", "crates/sys/src/queue.rs", "crates/preload/src/sys.rs"]
        {
            assert_eq!(misplaced(path, block), Vec::<String>::new(), "{path}");
        }
        for path in
            ["crates/lab/src/port.rs", "crates/lab/tests/kernel/port.rs", "crates/linger/src/kernel.rs"]
        {
            assert_eq!(misplaced(path, block).len(), 1, "{path}");
        }
        assert_eq!(misplaced("crates/lab/src/port.rs", &format!("// {block}")), Vec::<String>::new());
    }

    #[test]
    fn leave_to_write_it_stands_on_the_kernel_module() {
        let leave = "#[allow(unsafe_code)]\n";
        let of = |next: &str| misplaced("crates/lab/src/lib.rs", &format!("{leave}{next}\n")).len();
        assert_eq!(
            (of("mod kernel;"), of("pub mod kernel;"), of("mod port;"), of("mod kernel {")),
            (0, 0, 1, 1)
        );
        assert_eq!(misplaced("crates/lab/src/lib.rs", "#![allow(unsafe_code)]\nmod kernel;\n").len(), 1);
    }

    #[test]
    fn what_is_ignored_says_how_it_is_run() {
        let of = |line: &str| ignored("crates/lab/tests/cells.rs", &format!("    {line}\n")).len();
        assert_eq!(of("#[ignore = \"minutes: cargo test -p linger-lab --test cells -- --ignored\"]"), 0);
        assert_eq!(of("#[ignore = \"no test, but the program that the others start\"]"), 0);
        assert_eq!((of("#[ignore]"), of("#[ignore = \"slow\"]")), (1, 1));
    }

    #[test]
    fn a_skip_names_what_setup_knows() {
        let of = |line: &str| skipped("crates/lab/tests/cells.rs", line).len();
        assert_eq!(
            (of("return skip(\"tshark\", \"it is\")"), of("linger_testing::skip(\"root\", why);")),
            (0, 0)
        );
        assert_eq!((of("skip(\"foreign peers\", why)"), of("eprintln!(\"skipped: no tshark\")")), (1, 1));
    }
}
