//! Sinks and sources: commands that have a name in the server's configuration. A peer chooses among the names, never the
//! command.
//!
//! The bytes that are sent to a sink are first collected and verified, so that nothing is ever printed by half. Then the
//! command runs with these bytes as its standard input. No shell is involved.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::Error;
use crate::fault::Fault;
use crate::hash::{Hash, Pieces};
use crate::host;
use crate::launch::{Launched, Launcher};
use crate::message::Refusal;
use crate::reason::{Reason, Remedy};

/// The server's configuration of sinks and sources, as it stands in a file.
///
/// ```
/// let config = linger_transfer::StreamsConfig::parse(r#"
///     [sink.print]
///     command = ["lp", "-"]
///     max_bytes = 10_000_000
///     [sink.clipboard]
///     desktop = "clipboard"
///     [source.clipboard]
///     desktop = "clipboard"
/// "#)?;
/// assert!(linger_transfer::StreamsConfig::parse("[sink.print]\ncommand = 'lp -'").is_err());
/// # Ok::<(), linger_transfer::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StreamsConfig {
    /// What `put - HOST:@NAME` may reach.
    pub sink: BTreeMap<String, StreamCommand>,
    /// What `get HOST:@NAME` may reach.
    pub source: BTreeMap<String, StreamCommand>,
}

/// A command that takes bytes (a sink) or gives bytes (a source).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StreamCommand {
    /// The program and its arguments, without a shell's expansion.
    #[serde(default)]
    pub command: Vec<String>,
    /// Instead of a command: the desktop's own clipboard tool, found when it is needed.
    #[serde(default)]
    pub desktop: Option<Desktop>,
    /// Most bytes that the command may be given, or may write. The default is 64 MiB.
    #[serde(default = "default_bytes")]
    pub max_bytes: u64,
    /// Seconds that the command may run. The default is 60.
    #[serde(default = "default_seconds")]
    pub max_seconds: u64,
    /// The directories below which the command may write. Landlock lets it write nowhere else but to the terminal and
    /// the null device, and it gains no rights by set-user-ID. Without this key, or on a kernel that has no Landlock,
    /// it writes where its user may.
    #[serde(default)]
    pub writes: Option<Vec<PathBuf>>,
}

/// A service of the desktop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Desktop {
    /// The clipboard.
    Clipboard,
}

/// Which display servers the user's session has: the clipboard needs one. This library does not read the environment, so the
/// program that starts the transfer server fills this in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Displays {
    /// `WAYLAND_DISPLAY` is set.
    pub wayland: bool,
    /// `DISPLAY` is set.
    pub x11: bool,
}

impl Displays {
    /// The display servers of the user's session.
    pub fn new(wayland: bool, x11: bool) -> Self {
        Self { wayland, x11 }
    }
}

fn default_bytes() -> u64 {
    64 << 20
}

fn default_seconds() -> u64 {
    60
}

impl StreamsConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Returns [`Error::Usage`], which names the line, if the text is not TOML, or has an unknown key or a sink or source without
    /// a command.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let config: Self = toml::from_str(text).map_err(|error| Error::Usage(error.to_string().into()))?;
        for (name, stream) in config.sink.iter().chain(&config.source) {
            if stream.command.is_empty() == stream.desktop.is_none() {
                return Err(Error::Usage(format!("`{name}` needs either `command` or `desktop`").into()));
            }
            if stream.writes.iter().flatten().any(|directory| !directory.is_absolute()) {
                return Err(Error::Usage(
                    format!("`{name}`: `writes` names directories from the root on").into(),
                ));
            }
            if name.len() > 64 || name.is_empty() {
                return Err(Error::Usage(format!("`{name}`: names have 1 to 64 bytes").into()));
            }
        }
        Ok(config)
    }
}

