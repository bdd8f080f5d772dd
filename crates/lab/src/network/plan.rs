//! The plan of an experiment with several hosts, as plain data.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use linger_netns::Counters;

use crate::expectation::Expectation;
use crate::ip_version::IpVersion;
use crate::link::Link;
use crate::program_user::ProgramUser;

/// The settings of a host's kernel that a scenario may change: those of TCP that belong to a network namespace, and decide nothing
/// outside of it.
pub const SETTABLE: [&str; 16] = [
    "net.core.somaxconn",
    "net.ipv4.tcp_abort_on_overflow",
    "net.ipv4.tcp_ecn",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_mtu_probing",
    "net.ipv4.tcp_retries2",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_synack_retries",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_wmem",
];

/// Hosts, the links between them, what their programs do, and what is expected.
#[derive(Clone, Debug)]
pub struct NetworkPlan {
    /// What the experiment shows, in one line.
    pub title: String,
    /// The hosts. Their programs are started in this order.
    pub hosts: Vec<HostPlan>,
    /// The links. With the hosts they are a tree.
    pub links: Vec<JoinedHosts>,
    /// What the clients do.
    pub client: Requests,
    /// The IP version of all addresses.
    pub ip: IpVersion,
    /// Seed of the links' random decisions.
    pub seed: u64,
    /// What is expected.
    pub expect: NetworkExpectation,
    /// The scenario's folder, which programs find in `LINGER_SCENARIO`.
    pub folder: PathBuf,
}

/// A host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// Its name, which all hosts resolve.
    pub name: String,
    /// Where it stands, for messages: file and line.
    pub place: String,
    /// What runs there all the time, if anything does.
    pub program: Option<HostProgram>,
    /// As whom its programs run; none for this process's own user.
    pub user: Option<ProgramUser>,
    /// Settings of its kernel, of [`SETTABLE`], by their names.
    pub settings: BTreeMap<String, String>,
    /// The files in its programs' own folder.
    pub files: Vec<HostFile>,
}

/// A file of a host.
#[derive(Clone, Debug)]
pub struct HostFile {
    /// Its name, without a slash.
    pub name: String,
    /// What is in it.
    pub content: String,
}

/// A program that runs as long as the experiment.
#[derive(Clone, Debug)]
pub struct HostProgram {
    /// The command, for `sh -c`.
    pub run: String,
    /// When the next host's turn is.
    pub ready: Readiness,
    /// How long that may take.
    pub within: Duration,
}

/// When a program counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A TCP socket of its host listens, on this port if one is named.
    Listens(Option<u16>),
    /// It has printed a line with this text.
    Says(String),
}

/// Two hosts and their link.
#[derive(Clone, Debug)]
pub struct JoinedHosts {
    /// The places in [`NetworkPlan::hosts`] of the link's server side and of its client side.
    pub ends: [usize; 2],
    /// What it is like.
    pub link: Link,
}

/// What the clients do: one process a request.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Where they run: the place in [`NetworkPlan::hosts`].
    pub host: usize,
    /// The command, for `sh -c`. What it writes to standard output is the response.
    pub run: String,
    /// Bytes of each response.
    pub response: u64,
    /// Bytes of a file that each client finds in `LINGER_UPLOAD`.
    pub upload: Option<u64>,
    /// How many.
    pub requests: u64,
    /// How many at a time.
    pub concurrency: usize,
    /// Longest time that one may take.
    pub timeout: Duration,
}

/// What is expected of an experiment.
#[derive(Clone, Debug, Default)]
pub struct NetworkExpectation {
    /// Of the responses.
    pub verdicts: Option<Expectation>,
    /// Of the kernels' counters: by host, by the kernel's name.
    pub counters: BTreeMap<String, BTreeMap<String, Amount>>,
    /// Of what the links' packets say.
    pub why: Option<WhyExpectation>,
}

/// What the packets are expected to say.
#[derive(Clone, Debug, Default)]
pub struct WhyExpectation {
    /// At least one connection failed, and each that did has one of these causes.
    pub causes: Vec<String>,
    /// As many connections were reset as the hosts' kernels aborted.
    pub agrees: bool,
}

/// What a counter is expected to have grown by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// By this.
    Exactly(u64),
    /// By 1 or more.
    Some,
}

impl Amount {
    /// Whether a count is as expected.
    pub fn is_met(self, count: u64) -> bool {
        match self {
            Self::Exactly(wanted) => count == wanted,
            Self::Some => count > 0,
        }
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::Some => f.write_str("some"),
        }
    }
}

/// Connections that a host's kernel aborted because bytes were not read, or came after the close.
pub(crate) fn aborts(counters: &Counters) -> u64 {
    counters.of("TCPAbortOnClose") + counters.of("TCPAbortOnData")
}
