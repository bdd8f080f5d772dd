//! Installs what the tests talk to.

use std::process::Command;

use crate::call;

/// Debian packages, each with what needs it.
const DEBIAN: &[(&str, &str)] = &[
    ("tshark", "opens the lab's captures"),
    ("python3", "small servers and clients in tests"),
    ("curl", "a client nobody here wrote"),
];

pub(crate) fn run() -> anyhow::Result<()> {
    let missing: Vec<&(&str, &str)> = DEBIAN.iter().filter(|(package, _)| !is_installed(package)).collect();
    if missing.is_empty() {
        println!("setup: everything is installed");
        return Ok(());
    }
    for (package, why) in &missing {
        println!("setup: {package} is missing: {why}");
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    if !rustix::process::geteuid().is_root() {
        println!(
            "setup: not root, so nothing is installed and the tests that need it are skipped; as root:\n  \
             apt-get install --no-install-recommends {}",
            names.join(" ")
        );
        return Ok(());
    }
    if Command::new("apt-get").arg("--version").output().is_err() {
        println!("setup: no apt-get here: install these by other means, or their tests are skipped");
        return Ok(());
    }
    call(Command::new("apt-get").args(["update", "--quiet"]))?;
    // Servers must not be started by their installation: tests start their own.
    call(
        Command::new("apt-get")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(&names)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1"),
    )
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Abbrev}", package])
        .output()
        .is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"ii"))
}