impl StreamCommand {
    fn argv(&self, displays: Displays, taking: bool) -> Result<Vec<String>, Fault> {
        if self.desktop.is_none() {
            return Ok(self.command.clone());
        }
        let candidates: &[&[&str]] = match (displays.wayland, displays.x11, taking) {
            (true, _, true) => &[&["wl-copy"]],
            (true, _, false) => &[&["wl-paste", "-n"]],
            (false, true, true) => &[&["xclip", "-selection", "clipboard", "-in"], &["xsel", "-b", "-i"]],
            (false, true, false) => &[&["xclip", "-selection", "clipboard", "-out"], &["xsel", "-b", "-o"]],
            (false, false, _) => {
                let told = "no clipboard here: this server runs outside a desktop session (neither WAYLAND_DISPLAY nor \
                            DISPLAY is set)";
                return Err(Fault(Refusal::Command, Reason::from(told).with(Remedy::StartFromDesktop)));
            }
        };
        let found = candidates.iter().find(|argv| is_program(argv[0]));
        let names: Vec<_> = candidates.iter().map(|argv| argv[0]).collect();
        found.map(|argv| argv.iter().map(|word| (*word).to_owned()).collect()).ok_or_else(|| {
            Fault(Refusal::Command, format!("no clipboard tool here: install {}", names.join(" or ")).into())
        })
    }

    fn start(
        &self,
        (displays, launcher): (Displays, &Launcher),
        taking: bool,
        stdin: Stdio,
        stdout: Stdio,
    ) -> Result<(Launched, String), Fault> {
        let argv = self.argv(displays, taking)?;
        let (program, arguments) =
            argv.split_first().ok_or_else(|| Fault(Refusal::Command, "no command".into()))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(stdin).stdout(stdout);
        let launched = launcher.launch(command, self.writes.clone());
        launched.map(|launched| (launched, program.clone())).map_err(|error| {
            let told = Reason::from(format!("cannot start `{program}`: {error}"));
            Fault(Refusal::Command, told.with(Remedy::InstallCommand))
        })
    }
}

fn is_program(name: &str) -> bool {
    // The directories in which a desktop's tools are. A `command` is looked up in PATH as usual.
    ["/usr/local/bin", "/usr/bin", "/bin"].iter().any(|dir| std::path::Path::new(dir).join(name).exists())
}

/// What was received for a sink, in a memfd, until all of it is verified.
#[derive(Debug)]
pub(crate) struct Spool {
    name: String,
    command: StreamCommand,
    displays: Displays,
    launcher: Launcher,
    file: File,
    length: u64,
}

