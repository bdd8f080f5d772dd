//! What tests need from the machine itself, such as privileges, which no package installs.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use linger_testing::{Isolation, seclude};
use linger_watch::{Filter, Watcher};
use rustix::thread::CapabilitySet;

/// A need by the name that tests pass to `skip`, and a check that returns why the machine does not meet it.
type Need = (&'static str, fn() -> Result<(), String>);

const NEEDS: [Need; 12] = [
    ("private networks", private_networks),
    ("live tracepoints", || Watcher::open(Filter::default()).map(drop).map_err(|error| error.to_string())),
    ("mount namespaces", || works(Command::new("unshare").args(["-rm", "setpriv", "--version"]))),
    ("pid namespaces", pid_namespaces),
    ("seccomp notifications", seccomp_notifications),
    ("scheduling groups of sessions", || file_says("/proc/self/autogroup", "nice")),
    ("Landlock", landlock),
    ("connection tracking", connection_tracking),
    ("two processors", two_processors),
    ("io_uring", io_uring),
    ("root", root),
    ("temporary files for all", temporary_files_for_all),
];

/// The needs that this machine does not meet, one `need: why` per line.
pub(crate) fn missing() -> Vec<String> {
    let refused = NEEDS.iter().filter_map(|(need, check)| Some((need, check().err()?)));
    // A reason may have several lines; the record has one line for each need.
    refused.map(|(need, why)| format!("{need}: {}", why.replace('\n', " "))).collect()
}

/// The names that tests may pass to `skip`.
pub(crate) fn needs() -> impl Iterator<Item = &'static str> {
    NEEDS.iter().map(|(need, _)| *need)
}

fn seccomp_notifications() -> Result<(), String> {
    file_says("/proc/sys/kernel/seccomp/actions_avail", "user_notif")
}

fn landlock() -> Result<(), String> {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let rules = wanted.handle_access(AccessFs::Execute).and_then(Ruleset::create);
    rules.map(drop).map_err(|error| error.to_string())
}

fn file_says(path: &str, word: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut words = text.split([' ', ',', '\n']);
    if words.any(|one| one == word) { Ok(()) } else { Err(format!("{path} has no {word}")) }
}

/// A container's filter mostly forbids it.
fn io_uring() -> Result<(), String> {
    match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled") {
        Ok(text) if text.trim() != "0" => Err("kernel.io_uring_disabled is set".to_owned()),
        _ => file_says("/proc/self/status", "Seccomp:\t0"),
    }
}

fn connection_tracking() -> Result<(), String> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
    std::fs::metadata(path).map(drop).map_err(|error| format!("{path}: {error}"))
}

fn two_processors() -> Result<(), String> {
    let count = std::thread::available_parallelism().map_err(|error| error.to_string())?;
    if count.get() > 1 { Ok(()) } else { Err("there is one".to_owned()) }
}

fn private_networks() -> Result<(), String> {
    let mut command = Command::new("true");
    Isolation::prepare().enter_before_exec(&mut command);
    works(&mut command)
}

/// Whether PID namespaces can be made as the tests make them: with a network and a `/proc` of their own.
fn pid_namespaces() -> Result<(), String> {
    let mut command = Command::new("true");
    Isolation::prepare().enter_before_exec(&mut command);
    seclude(&mut command);
    works(&mut command)
}

/// Whether the tests run as root: some servers change their user, and some files need an owner of their own.
fn root() -> Result<(), String> {
    let effective = rustix::thread::capabilities(None).map_err(|error| error.to_string())?.effective;
    let is_root = rustix::process::geteuid().is_root() && effective.contains(CapabilitySet::SYS_ADMIN);
    if is_root { Ok(()) } else { Err("these tests are run by another user".to_owned()) }
}

fn temporary_files_for_all() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let parent = folder.path().parent().unwrap_or(folder.path());
    works(Command::new("ls").arg(parent).uid(65_534).stdout(Stdio::null()))
}

fn works(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", output.status, said.trim())) }
}
