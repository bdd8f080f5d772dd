//! [`Blind`]: what cannot be seen here, in names and in words.

/// A limitation of this kernel or user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Blind {
    /// No reasons of resets (before Linux 6.10): most causes stay candidates.
    NoReason,
    /// No `tcp_receive_reset`: received resets are not seen.
    NoReceived,
    /// No `inet_sock_set_state`: which process had closed the connection is not known.
    NoStates,
    /// No `inet_sk_error_report`: the error that a received reset caused is not known.
    NoErrors,
    /// No `tcp_destroy_sock`: the process that held a reset connection is not known.
    NoOwners,
    /// No messages about destroyed sockets: byte counts are not known.
    NoBytes,
    /// There are more network namespaces than are looked into.
    TooManyNamespaces,
    /// Other network namespaces cannot be entered: their listeners, counters and byte counts are not known.
    NoNamespaces,
    /// A processor came online, and its events could not be opened: what it does is not seen.
    NewProcessor,
    /// No `sched_process_exit`: the end of a process looks like a close.
    NoExits,
    /// The process that opens what takes capabilities has ended, or does not answer.
    NoOpener,
}

impl Blind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::NoReason,
        Self::NoReceived,
        Self::NoStates,
        Self::NoErrors,
        Self::NoOwners,
        Self::NoBytes,
        Self::TooManyNamespaces,
        Self::NoNamespaces,
        Self::NewProcessor,
        Self::NoExits,
        Self::NoOpener,
    ];

    /// The name in labels and JSON; it does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoReason => "no-reason",
            Self::NoReceived => "no-received",
            Self::NoStates => "no-states",
            Self::NoErrors => "no-errors",
            Self::NoOwners => "no-owners",
            Self::NoBytes => "no-bytes",
            Self::TooManyNamespaces => "too-many-namespaces",
            Self::NoNamespaces => "no-namespaces",
            Self::NewProcessor => "new-processor",
            Self::NoExits => "no-exits",
            Self::NoOpener => "no-opener",
        }
    }

    /// What the user misses without this source of events.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::NoReason => {
                "resets carry no reason on this kernel (6.10 and later have it): causes stay candidates"
            }
            Self::NoReceived => "received resets are not seen: no tracepoint tcp:tcp_receive_reset",
            Self::NoStates => "who had closed before is not known: no tracepoint sock:inet_sock_set_state",
            Self::NoErrors => {
                "what error a reset became is not known: no tracepoint sock:inet_sk_error_report"
            }
            Self::NoOwners => "whose connections were reset is not known: no tracepoint tcp:tcp_destroy_sock",
            Self::NoNamespaces => {
                "of containers (other network namespaces) only the resets are seen, without listeners, counters and often \
                 bytes: entering them needs CAP_SYS_ADMIN"
            }
            Self::TooManyNamespaces => {
                "there are more network namespaces than are looked into (1,024, and one for each four open files that are \
                 allowed), or too little memory for them: of the others only the resets are seen"
            }
            Self::NewProcessor => {
                "a processor came online, and what happens on it is not seen: there are too few descriptors, or too little \
                 memory that may be locked"
            }
            Self::NoExits => {
                "the end of a process is not told from a close: no tracepoint sched:sched_process_exit"
            }
            Self::NoOpener => {
                "the process that opens what takes capabilities (linger-opener) has ended or does not answer: from now on \
                 containers are seen by their resets alone, without listeners, counters and bytes, processors that come online \
                 are not seen, and new listeners have no process; start it again"
            }
            Self::NoBytes => "bytes lost are not known: sock_diag tells nothing of destroyed sockets here",
        }
    }
}