impl Spool {
    pub(crate) fn new(
        name: &str,
        command: &StreamCommand,
        displays: Displays,
        launcher: &Launcher,
    ) -> Result<Self, Fault> {
        let file = rustix::fs::memfd_create("linger-sink", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|error| Fault::new("make room for", name, error))?;
        let launcher = launcher.clone();
        Ok(Self {
            name: name.to_owned(),
            command: command.clone(),
            displays,
            launcher,
            file: file.into(),
            length: 0,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Begins anew for a file of `size` bytes, if its length is known.
    pub(crate) fn begin(&mut self, size: Option<u64>) -> Result<(), Fault> {
        self.room(size.unwrap_or(0))?;
        // A missing clipboard tool is reported before any byte is sent.
        self.command.argv(self.displays, true)?;
        self.length = 0;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(|error| self.fault(&error))
    }

    fn room(&self, length: u64) -> Result<(), Fault> {
        if length <= self.command.max_bytes {
            return Ok(());
        }
        let told = format!("@{} takes at most {} bytes", self.name, self.command.max_bytes);
        Err(Fault(Refusal::NoSpace, Reason::from(told).with(Remedy::RaiseMaxBytes)))
    }

    fn fault(&self, error: &io::Error) -> Fault {
        Fault::io(format!("cannot keep what goes to @{}: {error}", self.name), error)
    }

    pub(crate) fn write(&mut self, pieces: Pieces<'_>) -> Result<(), Fault> {
        for bytes in pieces {
            self.length += bytes.len() as u64;
            self.room(self.length)?;
            self.file.write_all(bytes).map_err(|error| self.fault(&error))?;
        }
        Ok(())
    }

    /// Adds a hole. It takes no memory before the command reads it.
    pub(crate) fn hole(&mut self, bytes: u64) -> Result<(), Fault> {
        self.length = self.length.saturating_add(bytes);
        self.room(self.length)?;
        let made = self.file.set_len(self.length).and_then(|()| self.file.seek(io::SeekFrom::End(0)));
        made.map(drop).map_err(|error| self.fault(&error))
    }

    /// The same content through another descriptor, for a thread of its own.
    pub(crate) fn hand_over(&self) -> Result<Self, Fault> {
        let file = self.file.try_clone().map_err(|error| self.fault(&error))?;
        let Self { name, command, displays, launcher, length, .. } = self;
        let (name, command, launcher) = (name.clone(), command.clone(), launcher.clone());
        Ok(Self { name, command, displays: *displays, launcher, file, length: *length })
    }

    /// A hash of this sink's name and the content. `hash` is the hash of the content if the transfer was verified.
    pub(crate) fn content(&self, hash: Option<Hash>) -> Result<Hash, Fault> {
        let hash = match hash {
            Some(hash) => hash,
            None => {
                let mut file = &self.file;
                let hashed = file.rewind().and_then(|()| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update_reader(file).map(|hasher| *hasher.finalize().as_bytes())
                });
                hashed.map_err(|error| self.fault(&error))?
            }
        };
        // A hash always has 32 bytes, so no part of the name can be taken for a part of the hash.
        let named = [&hash[..], self.name.as_bytes()].concat();
        Ok(blake3::derive_key("linger-transfer 2026 content of a delivery", &named))
    }

    /// Runs the command with the content, all of which must have been verified.
    pub(crate) fn deliver(&mut self) -> Result<(), Fault> {
        if let Some(host) = host::simulated() {
            let mut content = Vec::new();
            let read = self.file.rewind().and_then(|()| self.file.read_to_end(&mut content));
            let ran = read.and_then(|_| host.command(&content));
            return ran.map_err(|error| Fault(Refusal::Command, error.to_string().into()));
        }
        let stdin =
            self.file.rewind().and_then(|()| self.file.try_clone()).map_err(|error| self.fault(&error))?;
        let with = (self.displays, &self.launcher);
        let (mut launched, program) = self.command.start(with, true, stdin.into(), Stdio::null())?;
        let end = Instant::now() + Duration::from_secs(self.command.max_seconds);
        finish(&mut launched, &program, end)
    }
}

/// Starts the command of a source. Returns the child, from which the output is read, and the program's name.
pub(crate) fn start_source(
    command: &StreamCommand,
    displays: Displays,
    launcher: &Launcher,
) -> Result<(Launched, String), Fault> {
    command.start((displays, launcher), false, Stdio::null(), Stdio::piped())
}

/// The reason that is given if the output of a source has not ended by `max_seconds`.
pub(crate) fn overdue(launched: &mut Launched, program: &str) -> Reason {
    match launched.child.try_wait() {
        Ok(Some(_)) => {
            let told = format!(
                "`{program}` has ended, but a process that it started held its output open for too long"
            );
            Reason::from(told).with(Remedy::RaiseMaxSeconds)
        }
        _ => too_long(program),
    }
}

/// The reason that is given if a command was killed because of `max_seconds`.
fn too_long(program: &str) -> Reason {
    Reason::from(format!("`{program}` took too long and was ended")).with(Remedy::RaiseMaxSeconds)
}

/// Waits for a command until `end`, and kills it at that time. Returns a fault unless the command ended with status 0.
///
/// Processes that a command leaves running are left alone if it succeeds (a clipboard tool goes on to hold the selection), and
/// are killed otherwise.
pub(crate) fn finish(launched: &mut Launched, program: &str, end: Instant) -> Result<(), Fault> {
    let mut pause = Duration::from_millis(1);
    loop {
        match launched.child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                launched.end();
                let told = Reason::from(format!("`{program}` ended with {status}"));
                return Err(Fault(Refusal::Command, told.with(Remedy::ReadServerOutput)));
            }
            Ok(None) if Instant::now() < end => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            Ok(None) => {
                launched.end();
                return Err(Fault(Refusal::Command, too_long(program)));
            }
            Err(error) => {
                return Err(Fault(Refusal::Command, format!("cannot wait for `{program}`: {error}").into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The counter-example is one word away: the command itself goes on.
    #[test]
    fn whoever_holds_the_output_of_a_source_is_told_apart() {
        for (script, told) in [
            ("sleep 1000 & exit 0", "`sh` has ended, but a process that it started held its output open"),
            ("sleep 1000; exit 0", "`sh` took too long and was ended"),
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::null()).stdin(Stdio::null());
            let mut launched = Launcher::default().launch(command, None).unwrap();
            if script.contains('&') {
                launched.child.wait().unwrap();
            }
            let reason = overdue(&mut launched, "sh");
            launched.end();
            assert!(reason.starts_with(told), "{reason}");
        }
    }
}
