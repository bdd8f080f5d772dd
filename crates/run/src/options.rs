//! What to run a program with.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use linger::{Budget, Policy};

/// How the closes of a program are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Via {
    /// By a library that is preloaded into it: for programs that the C library's loader starts.
    Preload,
    /// By questions of the kernel before its calls: for all programs, at a higher cost for each call.
    Seccomp,
}

/// What a program is run with. Plain data; every field may be set directly.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How the closes are seen; `None` chooses by the kind of program.
    pub via: Option<Via>,
    /// How each connection is ended.
    pub policy: Policy,
    /// What all that linger at once may cost; the default leaves the descriptors of this process as the bound.
    pub budget: Budget,
    /// How long connections may still linger once the program has ended.
    ///
    /// Raising it gives the last peers longer and delays a restart by as much.
    pub linger_at_exit: Duration,
    /// Connections of these local ports only; at most 64, none for all.
    pub ports: Vec<u16>,
    /// No connections of these local ports; at most 64.
    pub exclude_ports: Vec<u16>,
    /// Outgoing TCP connections, too.
    pub outgoing: bool,
    /// Take connections when they are accepted, so that a killed program loses nothing either.
    pub hold: bool,
    /// Serve the counts there for Prometheus.
    pub metrics: Option<SocketAddr>,
    /// Where a command without a slash is looked for: the value of PATH.
    pub search: OsString,
    /// What is preloaded already, and stays: the value of LD_PRELOAD.
    pub preloaded: OsString,
}

impl Default for Options {
    fn default() -> Self {
        let policy = Policy::default();
        let mut budget = Budget::default();
        budget.sockets = 16_384;
        Self {
            via: None,
            linger_at_exit: policy.total,
            policy,
            budget,
            ports: Vec::new(),
            exclude_ports: Vec::new(),
            outgoing: false,
            hold: false,
            metrics: None,
            search: "/usr/local/bin:/usr/bin:/bin".into(),
            preloaded: OsString::new(),
        }
    }
}
