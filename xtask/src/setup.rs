//! Installs what the tests need, and records what this machine lacks.
//!
//! A test may skip only for a need that is recorded as missing; any other skip fails (`linger_testing::skip`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::Context;

use crate::{call, machine, package, programs, root};

/// Debian packages, each with what needs it.
const DEBIAN: &[(&str, &str)] = &[
    ("tshark", "opens the lab's captures"),
    ("python3", "small servers and clients in tests"),
    ("curl", "a client nobody here wrote"),
    ("wget", "the same"),
    ("nginx-light", "a gateway, and a server that lingers when told to"),
    ("apache2", "a gateway (mod_proxy_fcgi), and a server that lingers"),
    ("libapache2-mod-fcgid", "a gateway that writes its whole request before it reads"),
    ("apache2-utils", "ab, which loads the FastCGI bench and replays a report of 2014"),
    ("lighttpd", "a gateway, and a server that lingers"),
    ("uwsgi-core", "an application server that resets"),
    ("uwsgi-plugin-python3", "what uWSGI runs"),
    ("php-fpm", "an application that drains without a bound"),
    ("dokuwiki", "a PHP application with forms, uploads and no database"),
    ("libfcgi-bin", "cgi-fcgi, a gateway"),
    ("libfcgi-dev", "the FastCGI library of the specification's authors"),
    ("gcc", "builds the libfcgi application"),
    ("strace", "makes single system calls fail"),
    ("iptables", "the kernel's connection tracking, beside the lab's middlebox"),
    ("iproute2", "ip and tc, which make links slow or lossy"),
    ("util-linux", "prlimit, unshare and setpriv, which make a machine poor"),
    ("g++", "builds libFuzzer"),
    ("default-jdk-headless", "a Java server under the supervisor"),
    ("bash", "a client that is one process, and completes words"),
    ("fish", "completes words"),
    ("zsh", "completes words"),
    ("haproxy", "a server of the matrix"),
    ("varnish", "a server of the matrix"),
    ("caddy", "a server of the matrix"),
    ("nodejs", "a server of the matrix"),
    ("golang-go", "a server of the matrix, a FastCGI peer of the bench, and a static program"),
    ("musl-tools", "builds a static program with another C library"),
    ("python3-venv", "holds the servers from PyPI"),
    ("protobuf-compiler", "builds tonic's own tests"),
    ("tcptrace", "what the diagnosis is measured against"),
    ("tcpdump", "the same, and records labelled captures"),
    ("chromium", "opens the page of `linger why`"),
    ("gzip", "compresses captures in tests"),
    ("zstd", "the same"),
    ("xz-utils", "the same"),
    ("bzip2", "the same"),
    ("lz4", "the same"),
    ("openssl", "a TLS peer nobody here wrote"),
    ("prometheus", "scrapes the exporter"),
    ("systemd", "systemd-analyze, which checks the unit"),
    ("docker.io", "an engine with its default profile, in which programs run supervised"),
    ("iperf3", "the transfer's bench: what the link can do"),
    ("netcat-openbsd", "the transfer's bench: nc, and tar | nc"),
    ("rsync", "the transfer's bench: the daemon"),
    ("vim", "the transfer's editor snippets"),
    ("emacs-nox", "the transfer's editor snippets"),
    ("openssh-client", "the transfer's bench: scp"),
    ("openssh-server", "the transfer's bench: scp"),
    ("wrk", "loads the benches of the close and of run"),
];

/// Packages from PyPI, as Debian has them too old or not at all, each with the name of its program.
const PYPI: [(&str, &str); 4] = [
    ("gunicorn", "gunicorn"),
    ("waitress", "waitress-serve"),
    ("uvicorn", "uvicorn"),
    ("kubernetes-validate", "kubernetes-validate"),
];

/// Packages whose own test suites are run under the supervisor. Their source archives contain the suites.
const SUITES: [&str; 2] = ["gunicorn", "waitress"];

/// HTTP clients from PyPI, as `crates/linger/tests/clients` runs them, each module with what pip installs for it.
const CLIENTS: [(&str, &str); 4] =
    [("requests", "requests"), ("urllib3", "urllib3"), ("httpx", "httpx[http2]"), ("aiohttp", "aiohttp")];

