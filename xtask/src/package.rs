//! `cargo xtask test package`: the archives of the published crates, tested as users get them.
//!
//! Each archive is unpacked into an empty folder, where nothing of the workspace is in reach. Certain files have to be in
//! the archive. For the crates that can be tested alone, the tests and the examples of the documentation run there. Then a
//! new project is made of the archives, by the README of `linger` and nothing else, and stock clients talk to its server
//! ([`crate::packaged`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::workspace::{Package, packages};
use crate::{call, cargo, packaged, root};

/// The crates of which an archive can be tested alone. Others are only looked at: `linger-fastcgi` needs this workspace for its tests.
const TESTED: [&str; 2] = ["linger-sys", "linger"];

/// The README promises a server in fewer lines than this.
const LINES: usize = 30;

pub(crate) fn check(all: &[&Package]) -> anyhow::Result<()> {
    let published: Vec<&&Package> = all.iter().filter(|package| package.is_published).collect();
    let folder = tempfile::tempdir()?;
    archive(&published, folder.path())?;
    for package in &published {
        complete(&unpacked(folder.path(), package))?;
    }
    patch(folder.path(), &published, |package| unpacked(folder.path(), package))?;
    let in_archive = |package: &Package, words: &[&str]| {
        let mut command = cargo(&["test", "--quiet", "--offline", "--all-features"]);
        call(lean(command.args(words).current_dir(unpacked(folder.path(), package))))
    };
    for package in published.iter().filter(|package| TESTED.contains(&package.name.as_str())) {
        // Some tests fork, and a child has the fds of every other thread's test until it ends: one test at a time.
        let alone: &[&str] = if package.name == "linger-sys" { &["--", "--test-threads=1"] } else { &[] };
        in_archive(package, &[&["--lib", "--examples"], alone].concat())?;
        in_archive(package, &["--doc"])?;
    }
    let linger = published.iter().find(|package| package.name == "linger").context("no crate `linger`")?;
    let readme = fs::read_to_string(unpacked(folder.path(), linger).join("README.md"))?;
    let project = project(folder.path(), &readme)?;
    call(lean(cargo(&["build", "--quiet", "--offline"]).current_dir(&project)))?;
    packaged::in_a_network_of_its_own(&project, &root().join("target/debug"))
}

/// Fetches what the README's project needs beyond the workspace's own dependencies, for a set-up: there `axum` has its default
/// features. [`check`] needs no network then.
pub(crate) fn fetch() -> anyhow::Result<()> {
    let all = packages(&root().join("Cargo.toml"))?;
    let all: Vec<&Package> = all.iter().collect();
    let published: Vec<&&Package> = all.iter().filter(|package| package.is_published).collect();
    let linger = published.iter().find(|package| package.name == "linger").context("no crate `linger`")?;
    let folder = tempfile::tempdir()?;
    patch(folder.path(), &published, |package| package.folder.clone())?;
    let project = project(folder.path(), &fs::read_to_string(linger.folder.join("README.md"))?)?;
    call(cargo(&["fetch", "--quiet"]).current_dir(&project))
}

/// Packs the crates into `target/package`, and unpacks what came of it.
fn archive(published: &[&&Package], folder: &Path) -> anyhow::Result<()> {
    let mut pack = cargo(&["package", "--quiet", "--offline", "--no-verify", "--allow-dirty"]);
    for package in published {
        pack.args(["--package", &package.name]);
    }
    call(pack.arg("--target-dir").arg(root().join("target")))?;
    for package in published {
        let file = root().join(format!("target/package/{}-{}.crate", package.name, package.version));
        call(
            Command::new("tar")
                .args(["--extract", "--gzip", "--file"])
                .arg(file)
                .arg("--directory")
                .arg(folder),
        )?;
    }
    Ok(())
}

fn unpacked(folder: &Path, package: &Package) -> PathBuf {
    folder.join(format!("{}-{}", package.name, package.version))
}

