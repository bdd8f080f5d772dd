//! The folder of a set-up, its program, and when it listens.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::table::{self, Setup};

/// The port of every set-up. Each run has a network namespace of its own.
pub(crate) const PORT: u16 = 8000;

/// How long a start or a reload may take. A JVM beside other load takes several seconds to start.
pub(super) const START: Duration = Duration::from_secs(60);

/// The folder of a run, with all applications in it.
#[derive(Debug)]
pub(super) struct SetupFolder {
    pub(super) folder: TempDir,
    pub(super) path: String,
}

impl SetupFolder {
    pub(super) fn new() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("linger-setup-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        for entry in fs::read_dir(table::folder().join("apps"))? {
            let entry = entry?;
            let copy = folder.path().join(entry.file_name());
            fs::copy(entry.path(), &copy)?;
            fs::set_permissions(copy, fs::Permissions::from_mode(0o666))?;
        }
        fs::write(folder.path().join("large"), vec![b'r'; 300_000])?;
        Ok(Self { folder, path: table::search_path() })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn fill(&self, text: &str) -> String {
        let unpacked = table::installed().join("unpacked");
        text.replace("PORT", &PORT.to_string())
            .replace("FOLDER", &self.folder.path().to_string_lossy())
            .replace("UNPACKED", &unpacked.to_string_lossy())
            .replace("NODE", &table::installed().join("node/node_modules").to_string_lossy())
    }

    pub(super) fn command(&self, words: &[String]) -> Command {
        let mut command =
            Command::new(table::find(&words[0], &self.path).unwrap_or_else(|| (&words[0]).into()));
        command.args(&words[1..]).current_dir(self.folder.path()).env("PATH", &self.path);
        command.env("HOME", self.folder.path()).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
        command
    }

    pub(super) fn shell(&self, text: &str, nobody: bool) -> Command {
        let words = ["sh", "-e", "-c"].map(str::to_owned).into_iter().chain([self.fill(text)]);
        self.command(&as_user(words.collect(), nobody))
    }
}

pub(super) fn as_user(words: Vec<String>, nobody: bool) -> Vec<String> {
    let prefix: &[&str] =
        if nobody { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] } else { &[] };
    prefix.iter().map(|word| (*word).to_owned()).chain(words).collect()
}

/// Ends what is left in the calling thread's network namespace, which only this run's processes are in.
pub(super) fn end_all() {
    let namespace = |path: PathBuf| fs::read_link(path.join("ns/net")).ok();
    let Some(own) = namespace("/proc/thread-self".into()) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| namespace(entry.path()).as_ref() == Some(&own)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Processes in the calling thread's network namespace.
pub(super) fn left() -> usize {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter(|entry| own.is_some() && fs::read_link(entry.path().join("ns/net")).ok() == own).count()
}

/// Whether a set-up listens at its port, and at the port behind it if it has one.
pub(super) fn is_ready(setup: &Setup) -> bool {
    is_listening(PORT) && setup.behind.is_none_or(is_listening)
}

/// Whether somebody listens at a port, without connecting to it.
fn is_listening(port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|name| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let local = words.next().unwrap_or_default();
            local.ends_with(&format!(":{port:04X}")) && words.nth(1) == Some("0A")
        })
    })
}

/// Polls until `over` returns true. False if that takes longer than `bound`. The kernel has no event for a listener of another
/// process, and for the end of a process polling is simple enough.
pub(super) fn wait(bound: Duration, mut over: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + bound;
    while !over() {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Prepares a set-up, and starts its program under a supervisor, which may be no word at all.
pub(super) fn begin(setup: &Setup, supervisor: &[String]) -> anyhow::Result<(SetupFolder, Child)> {
    let place = SetupFolder::new()?;
    fs::write(place.file("config"), place.fill(&setup.config))?;
    fs::set_permissions(place.file("config"), fs::Permissions::from_mode(0o644))?;
    if !setup.prepare.is_empty() {
        // A file, not a pipe: a server that `prepare` starts in the background keeps it open, and reading a pipe would not end.
        let said = File::create(place.file("prepared"))?;
        let mut shell = place.shell(&setup.prepare, setup.nobody);
        let status = shell.stdout(said.try_clone()?).stderr(said).status()?;
        let said = fs::read(place.file("prepared"))?;
        ensure!(status.success(), "prepare: {}", String::from_utf8_lossy(&said));
    }
    let mut words: Vec<String> = place.fill(&setup.command).split_whitespace().map(str::to_owned).collect();
    // Programs print their own name: it must be the same in all ways.
    if let Some(program) = table::find(&words[0], &place.path) {
        words[0] = program.to_string_lossy().into_owned();
    }
    let words = as_user(supervisor.iter().cloned().chain(words).collect(), setup.nobody);
    let (out, err) = (File::create(place.file("stdout"))?, File::create(place.file("stderr"))?);
    let child = place.command(&words).stdout(out).stderr(err).process_group(0).spawn()?;
    Ok((place, child))
}

/// Waits until the program listens.
///
/// # Errors
/// Returns an error if it has ended, or does not listen in time.
pub(super) fn listens(setup: &Setup, child: &mut Child) -> anyhow::Result<()> {
    let mut early: Option<ExitStatus> = None;
    wait(START, || {
        early = child.try_wait().ok().flatten();
        early.is_some() || is_ready(setup)
    });
    if let Some(status) = early {
        bail!("ended at the start: {status}");
    }
    ensure!(is_ready(setup), "does not listen");
    Ok(())
}

/// Why a set-up cannot be started: its program is not installed.
pub(super) fn lacks(setup: &Setup) -> Option<String> {
    let program = setup.command.split_whitespace().next().unwrap_or_default();
    let program = program.replace("UNPACKED", &table::installed().join("unpacked").to_string_lossy());
    // A program in the run's folder is built by `prepare`, which itself reports what it lacks.
    let is_there = program.starts_with("FOLDER") || table::find(&program, &table::search_path()).is_some();
    (!is_there).then(|| format!("{program} is not installed"))
}

pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
