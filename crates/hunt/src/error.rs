//! Why there is nothing to hunt.

use std::io;

/// Why a hunt did not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HuntError {
    /// The private network, a thread or a file is refused.
    #[error("{what}: {source}")]
    Machine {
        /// What was to be made.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The command cannot be started.
    #[error("cannot start `{command}`: {source}")]
    Start {
        /// The command.
        command: String,
        /// The system's error.
        source: io::Error,
    },
    /// The command has ended, or nothing listens, or nothing answers as HTTP.
    #[error("{what}{}", tail(said))]
    NoServer {
        /// What was waited for, and for how long.
        what: String,
        /// The end of what the server printed.
        said: String,
    },
    /// The client that is to be hunted fails when it is served plainly, or asks for nothing.
    #[error("{what}{}", tail(said))]
    NoClient {
        /// What it did.
        what: String,
        /// The end of what it printed as errors.
        said: String,
    },
    /// The user stopped it before the server had answered, or the client had.
    #[error("interrupted before the plain trials were over: nothing was searched")]
    Stopped,
    /// The target's name cannot be resolved, or its scheme cannot be hunted.
    #[error("{target}: {reason}")]
    Target {
        /// The target.
        target: String,
        /// What is wrong.
        reason: String,
    },
    /// A server that is not on this machine.
    #[error("{target} is not on this machine: hundreds of odd connections are for a server of your own")]
    NotYours {
        /// The target.
        target: String,
    },
}

fn tail(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!("; it said:\n{said}") }
}
