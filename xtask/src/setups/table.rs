//! The table of set-ups, `xtask/setups/setups.toml`: what each starts, and how it is asked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;

use crate::root;

/// Where the table and the applications are.
pub(super) fn folder() -> PathBuf {
    root().join("xtask/setups")
}

/// Where `cargo xtask setups install` puts what it does not install for the whole machine.
pub(super) fn installed() -> PathBuf {
    root().join("target/setups")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetupTable {
    pub(super) install: Install,
    pub(super) setup: Vec<Setup>,
}

/// What the set-ups need.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Install {
    /// Debian packages to install.
    #[serde(default)]
    pub(super) debian: Vec<String>,
    /// Debian packages to unpack below `target/setups/unpacked`: they exclude each other, or start a service.
    #[serde(default)]
    pub(super) unpack: Vec<String>,
    /// Users that unpacked programs become.
    #[serde(default)]
    pub(super) users: Vec<String>,
    /// Packages from PyPI, for an environment of their own.
    #[serde(default)]
    pub(super) pypi: Vec<String>,
    /// Folders below `xtask/setups` with packages of cargo, whose programs are then in `target/setups/FOLDER/release`.
    #[serde(default)]
    pub(super) cargo: Vec<String>,
    /// Packages from npm.
    #[serde(default)]
    pub(super) npm: Vec<String>,
}

/// One set-up. In its texts PORT is the port on 127.0.0.1, FOLDER a folder of its own that contains all applications,
/// UNPACKED the folder of unpacked packages, and NODE the folder `node_modules` of the installed npm packages.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    pub(crate) name: String,
    /// The words of the command, separated by blanks.
    pub(super) command: String,
    /// A shell command that prints the version.
    pub(super) version: String,
    /// Shell commands that are run once in the folder before the start.
    #[serde(default)]
    pub(super) prepare: String,
    /// The content of the file `config`, which is written into FOLDER.
    #[serde(default)]
    pub(super) config: String,
    #[serde(default)]
    pub(super) ask: Asking,
    /// The port at which the program itself listens, if the server at PORT is another in front of it, which `prepare` starts.
    pub(super) behind: Option<u16>,
    /// Whether all runs as `nobody`: some servers refuse to be root.
    #[serde(default)]
    pub(super) nobody: bool,
    /// A remark for the table's row.
    #[serde(default)]
    pub(super) note: String,
    /// A signal that makes the server reload or restart in place, after which it is asked again.
    pub(super) reload: Option<String>,
    /// The name that `cargo xtask matrix` has for the same server, of its own table.
    #[cfg_attr(not(feature = "matrix"), expect(dead_code, reason = "for the matrix alone"))]
    pub(super) same_as: Option<String>,
    /// The path of a WebSocket.
    #[cfg_attr(not(feature = "matrix"), expect(dead_code, reason = "for the matrix alone"))]
    pub(super) websocket: Option<String>,
    /// Whether it speaks TLS.
    #[serde(default)]
    #[cfg_attr(not(feature = "matrix"), expect(dead_code, reason = "for the matrix alone"))]
    pub(super) tls: bool,
    /// The signal of a graceful stop.
    #[serde(default = "term")]
    pub(super) stop: String,
}

fn term() -> String {
    "TERM".into()
}

/// How a server is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(super) enum Asking {
    /// By HTTP: GET and an upload to one path.
    Http {
        /// The path.
        #[serde(default = "large")]
        path: String,
        /// Whether the upload is answered with the 300,000 bytes as well. If not, any complete response will do.
        #[serde(default = "yes")]
        answers_uploads: bool,
    },
    /// The server answers each connection with 300,000 bytes, without HTTP.
    Raw,
    /// A shell command is a session. Its output must be the same each time and contain a text.
    Session { run: String, expect: String },
}

impl Default for Asking {
    fn default() -> Self {
        Self::Http { path: large(), answers_uploads: true }
    }
}

fn large() -> String {
    "/large".into()
}

fn yes() -> bool {
    true
}

/// The table of the set-ups.
pub(super) const SETUPS: &str = "setups.toml";
/// Servers of `cargo xtask matrix` that are no set-ups: they end no other way under the supervisor than one that is.
pub(super) const MATRIX: &str = "matrix.toml";

pub(super) fn read(name: &str) -> anyhow::Result<SetupTable> {
    let file = folder().join(name);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    toml::from_str(&text).with_context(|| file.display().to_string())
}

/// PATH with the installed and unpacked programs before the machine's.
pub(super) fn search_path() -> String {
    let mut folders = vec![installed().join("python/bin"), installed().join("node/node_modules/.bin")];
    for package in fs::read_dir(installed().join("unpacked")).into_iter().flatten().flatten() {
        folders.extend(["usr/sbin", "usr/bin", "bin"].map(|folder| package.path().join(folder)));
    }
    let own = folders.iter().filter(|folder| folder.is_dir()).map(|folder| folder.display().to_string());
    let machine = std::env::var("PATH").unwrap_or_default();
    own.chain([machine, "/usr/sbin:/usr/local/sbin:/sbin".into()]).collect::<Vec<_>>().join(":")
}

/// Finds the program of a command in a PATH; `None` if it is not installed.
pub(super) fn find(program: &str, path: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    path.split(':').map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
}
