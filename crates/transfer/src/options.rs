//! How a client connects, puts and gets.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use crate::chmod::Chmod;
use crate::driver::Deadlines;
use crate::message::{Durability, IfExists};
use crate::selection::Selection;
use crate::tls::ClientKeys;
use crate::walk::Patterns;

/// How a client tries again after a connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retry {
    /// The first pause; each following one is twice as long.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Time without any progress after which the client gives up. Zero means no second try.
    pub patience: Duration,
}

impl Default for Retry {
    /// Pauses of 0.5 s to 15 s; gives up after two minutes without progress.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(15),
            patience: Duration::from_secs(120),
        }
    }
}

/// Whether a client encrypts.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Security {
    /// Plain, to a server on this machine that asks for no proof of the same user; other machines are refused.
    Local,
    /// Plain to this user's server on this machine, TLS to others.
    Remote(ClientKeys),
    /// TLS always.
    Always(ClientKeys),
    /// Never: everybody on the path can read and change the bytes.
    Never,
}

/// How to connect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Whether and how to encrypt.
    pub security: Security,
    /// Connections side by side, 1 to 16: for long paths that one connection does not fill.
    pub streams: usize,
    /// How long to wait for a connection, at each address of the host.
    pub connect_timeout: Duration,
    /// How long a session may be silent, and without progress.
    pub deadlines: Deadlines,
    /// How to try again after the connection was lost.
    pub retry: Retry,
    /// Bounds of every close.
    pub policy: linger::Policy,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            security: Security::Local,
            streams: 1,
            connect_timeout: Duration::from_secs(10),
            deadlines: Deadlines::default(),
            retry: Retry::default(),
            policy: linger::Policy::default(),
        }
    }
}

/// What to put.
#[derive(Debug)]
#[non_exhaustive]
pub enum Input {
    /// A file or a directory.
    Path(PathBuf),
    /// Bytes from an fd, until its end.
    Pipe(OwnedFd),
}

/// How to put.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PutOptions {
    /// What to do where the final name is taken.
    pub if_exists: IfExists,
    /// Hash at both ends. Without, the kernel moves the bytes, and the receipt is for the length alone.
    pub verify: bool,
    /// Send nothing, say what would be sent.
    pub dry_run: bool,
    /// How durable a file has to be before its receipt, at least. Not required of a sink.
    pub durability: Durability,
    /// What of a directory to leave out.
    pub patterns: Patterns,
    /// What to do with links, special files and files that grow.
    pub selection: Selection,
    /// The modes that the copies get, whatever the receiver's umask is.
    pub chmod: Option<Chmod>,
    /// Run the sink's command even if it may have run for the same content before (the server may have ended while the
    /// command ran), because a person has looked and wants that. The command is started once for each transfer that says so.
    pub anew: bool,
    /// Bytes a second; 0 for no limit.
    pub limit: u64,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self {
            if_exists: IfExists::Fail,
            verify: true,
            dry_run: false,
            durability: Durability::Disk,
            patterns: Patterns::none(),
            selection: Selection::default(),
            chmod: None,
            anew: false,
            limit: 0,
        }
    }
}

/// How `get` stores what it receives.
#[derive(Debug)]
#[non_exhaustive]
pub struct GetOptions {
    /// What to do where the final name is taken.
    pub if_exists: IfExists,
    /// Hash at both ends.
    pub verify: bool,
    /// Fetch nothing, say what would be fetched.
    pub dry_run: bool,
    /// What to do before a file counts as received.
    pub durability: Durability,
    /// Lines of `.gitignore` syntax, applied by the sender.
    pub patterns: Vec<String>,
    /// What the sender does with links, special files and files that grow.
    pub selection: Selection,
    /// The modes that the copies get, whatever the umask is.
    pub chmod: Option<Chmod>,
    /// Bytes a second; 0 for no limit.
    pub limit: u64,
}

impl Default for GetOptions {
    fn default() -> Self {
        Self {
            if_exists: IfExists::Fail,
            verify: true,
            dry_run: false,
            durability: Durability::Disk,
            patterns: Vec::new(),
            selection: Selection::default(),
            chmod: None,
            limit: 0,
        }
    }
}

/// The destination of a `get`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Output {
    /// With a final `/` (or empty) a directory to put it in, otherwise the new name.
    Path(PathBuf),
    /// A file or a source is written to an fd. With [`GetOptions::verify`], each block is verified before it is written.
    Stream(OwnedFd),
}
