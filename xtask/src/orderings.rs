//! `cargo xtask mutants orderings`: does a loom model fail for each memory ordering that is weakened?
//!
//! In a copy of the sources each `Acquire`, `Release`, `AcqRel` and `SeqCst` of a crate that has loom models is replaced by
//! each ordering that is weaker by one step, one at a time, and the crate's models are run. If all of them pass, no model
//! demands the stronger ordering. Locks and notifications name no ordering: `docs/mutants/linger.md` is about those.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use anyhow::Context;

use crate::workspace::{find_sources, packages};
use crate::{cargo, root, shown};

/// The argument of `cargo xtask mutants` in place of a crate's name.
pub(crate) const WORD: &str = "orderings";

/// One ordering in a source file, and the weaker one that replaces it.
#[derive(Debug, PartialEq, Eq)]
struct Weakened {
    /// Counted from 1.
    line: usize,
    from: &'static str,
    to: &'static str,
    /// The whole text of the file with the weaker ordering.
    source: String,
}

/// Each ordering, and those that are weaker by one step.
const WEAKER: [(&str, &[&str]); 4] = [
    ("SeqCst", &["AcqRel", "Acquire", "Release"]),
    ("AcqRel", &["Acquire", "Release"]),
    ("Acquire", &["Relaxed"]),
    ("Release", &["Relaxed"]),
];

pub(crate) fn run() -> anyhow::Result<()> {
    let copy = copy_of_the_sources()?;
    let (mut found, mut survivors) = (0, Vec::new());
    for package in packages(&copy.join("Cargo.toml"))? {
        if !fs::read_to_string(package.folder.join("Cargo.toml"))?.contains("cfg(loom)") {
            continue;
        }
        let started = Instant::now();
        let unchanged = models(&copy, &package.name)?;
        anyhow::ensure!(
            unchanged.status.success(),
            "the models of {} fail as they are:\n{}",
            package.name,
            String::from_utf8_lossy(&unchanged.stdout)
        );
        println!("{}: the models pass ({:.0?})", package.name, started.elapsed());
        let mut files = Vec::new();
        find_sources(&package.folder.join("src"), &mut files)?;
        files.sort();
        for file in files.iter().filter(|file| !is_of_models(file)) {
            let source = fs::read_to_string(file)?;
            for weakened in weaken(&source) {
                let name = file.strip_prefix(&copy).unwrap_or(file).display();
                let change = format!("{name}:{}: {} as {}", weakened.line, weakened.from, weakened.to);
                fs::write(file, &weakened.source)?;
                let failed = failed_models(&models(&copy, &package.name)?);
                fs::write(file, &source)?;
                match failed.with_context(|| format!("{change} does not compile"))?[..] {
                    [] => survivors.push(change),
                    ref failed => {
                        found += 1;
                        println!("{change}: {}", failed.join(", "));
                    }
                }
            }
        }
    }
    println!("{found} weaker orderings fail a model, {} do not", survivors.len());
    anyhow::ensure!(survivors.is_empty(), "no model fails for\n{}", survivors.join("\n"));
    Ok(())
}

/// Copies what git knows of, so that a run that is cut leaves the work tree alone.
fn copy_of_the_sources() -> anyhow::Result<PathBuf> {
    let copy = root().join("target/orderings/tree");
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().context("git")?;
    anyhow::ensure!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
    for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
        let to = copy.join(name);
        let content = fs::read(root().join(name));
        // An unchanged file keeps its time, so that it is not compiled again.
        match content {
            Ok(content) if fs::read(&to).is_ok_and(|there| there == content) => {}
            Ok(content) => {
                fs::create_dir_all(to.parent().unwrap_or(&copy))?;
                fs::write(&to, content).with_context(|| to.display().to_string())?;
            }
            // Removed from the work tree, not from git yet.
            Err(_) => drop(fs::remove_file(&to)),
        }
    }
    Ok(copy)
}

/// Whether a source file holds the models themselves, or other tests.
fn is_of_models(file: &Path) -> bool {
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    name == "loom" || name == "tests" || name.ends_with("_tests") || name.ends_with("_models")
}

fn models(tree: &Path, package: &str) -> anyhow::Result<Output> {
    let mut command = cargo(&["test", "--quiet", "--release", "--lib", "--package", package, "loom_"]);
    command
        .current_dir(tree)
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", root().join("target/orderings/target"));
    command.output().with_context(|| shown(&command))
}