/// Makes cargo, when it runs below `folder`, find the crates in their folders, as if they had come from the registry.
fn patch(folder: &Path, published: &[&&Package], place: impl Fn(&Package) -> PathBuf) -> anyhow::Result<()> {
    let entry = |package: &&&Package| format!("{} = {{ path = {:?} }}\n", package.name, place(package));
    fs::create_dir_all(folder.join(".cargo"))?;
    let entries: String = published.iter().map(entry).collect();
    // As in the workspace's manifest, or the compiled dependencies could not be shared.
    let profile = "[profile.dev.package.\"*\"]\ndebug = false\n";
    let config = format!("{profile}\n[patch.crates-io]\n{entries}");
    Ok(fs::write(folder.join(".cargo/config.toml"), config)?)
}

/// Shares the workspace's compiled dependencies. They are reused only if the profile is the same, hence the debug setting.
fn lean(command: &mut Command) -> &mut Command {
    command.env("CARGO_TARGET_DIR", root().join("target")).env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
}

/// Checks that the archive has what a distribution or a reader looks for.
fn complete(folder: &Path) -> anyhow::Result<()> {
    for name in ["README.md", "LICENSE-MIT", "LICENSE-APACHE", "Cargo.lock"] {
        let text =
            fs::read_to_string(folder.join(name)).with_context(|| format!("{}: {name}", folder.display()))?;
        ensure!(text.lines().count() > 5, "{} in {} is no text", name, folder.display());
    }
    let manifest = fs::read_to_string(folder.join("Cargo.toml"))?;
    // No `repository`: there is no public address yet (CONTRIBUTING.md, "A release").
    for key in ["documentation", "readme", "rust-version", "keywords", "categories"] {
        let has = manifest.lines().any(|line| line.starts_with(&format!("{key} = ")));
        ensure!(has, "{}: no `{key}` in the manifest", folder.display());
    }
    for path in relative_links(&fs::read_to_string(folder.join("README.md"))?) {
        ensure!(folder.join(path).exists(), "{}: the README's link {path} leads nowhere", folder.display());
    }
    Ok(())
}

/// The files that a Markdown text links to beside it.
fn relative_links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.contains("://") && !target.starts_with('#')).collect()
}

/// Makes a project of the section "The whole of it" in the README of `linger`: its dependencies and its program, letter by
/// letter, and beside it a program without the crate, to compare with. Fails if the README's has [`LINES`] lines or more.
fn project(folder: &Path, readme: &str) -> anyhow::Result<PathBuf> {
    let (_, after) = readme.split_once("\n## The whole of it").context("no such heading in the README")?;
    let (dependencies, main) = (fenced(after, "toml")?, fenced(after, "rust")?);
    let lines = main.lines().filter(|line| !line.trim().is_empty()).count();
    ensure!(lines < LINES, "the README's server has {lines} lines");
    let project = folder.join("project");
    let manifest = "[package]\nname = \"project\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n";
    fs::create_dir_all(project.join("src/bin"))?;
    fs::write(project.join("Cargo.toml"), format!("{manifest}{dependencies}"))?;
    fs::write(project.join("src/main.rs"), main)?;
    fs::write(project.join("src/bin/plain.rs"), include_str!("packaged/plain.rs"))?;
    // With the workspace's lock file, cargo uses the versions that this machine already has.
    fs::copy(root().join("Cargo.lock"), project.join("Cargo.lock"))?;
    Ok(project)
}

/// The first block of a language.
fn fenced<'a>(text: &'a str, language: &str) -> anyhow::Result<&'a str> {
    let (_, block) =
        text.split_once(&format!("\n```{language}\n")).with_context(|| format!("no {language}"))?;
    Ok(block.split_once("\n```").context("a block without an end")?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_files_are_relative() {
        let text = "[a](x/y.rs), [b](https://h/z), [c](#d) and `[e](f)`";
        assert_eq!(relative_links(text), ["x/y.rs", "f"]);
    }

    #[test]
    fn a_block_is_found_by_its_language() {
        let text = "x\n```toml\na = 1\n```\n\n```rust\nfn main() {\n}\n```\n";
        assert_eq!(fenced(text, "toml").unwrap(), "a = 1");
        assert_eq!(fenced(text, "rust").unwrap(), "fn main() {\n}");
        assert!(fenced(text, "c").is_err());
        assert!(fenced("\n```c\nint main;", "c").is_err());
    }
}