/// What decodes OpenTelemetry's protocol, apart from this program: each module with what pip installs for it.
const COLLECTOR: [(&str, &str); 2] =
    [("opentelemetry.proto.collector.logs.v1.logs_service_pb2", "opentelemetry-proto"), ("grpc", "grpcio")];

/// HTTP clients that are built into `target/peers/clients`, each with the package that builds it.
const BUILT: [(&str, &str); 2] = [("go", "golang-go"), ("Client.class", "default-jdk-headless")];

/// Packages that the suites need.
const SUITES_NEED: [&str; 3] = ["pytest", "pytest-asyncio", "gevent"];

/// Subcommands of cargo that `cargo xtask test` calls, with the reason.
const CARGO: [(&str, &str); 3] = [
    ("cargo-nextest", "runs each test in a process of its own, and ends those that hang"),
    ("cargo-hack", "checks each feature alone"),
    ("cargo-deny", "checks licences and duplicate dependencies"),
];

/// The record that `linger_testing::skip` reads: one `need: why` per line.
pub(crate) fn missing_file() -> PathBuf {
    root().join("target/missing-for-tests")
}

/// What this machine lacks, as it was recorded: one `need: why` each.
pub(crate) fn missing() -> Vec<String> {
    let text = fs::read_to_string(missing_file()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Prints that something is skipped. An error unless it is recorded as missing.
pub(crate) fn allowed(need: &str) -> anyhow::Result<()> {
    let known = missing().into_iter().find(|line| line.starts_with(&format!("{need}: ")));
    let known = known.with_context(|| format!("{need} is not installed: run `cargo xtask setup`"))?;
    println!("skipped, as set-up has found it missing: {known}");
    Ok(())
}

/// Installs what its tests need, unless it is there.
type Installation = fn() -> anyhow::Result<()>;

pub(crate) fn run() -> anyhow::Result<()> {
    // A package that cannot be installed is recorded below as missing. It must not prevent the others from being installed.
    // Debian's come first: the others need its Python, Go and Java. Those wait for the network most of the time, and not for each other.
    let debian = ("Debian", debian());
    // Nobody needs the processors meanwhile, so the programs are compiled.
    let others: [(&str, Installation); 6] = [
        ("PyPI", pypi),
        ("clients", clients),
        ("cargo", cargo_subcommands),
        ("rustup", compilers),
        ("crates", package::fetch),
        ("programs", programs::compile_all),
    ];
    let others = thread::scope(|scope| {
        let started = others.map(|(what, install)| (what, scope.spawn(install)));
        started.map(|(what, one)| (what, one.join().expect("it returns its errors")))
    });
    let all = [debian].into_iter().chain(others);
    for (what, installed) in all {
        if let Err(error) = installed {
            println!("setup: {what}: {error:#}");
        }
    }
    record()
}

/// Records what this machine lacks.
fn record() -> anyhow::Result<()> {
    let missing = find_missing();
    let file = missing_file();
    fs::create_dir_all(root().join("target"))?;
    fs::write(&file, missing.iter().map(|line| format!("{line}\n")).collect::<String>())
        .with_context(|| file.display().to_string())?;
    if missing.is_empty() {
        println!("setup: everything that the tests use is here");
    }
    for line in missing {
        println!("setup: missing, so that its tests may be skipped: {line}");
    }
    Ok(())
}

/// For a checkout in which nobody has run the set-up, which needs root: records what is missing, and installs nothing.
/// A record that is there already is kept, so that what goes missing after a set-up is a failure.
pub(crate) fn record_at_first() -> anyhow::Result<()> {
    if missing_file().exists() {
        return Ok(());
    }
    println!("setup: `cargo xtask setup` was not run here; without it, what is missing is skipped");
    record()
}

/// The names that tests may pass to `skip`.
pub(crate) fn needs() -> impl Iterator<Item = &'static str> {
    let packages = DEBIAN.iter().chain(&PYPI).map(|(package, _)| *package);
    let collector = COLLECTOR.map(|(_, package)| package);
    packages.chain(CLIENTS.map(|(module, _)| module)).chain(collector).chain(machine::needs())
}

fn find_missing() -> Vec<String> {
    let peers = root().join("target/peers");
    let debian = DEBIAN.iter().filter(|(package, _)| !is_installed(package));
    let mut missing: Vec<String> = debian.map(|(package, why)| format!("{package}: {why}")).collect();
    let pypi = PYPI.iter().filter(|(_, program)| !peers.join("python/bin").join(program).is_file());
    missing.extend(pypi.map(|(package, _)| format!("{package}: it could not be installed from PyPI")));
    let suites = SUITES.iter().filter(|name| !peers.join("suites").join(name).is_dir());
    missing.extend(suites.map(|name| format!("{name}, its suite: it could not be fetched from PyPI")));
    let clients = CLIENTS.iter().filter(|(module, _)| !has_module(&peers, module));
    missing.extend(clients.map(|(name, _)| format!("{name}: it could not be installed from PyPI")));
    let collector = COLLECTOR.iter().filter(|(module, _)| !has_module(&peers, module));
    missing.extend(collector.map(|(_, package)| format!("{package}: it could not be installed from PyPI")));
    let built = BUILT.iter().filter(|(file, _)| !peers.join("clients").join(file).is_file());
    missing.extend(built.map(|(file, package)| format!("{package}: the client {file} could not be built")));
    let subcommands = CARGO.iter().filter(|(name, _)| !has_subcommand(name));
    missing.extend(subcommands.map(|(name, why)| format!("{name}: {why}")));
    let compilers = COMPILERS.iter().filter(|(version, _)| !has_compiler(version));
    missing.extend(compilers.map(|(version, why)| format!("rust {version}: the oldest compiler, of {why}")));
    let targets = TARGETS.into_iter().filter(|target| !has_target(target));
    missing.extend(targets.map(|target| format!("rust for {target}: its standard library")));
    missing.extend(machine::missing());
    missing
}

/// Whether cargo finds a subcommand, `cargo-hack` for example.
pub(crate) fn has_subcommand(name: &str) -> bool {
    let verb = name.trim_start_matches("cargo-");
    crate::cargo(&[verb, "--version"]).output().is_ok_and(|output| output.status.success())
}

/// The systems for which `linger` is compiled, one of each kind: no line of it asks for a processor or for Windows's C library. Checking
/// needs no linker and no C compiler of theirs.
pub(crate) const TARGETS: [&str; 3] =
    ["x86_64-apple-darwin", "x86_64-pc-windows-msvc", "x86_64-unknown-freebsd"];

/// The oldest compilers that the manifests promise (`rust-version`), with what they are for. On most machines the second is the
/// one that builds.
const COMPILERS: [(&str, &str); 2] =
    [("1.85", "the published crates, for Debian 13"), (env!("CARGO_PKG_RUST_VERSION"), "all other crates")];

/// Whether the present compiler has this version.
pub(crate) fn is_built_with(version: &str) -> bool {
    let output = Command::new("rustc").arg("--version").output();
    output.is_ok_and(|output| is_version(&String::from_utf8_lossy(&output.stdout), version))
}

/// Whether a compiler is there: the present one, or another of rustup's.
pub(crate) fn has_compiler(version: &str) -> bool {
    if is_built_with(version) {
        return true;
    }
    let mut rustc = Command::new("rustc");
    let output = rustc.args([&format!("+{version}"), "--version"]).output();
    // Without rustup before it, rustc takes no notice of the first word.
    output.is_ok_and(|output| is_version(&String::from_utf8_lossy(&output.stdout), version))
}

/// Whether a compiler that says this of itself has a version, told to the minor or to the patch.
fn is_version(said: &str, version: &str) -> bool {
    let own = said.strip_prefix("rustc ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    own.strip_prefix(version).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether the standard library of a system is there, for the present compiler.
pub(crate) fn has_target(target: &str) -> bool {
    let output = Command::new("rustc").args(["--target", target, "--print", "target-libdir"]).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn compilers() -> anyhow::Result<()> {
    for (version, _) in COMPILERS.iter().filter(|(version, _)| !has_compiler(version)) {
        let words = ["toolchain", "install", "--profile", "minimal", "--no-self-update", version];
        call(Command::new("rustup").args(words))?;
    }
    let targets: Vec<_> = TARGETS.into_iter().filter(|target| !has_target(target)).collect();
    if targets.is_empty() {
        return Ok(());
    }
    call(Command::new("rustup").args(["target", "add"]).args(targets))
}

fn cargo_subcommands() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        CARGO.iter().map(|(name, _)| *name).filter(|name| !has_subcommand(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    call(crate::cargo(&["install", "--locked"]).args(&missing))
}

/// Installs into `target/peers/python` and `target/peers/suites`, without touching the system's packages.
fn pypi() -> anyhow::Result<()> {
    let peers = root().join("target/peers");
    let (folder, suites) = (peers.join("python"), peers.join("suites"));
    let groups = [
        PYPI.map(|(package, _)| package).to_vec(),
        SUITES_NEED.to_vec(),
        CLIENTS.map(|(_, package)| package).to_vec(),
        COLLECTOR.map(|(_, package)| package).to_vec(),
    ];
    let is_there = PYPI.iter().all(|(_, program)| folder.join("bin").join(program).is_file())
        && CLIENTS.iter().chain(&COLLECTOR).all(|(module, _)| has_module(&peers, module));
    let lack: Vec<&&str> = SUITES.iter().filter(|name| !suites.join(name).is_dir()).collect();
    let mut installed = Ok(());
    if !is_there || !lack.is_empty() {
        if !Command::new("python3")
            .args(["-c", "import ensurepip"])
            .output()
            .is_ok_and(|output| output.status.success())
        {
            anyhow::bail!("no python3 with venv, so not {}", groups.concat().join(", "));
        }
        call(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        let install = |packages: &[&str]| call(pip(&folder).args(["install", "--quiet"]).args(packages));
        if install(&groups.concat()).is_err() {
            // What cannot be had must not prevent the others from being installed.
            installed = groups.iter().map(|group| install(group)).fold(Ok(()), anyhow::Result::and);
        }
    }
    let unpacked = thread::scope(|scope| {
        let unpacked: Vec<_> =
            lack.into_iter().map(|name| scope.spawn(|| suite(pip(&folder), name, &suites))).collect();
        unpacked.into_iter().try_for_each(|one| one.join().expect("it returns its errors"))
    });
    installed.and(unpacked)
}

fn pip(folder: &Path) -> Command {
    Command::new(folder.join("bin/pip"))
}

fn has_module(peers: &Path, name: &str) -> bool {
    let mut python = Command::new(peers.join("python/bin/python3"));
    python.args(["-c", &format!("import {name}")]).output().is_ok_and(|output| output.status.success())
}

/// Builds the clients of the tests that are programs. What cannot be built is recorded as missing.
fn clients() -> anyhow::Result<()> {
    let (folder, sources) = (root().join("target/peers/clients"), root().join("crates/linger/tests/clients"));
    if BUILT.iter().all(|(file, _)| folder.join(file).is_file()) {
        return Ok(());
    }
    fs::create_dir_all(&folder)?;
    let go =
        call(Command::new("go").args(["build", "-o"]).arg(folder.join("go")).arg(sources.join("client.go")));
    let java = call(Command::new("javac").arg("-d").arg(&folder).arg(sources.join("Client.java")));
    go.and(java)
}

/// Unpacks the source archive of the installed version, so that the suite fits it.
fn suite(mut pip: Command, name: &str, suites: &Path) -> anyhow::Result<()> {
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
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let line = format!("apt-get install --no-install-recommends {}", names.join(" "));
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "not root, so nothing is installed; as root: {line}"
    );
    anyhow::ensure!(
        Command::new("apt-get").arg("--version").output().is_ok(),
        "no apt-get here: install these by other means: {}",
        names.join(" ")
    );
    call(Command::new("apt-get").args(["update", "--quiet"]))?;
    if apt_install(&names).is_err() {
        // One by one: a package that this distribution lacks must not prevent the others from being installed.
        for name in &names {
            if let Err(error) = apt_install(&[name]) {
                println!("setup: {error:#}");
            }
        }
    }
    Ok(())
}

fn apt_install(names: &[&str]) -> anyhow::Result<()> {
    // Prevent packages from starting their servers; tests start their own.
    call(
        Command::new("apt-get")
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(names)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_takes_no_notice_of_the_version_is_not_that_version() {
        let said = "rustc 1.95.0 (59807616e 2026-04-14)\n";
        assert!(is_version(said, "1.95") && is_version(said, "1.95.0"));
        assert!(!is_version(said, "1.85") && !is_version(said, "1.9") && !is_version("", "1.95"));
    }
}
