//! Packages and source files of this workspace.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use crate::cargo;

/// All Rust files below a folder.
pub(crate) fn find_sources(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find_sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The module of a file below a crate's `src`: `src/closer/board.rs` is `closer::board`, `src/closer/mod.rs` is `closer`.
pub(crate) fn module_path(source: &Path, file: &Path) -> String {
    let mut path: PathBuf = file.strip_prefix(source).unwrap_or(file).with_extension("");
    if path.ends_with("mod") {
        path.pop();
    }
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("::")
}

/// A package of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The oldest compiler that its manifest promises.
    pub(crate) oldest: String,
    /// Whether the package may be published.
    pub(crate) is_published: bool,
    /// Integration tests that `cargo test` runs.
    pub(crate) fast: Vec<String>,
    /// Integration tests that it leaves to `cargo xtask test`: `test = false` in the manifest, with the reason.
    pub(crate) guarded: Vec<String>,
    /// Programs and examples.
    pub(crate) programs: Vec<String>,
    /// The examples alone.
    pub(crate) examples: Vec<String>,
    /// Those programs that have tests beside their code.
    pub(crate) tested_programs: Vec<String>,
    /// The root files of the other programs and of the examples: no test of theirs would be run.
    pub(crate) untested: Vec<PathBuf>,
    /// Benches.
    pub(crate) benches: Vec<String>,
    /// Features.
    pub(crate) features: Vec<String>,
    /// The folder of the package.
    pub(crate) folder: PathBuf,
}

/// The packages of a manifest's workspace.
pub(crate) fn packages(manifest: &Path) -> anyhow::Result<Vec<Package>> {
    let mut metadata =
        cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]);
    let output = metadata.arg(manifest).output().context("cargo metadata")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    packages.iter().map(|package| parse(package).context("a package")).collect()
}

fn parse(package: &Value) -> Option<Package> {
    let targets = package["targets"].as_array()?;
    let find = |kinds: &[&str], tested: Option<bool>, what: &str| {
        let wanted = targets.iter().filter(|target| {
            target["kind"]
                .as_array()
                .is_some_and(|own| own.iter().any(|kind| kinds.iter().any(|one| kind == one)))
                && tested.is_none_or(|tested| target["test"] == tested)
        });
        wanted.filter_map(|target| Some(target[what].as_str()?.to_owned())).collect::<Vec<_>>()
    };
    let of = |kinds: &[&str], tested| find(kinds, tested, "name");
    let untested = find(&["bin", "example"], Some(false), "src_path");
    Some(Package {
        name: package["name"].as_str()?.to_owned(),
        version: package["version"].as_str()?.to_owned(),
        oldest: package["rust_version"].as_str()?.to_owned(),
        // In the metadata `publish = false` is an empty list, and an absent key is null.
        is_published: package["publish"].is_null(),
        fast: of(&["test"], Some(true)),
        guarded: of(&["test"], Some(false)),
        programs: of(&["bin", "example"], None),
        examples: of(&["example"], None),
        tested_programs: of(&["bin"], Some(true)),
        untested: untested.into_iter().map(PathBuf::from).collect(),
        benches: of(&["bench"], None),
        features: package["features"].as_object()?.keys().cloned().collect(),
        folder: Path::new(package["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}
