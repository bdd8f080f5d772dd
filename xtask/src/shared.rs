//! What several builds share. CI builds parts of the workspace alone: `xtask` itself, what other systems get, the recipes. A
//! dependency that such a part needs with other features, or in another version, than a build of all crates is compiled
//! once more, and with it all that depends on it. `crates/testing/Cargo.toml` names the features that keep them alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::{cargo, root};

/// The parts that are to share everything, as arguments of cargo.
const PARTS: [&[&str]; 2] = [
    &["--package", "xtask", "--edges", "normal,build"],
    &["--package", "linger", "--package", "linger-sys", "--all-features"],
];

/// The sentences about what the parts do not share. There should be none.
pub(crate) fn differences() -> anyhow::Result<Vec<String>> {
    let all = resolved(&["--workspace", "--all-features"])?;
    let mut wrong = Vec::new();
    for part in PARTS {
        let own = resolved(part)?;
        wrong.extend(own.difference(&all).map(|what| {
            format!(
                "crates/testing/Cargo.toml: a build of {} alone has `{what}`, and a build of all does not",
                part[1]
            )
        }));
    }
    let (main, recipes) = ("Cargo.lock", "crates/linger/doors/Cargo.lock");
    wrong.extend(drifted(&versions(main)?, &versions(recipes)?).into_iter().map(|(name, ours, theirs)| {
        format!("{recipes}: {name} {theirs}, and {main} has {ours}: copy {main} there, then `cargo metadata` in that folder")
    }));
    Ok(wrong)
}

/// What cargo would compile: `NAME vVERSION FEATURES`, without the workspace's own crates.
fn resolved(part: &[&str]) -> anyhow::Result<BTreeSet<String>> {
    let mut tree = cargo(&["tree", "--locked", "--quiet", "--prefix", "none", "--format", "{p} {f}"]);
    let output = tree.args(part).current_dir(root()).output().context("cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).context("cargo tree")?;
    let lines = text.lines().map(|line| line.trim_end_matches(" (*)"));
    // A path stands behind the version of what comes from no registry.
    Ok(lines.filter(|line| !line.is_empty() && !line.contains(" (/")).map(str::to_owned).collect())
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
}

type Versions = BTreeMap<String, BTreeSet<String>>;

fn versions(path: &str) -> anyhow::Result<Versions> {
    let text = fs::read_to_string(root().join(path)).with_context(|| path.to_owned())?;
    let lock: Lock = toml::from_str(&text).with_context(|| path.to_owned())?;
    let mut versions = Versions::new();
    for package in lock.package {
        versions.entry(package.name).or_default().insert(package.version);
    }
    Ok(versions)
}

/// The packages of which `recipes` has another version than `main`, although either could be the other's.
fn drifted<'a>(main: &'a Versions, recipes: &'a Versions) -> Vec<(&'a str, &'a str, &'a str)> {
    let all = recipes.iter().filter_map(|(name, theirs)| Some((name, theirs, main.get(name)?)));
    let pairs = all.flat_map(|(name, theirs, ours)| {
        theirs.difference(ours).filter_map(move |theirs| {
            let ours = ours.iter().find(|ours| compatible(ours) == compatible(theirs))?;
            Some((name.as_str(), ours.as_str(), theirs.as_str()))
        })
    });
    pairs.collect()
}

/// The part of a version that must agree: up to the first number that is not 0.
fn compatible(version: &str) -> &str {
    let end = version.char_indices().find(|(_, one)| ('1'..='9').contains(one)).map_or(0, |(at, _)| at);
    let rest = version[end..].find('.').unwrap_or(version.len() - end);
    &version[..end + rest]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_agree_up_to_the_first_number_that_counts() {
        for (version, part) in
            [("1.2.3", "1"), ("0.11.2", "0.11"), ("0.0.10", "0.0.10"), ("12.0.0-rc.1", "12"), ("0.3", "0.3")]
        {
            assert_eq!(compatible(version), part);
        }
    }

    #[test]
    fn only_a_version_that_could_be_the_same_has_drifted() {
        let of = |list: &[(&str, &str)]| {
            let mut versions = Versions::new();
            for (name, version) in list {
                versions.entry((*name).to_owned()).or_default().insert((*version).to_owned());
            }
            versions
        };
        let main = of(&[
            ("same", "1.0.1"),
            ("newer", "1.0.1"),
            ("other", "0.8.1"),
            ("two", "1.1.0"),
            ("two", "2.0.0"),
        ]);
        let recipes = of(&[
            ("same", "1.0.1"),
            ("newer", "1.2.0"),
            ("other", "0.9.0"),
            ("two", "2.0.0"),
            ("own", "1.0.0"),
        ]);
        assert_eq!(drifted(&main, &recipes), [("newer", "1.0.1", "1.2.0")]);
    }
}
