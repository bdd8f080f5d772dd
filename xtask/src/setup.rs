//! Installs what the tests talk to.

use std::fs;
use std::process::Command;

use anyhow::Context;

use crate::call;

/// Debian packages, each with what needs it.
const DEBIAN: &[(&str, &str)] = &[
    ("tshark", "opens the lab's captures"),
    ("python3", "small servers and clients in tests"),
    ("curl", "a client nobody here wrote"),
    ("nginx-light", "a gateway, and a server that lingers when told to"),
    ("apache2", "a gateway (mod_proxy_fcgi), and a server that lingers"),
    ("apache2-utils", "ab, which loads the FastCGI bench and is the recipe of 2014"),
    ("lighttpd", "a gateway, and a server that lingers"),
    ("uwsgi-core", "an application server that resets"),
    ("uwsgi-plugin-python3", "what uWSGI runs"),
    ("php-fpm", "an application that drains without a bound"),
    ("libfcgi-bin", "cgi-fcgi, a gateway"),
    ("libfcgi-dev", "the FastCGI library of the specification's authors"),
    ("gcc", "builds the libfcgi application"),
    ("haproxy", "a server of the matrix"),
    ("varnish", "a server of the matrix"),
    ("caddy", "a server of the matrix"),
    ("nodejs", "a server of the matrix"),
    ("golang-go", "a server of the matrix, a FastCGI peer of the bench, and a static program"),
    ("musl-tools", "builds a static program with another C library"),
    ("python3-venv", "holds the servers from PyPI"),
    ("tcptrace", "what the diagnosis is measured against"),
    ("tcpdump", "the same, and records labelled captures"),
    ("zstd", "compresses captures in tests"),
    ("openssl", "a TLS peer nobody here wrote"),
    ("prometheus", "scrapes the exporter"),
    ("systemd", "systemd-analyze, which checks the unit"),
    ("iperf3", "the transfer's bench: what the link can do"),
    ("netcat-openbsd", "the transfer's bench: nc, and tar | nc"),
    ("rsync", "the transfer's bench: the daemon"),
    ("vim", "the transfer's editor snippets"),
    ("emacs-nox", "the transfer's editor snippets"),
    ("openssh-client", "the transfer's bench: scp"),
    ("openssh-server", "the transfer's bench: scp"),
    ("wrk", "loads the benches of the close and of run"),
];

/// What Debian has too old or not at all, by the names of package and program: servers, and what checks the DaemonSet.
const PYPI: [(&str, &str); 4] = [
    ("gunicorn", "gunicorn"),
    ("waitress", "waitress-serve"),
    ("uvicorn", "uvicorn"),
    ("kubernetes-validate", "kubernetes-validate"),
];

/// Those whose own test suites run under the supervisor; their source archives hold them.
const SUITES: [&str; 2] = ["gunicorn", "waitress"];

/// What the suites need.
const SUITES_NEED: [&str; 3] = ["pytest", "pytest-asyncio", "gevent"];

pub(crate) fn run() -> anyhow::Result<()> {
    debian()?;
    pypi()
}

/// Installs into `target/peers/python` and `target/peers/suites`, where nothing else is touched.
fn pypi() -> anyhow::Result<()> {
    let peers = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers"));
    let (folder, suites) = (peers.join("python"), peers.join("suites"));
    let pip = || Command::new(folder.join("bin/pip"));
    let packages = PYPI.map(|(package, _)| package);
    if !PYPI.iter().all(|(_, program)| folder.join("bin").join(program).is_file()) {
        if !Command::new("python3")
            .args(["-c", "import ensurepip"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            println!("setup: no python3 with venv: tests and matrix go without {}", packages.join(", "));
            return Ok(());
        }
        call(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        call(pip().args(["install", "--quiet"]).args(packages))?;
    }
    if !SUITES.iter().all(|name| suites.join(name).is_dir()) {
        call(pip().args(["install", "--quiet"]).args(SUITES_NEED))?;
        for name in SUITES {
            suite(pip(), name, &suites)?;
        }
    }
    Ok(())
}

/// Unpacks the source archive of what is installed, so that the suite fits it.
fn suite(mut pip: Command, name: &str, suites: &std::path::Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let shown = Command::new(pip.get_program()).args(["show", name]).output()?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let version = shown.lines().find_map(|line| line.strip_prefix("Version: ")).context("pip show")?;
    let version = format!("{name}=={version}");
    let download = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", &version, "--dest"];
    call(pip.args(download).arg(folder.path()))?;
    let archive = fs::read_dir(folder.path())?.next().context("no source archive")??.path();
    let unpacked = suites.join(name);
    fs::create_dir_all(&unpacked)?;
    let strip = ["--strip-components", "1", "--extract", "--file"];
    call(Command::new("tar").arg("--directory").arg(&unpacked).args(strip).arg(archive))
}

fn debian() -> anyhow::Result<()> {
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
