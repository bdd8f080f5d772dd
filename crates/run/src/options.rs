//! Options of running a program.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use linger::{Budget, Policy};

/// How the closes of a program are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Via {
    /// By a preloaded library: for dynamically linked programs.
    Preload,
    /// By seccomp notifications before its system calls: for all programs, at a higher cost for each call.
    Seccomp,
}

/// Options of running a program. Plain data; every field may be set directly.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// How the closes are seen; `None` chooses by the kind of program.
    pub via: Option<Via>,
    /// How each connection is ended.
    pub policy: Policy,
    /// Limits for all lingering connections together: by default 16,384 sockets. A lower limit of this process's fds
    /// lowers that.
    pub budget: Budget,
    /// Whether this process stays the program's parent until its last connection has ended, even if the program could
    /// take its place. Needed if the supervisor would be ended together with this process, and that cannot be detected
    /// from here.
    pub stay: bool,
    /// Longest time that connections may linger after the program has ended.
    ///
    /// A higher value gives the last peers more time, and delays a restart by as much.
    pub linger_at_exit: Duration,
    /// Local ports whose connections are handled; at most 64. Empty: all ports.
    pub ports: Vec<u16>,
    /// Local ports whose connections are left alone; at most 64.
    pub exclude_ports: Vec<u16>,
    /// Whether outgoing TCP connections are handled, too.
    pub outgoing: bool,
    /// Whether to hold a copy of each connection from `accept` on, so that even a program killed by SIGKILL loses nothing.
    pub hold: bool,
    /// Address at which the counts are served in OpenMetrics format.
    pub metrics: Option<SocketAddr>,
    /// The address of a `SOCK_SEQPACKET` socket at which the host's service manager starts a supervisor for each connection
    /// ([`serve`](crate::serve)). Where nothing listens, the supervisor is a process of this one's control group.
    pub lingerd: Option<PathBuf>,
    /// A word for the caller of [`serve`](crate::serve) in the supervisor. It has no meaning here.
    pub manner: String,
    /// Where a package or an image has installed the preloaded library ([`install`](crate::install)). Used if the
    /// library can be unpacked nowhere, and only if the file equals this program's own library byte by byte.
    pub installed: Option<PathBuf>,
    /// The directory that the preloaded library is unpacked into, if it allows that; otherwise one of the usual ones.
    pub unpack_into: Option<PathBuf>,
    /// The directories in which a command without a slash is searched: the value of PATH.
    pub search: OsString,
    /// The present value of LD_PRELOAD, which is kept.
    pub preloaded: OsString,
    /// The present value of ASAN_OPTIONS, which is kept.
    pub sanitizer_options: OsString,
    /// The environment of this process, which the program gets. If LISTEN_PID or WATCHDOG_PID in it is this process's
    /// pid and the program is a child, the program gets its own pid there instead.
    pub environment: Vec<(OsString, OsString)>,
}

impl Default for Options {
    fn default() -> Self {
        let policy = Policy::default();
        let mut budget = Budget::default();
        budget.sockets = 16_384;
        Self {
            via: None,
            stay: false,
            linger_at_exit: policy.total,
            policy,
            budget,
            ports: Vec::new(),
            exclude_ports: Vec::new(),
            outgoing: false,
            hold: false,
            metrics: None,
            lingerd: None,
            installed: Some("/usr/lib/linger/liblinger_preload.so".into()),
            unpack_into: None,
            manner: String::new(),
            search: "/usr/local/bin:/usr/bin:/bin".into(),
            preloaded: OsString::new(),
            sanitizer_options: OsString::new(),
            environment: Vec::new(),
        }
    }
}
