//! Installs what tables name, as much of it as can be had, and says what cannot.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::table::{self, Install};
use crate::{call, cargo};

/// Installs what the tables name. Services are not started: Debian asks `policy-rc.d`, which a container's image has and
/// which is made here where it is missing.
///
/// # Errors
/// Returns an error that lists what could not be installed. Everything else is.
pub(super) fn all(wanted: &[&Install]) -> anyhow::Result<()> {
    let policy = Path::new("/usr/sbin/policy-rc.d");
    anyhow::ensure!(
        policy.exists() || !Path::new("/run/systemd/system").exists(),
        "this machine starts the services that it installs: write a /usr/sbin/policy-rc.d that ends with 101 first"
    );
    let names = |of: fn(&Install) -> &Vec<String>| {
        wanted.iter().flat_map(|one| of(one)).map(String::as_str).collect::<Vec<_>>()
    };
    names(|one| &one.users).into_iter().try_for_each(user)?;
    let folder = table::installed();
    fs::create_dir_all(folder.join("unpacked"))?;
    let mut missing = each("Debian", &names(|one| &one.debian), |names| {
        let mut apt = Command::new("apt-get");
        // What one of them excludes is unpacked: nothing is removed for it.
        apt.args(["install", "--yes", "--no-install-recommends", "--no-remove"]).args(names);
        call(apt.env("DEBIAN_FRONTEND", "noninteractive"))
    });
    for package in names(|one| &one.unpack) {
        let to = folder.join("unpacked").join(package);
        if !to.is_dir()
            && let Err(why) = unpack(package, &to)
        {
            missing.push(format!("{package} (Debian): {why:#}"));
        }
    }
    call(Command::new("python3").args(["-m", "venv"]).arg(folder.join("python")))?;
    missing.extend(each("PyPI", &names(|one| &one.pypi), |names| {
        call(Command::new(folder.join("python/bin/pip")).args(["install", "--quiet"]).args(names))
    }));
    missing.extend(each("npm", &names(|one| &one.npm), |names| {
        call(Command::new("npm").arg("install").arg("--prefix").arg(folder.join("node")).args(names))
    }));
    missing.extend(each("crates.io", &names(|one| &one.cargo), |names| {
        names.iter().try_for_each(|name| {
            let manifest = table::folder().join(name).join("Cargo.toml");
            let mut build = cargo(&["build", "--quiet", "--release", "--locked", "--manifest-path"]);
            call(build.arg(manifest).arg("--target-dir").arg(folder.join(name)))
        })
    }));
    anyhow::ensure!(missing.is_empty(), "not installed:\n{}", missing.join("\n"));
    Ok(())
}

/// Installs packages at once, or each alone if that fails. Returns those that cannot be had, with the reason.
fn each(registry: &str, names: &[&str], install: impl Fn(&[&str]) -> anyhow::Result<()>) -> Vec<String> {
    if names.is_empty() || install(names).is_ok() {
        return Vec::new();
    }
    let alone = |name: &&str| install(&[*name]).err().map(|why| format!("{name} ({registry}): {why:#}"));
    names.iter().filter_map(alone).collect()
}

fn unpack(package: &str, to: &Path) -> anyhow::Result<()> {
    let archive = tempfile::tempdir()?;
    call(Command::new("apt-get").args(["download", package]).current_dir(archive.path()))?;
    let file = fs::read_dir(archive.path())?.next().context("apt-get has downloaded nothing")??.path();
    call(Command::new("dpkg").arg("-x").arg(file).arg(to))
}

fn user(name: &str) -> anyhow::Result<()> {
    if Command::new("id").arg(name).output()?.status.success() {
        return Ok(());
    }
    // vsftpd goes to the folder before it goes to its own.
    let words = ["--system", "--no-create-home", "--home-dir", "/", "--shell", "/usr/sbin/nologin", name];
    call(Command::new("useradd").args(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_package_that_cannot_be_had_does_not_keep_the_others_out() {
        let installed = std::cell::RefCell::new(Vec::new());
        let install = |names: &[&str]| {
            anyhow::ensure!(!names.contains(&"none"), "there is none");
            installed.borrow_mut().extend(names.iter().map(|name| (*name).to_owned()));
            Ok(())
        };
        assert_eq!(each("here", &["a", "none", "b"], install), ["none (here): there is none"]);
        assert_eq!(*installed.borrow(), ["a", "b"]);
        assert!(each("here", &["c", "d"], install).is_empty());
        assert_eq!(*installed.borrow(), ["a", "b", "c", "d"]);
    }
}