/// The models that failed. An error if no test binary ran, as when the crate does not compile, or if the list of failures
/// contradicts the exit status.
fn failed_models(output: &Output) -> anyhow::Result<Vec<String>> {
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(said.contains("test result: "), "{}", String::from_utf8_lossy(&output.stderr));
    // The list of failures: four spaces, and the test's path.
    let names = said.lines().filter_map(|line| line.strip_prefix("    ")?.rsplit_once("::"));
    let mut failed: Vec<String> =
        names.filter(|(_, name)| name.starts_with("loom_")).map(|(_, name)| name.to_owned()).collect();
    failed.sort();
    failed.dedup();
    anyhow::ensure!(failed.is_empty() == output.status.success(), "{said}");
    Ok(failed)
}

/// The source with one weaker ordering each. What is compiled for tests or models only, and comments, stay.
fn weaken(source: &str) -> Vec<Weakened> {
    let mut found = Vec::new();
    let mut start = 0;
    for (number, line) in source.split_inclusive('\n').enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if code.starts_with("#[cfg(")
            && (code.contains("test") || code.contains("loom"))
            && is_module(source, start)
        {
            break;
        }
        if !code.trim_start().starts_with("use ") && !code.trim_start().starts_with("pub(crate) use ") {
            for (from, weaker) in WEAKER {
                for at in words(code, from) {
                    for to in weaker {
                        let at = start + at;
                        let source = [&source[..at], to, &source[at + from.len()..]].concat();
                        found.push(Weakened { line: number + 1, from, to, source });
                    }
                }
            }
        }
        start += line.len();
    }
    found
}

/// Whether the attribute at this place belongs to a module with a body. Those stand at the end of a file.
fn is_module(source: &str, at: usize) -> bool {
    let item = source[at..].lines().find(|line| !line.starts_with('#'));
    item.is_some_and(|item| item.starts_with("mod ") && item.ends_with('{'))
}

/// Where this ordering stands as a word of its own that is passed to a function: `Kind::Release` is another thing.
fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let (before, after) = (&code[..*at], &code[at + word.len()..]);
        let path = before.strip_suffix("::");
        path.map_or(before.ends_with([' ', '(']), |path| path.ends_with("Ordering"))
            && after.starts_with([')', ',', ';'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(source: &str) -> Vec<(usize, &'static str, &'static str)> {
        weaken(source).into_iter().map(|one| (one.line, one.from, one.to)).collect()
    }

    #[test]
    fn each_ordering_is_weakened_alone() {
        let source = "a.load(Acquire);\na.compare_exchange(x, y, AcqRel, Ordering::Acquire);\n";
        let found = [
            (1, "Acquire", "Relaxed"),
            (2, "AcqRel", "Acquire"),
            (2, "AcqRel", "Release"),
            (2, "Acquire", "Relaxed"),
        ];
        assert_eq!(changes(source), found);
        assert_eq!(
            weaken(source)[3].source,
            "a.load(Acquire);\na.compare_exchange(x, y, AcqRel, Ordering::Relaxed);\n"
        );
    }

    #[test]
    fn what_is_no_ordering_of_the_code_stays() {
        for source in [
            "// Acquire, for the Release\n",
            "a.load(Relaxed); // not (Acquire)\n",
            "use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};\n",
            "self.act(Action::Release(cookie));\n",
            "say(Kind::Release, cookie);\n",
            "#[cfg(all(test, loom))]\nmod models {\n    a.load(Acquire);\n}\n",
        ] {
            assert_eq!(changes(source), [], "{source}");
        }
        assert_eq!(changes("#[cfg(loom)]\nuse a;\na.load(Acquire);\n").len(), 1);
    }

    #[test]
    fn the_failed_models_are_read() {
        use std::os::unix::process::ExitStatusExt as _;
        let output = |code, said: &str| Output {
            status: std::process::ExitStatus::from_raw(code << 8),
            stdout: said.into(),
            stderr: Vec::new(),
        };
        let said = "failures:\n    a::loom::loom_one\n    a::loom::loom_two\n\ntest result: FAILED. 1 passed";
        assert_eq!(failed_models(&output(101, said)).unwrap(), ["loom_one", "loom_two"]);
        assert!(failed_models(&output(0, "test result: ok. 14 passed")).unwrap().is_empty());
        assert!(failed_models(&output(101, "")).is_err(), "it did not compile");
        assert!(failed_models(&output(101, "test result: FAILED. 1 passed")).is_err());
    }
}
