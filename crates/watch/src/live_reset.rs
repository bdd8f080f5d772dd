//! What is reported of a reset.

use std::net::SocketAddr;

use linger_untrusted::Untrusted;
use linger_why::{Cause, Confidence, Remedy};
use serde::{Deserialize, Serialize};

use crate::addresses::Endpoints;
use crate::bytes::Bytes;
use crate::cgroup::Workload;
use crate::namespace_id::NamespaceId;
use crate::process::NamedProcess;
use crate::recorded::Recorded;

/// A cause, how sure it is, all candidates, and the evidence.
pub(crate) type Opinion = (Cause, Confidence, Vec<Cause>, Vec<String>);

/// Whether this host sent or received a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Direction {
    /// This host sent the reset.
    Sent,
    /// This host received the reset.
    Received,
}

impl Direction {
    /// The name in lines, labels and JSON; it does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// The accept queue of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AcceptQueue {
    /// Connections that wait for `accept`.
    pub waiting: u32,
    /// The limit. The kernel accepts one more than `listen`'s backlog (`sk_acceptq_is_full`).
    pub limit: u32,
}

impl AcceptQueue {
    /// Whether the kernel turns the next connection away.
    pub fn is_full(self) -> bool {
        self.waiting > self.limit
    }

    /// Whether the queue is at four fifths of its limit or more.
    pub fn is_near_its_limit(self) -> bool {
        u64::from(self.waiting) * 5 >= (u64::from(self.limit) + 1) * 4
    }
}

/// What a process has to do with a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProcessRole {
    /// The process closed or aborted the connection, or ended: the reset is its doing.
    Closed,
    /// The process held the connection, which its peer reset.
    Held,
    /// The process listens on the port. The kernel answered in its place.
    Listens,
}

impl ProcessRole {
    /// The name in JSON; it does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Held => "held",
            Self::Listens => "listens",
        }
    }

    /// The words before the process in a line of text.
    pub fn words(self) -> &'static str {
        match self {
            Self::Closed => "by",
            Self::Held => "held by",
            Self::Listens => "listener",
        }
    }
}

/// A reset that this host sent or received.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LiveReset {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub time_seconds: f64,
    /// Whether this host sent or received it.
    pub direction: Direction,
    /// This host's end.
    pub local: SocketAddr,
    /// The other end; `None` if the kernel does not say.
    pub remote: Option<SocketAddr>,
    /// The most likely cause.
    pub cause: Cause,
    /// How sure the cause is.
    pub confidence: Confidence,
    /// All causes that fit, `cause` included.
    pub candidates: Vec<Cause>,
    /// The kernel's name of the reason, such as `TCP_ABORT_ON_CLOSE`; `None` before Linux 6.10.
    pub reason: Option<String>,
    /// The TCP state of the socket at that moment.
    pub state: Option<&'static str>,
    /// The process concerned; see `role`.
    pub process: Option<NamedProcess>,
    /// What `process` has to do with the reset.
    pub role: Option<ProcessRole>,
    /// The network namespace of this host's end, if it is known.
    pub namespace: Option<NamespaceId>,
    /// Whether that is the namespace of the watcher itself.
    pub is_own_namespace: bool,
    /// The namespaces that it may be, if it is not known: at most 16 of those with the local address.
    pub namespace_candidates: Vec<NamespaceId>,
    /// The namespace's name (`ip netns`, Docker), if it has one.
    pub namespace_name: Option<Untrusted>,
    /// The workload of the process, or of the namespace if no process is known.
    pub workload: Option<Workload>,
    /// How many connections this notice stands for: more than one if a process ended with several.
    pub connections: u32,
    /// Further resets for packets that the peer sent before it knew of this one, as far as seen by now.
    pub further_resets: u32,
    /// The bytes that were unread or unacknowledged.
    #[serde(flatten)]
    pub bytes: Bytes,
    /// The accept queue, if the reset concerns a listener.
    pub listener: Option<AcceptQueue>,
    /// The observations that the cause rests on.
    pub evidence: Vec<String>,
    /// What to do about the cause.
    pub remedy: Remedy,
    /// The record of its packets, if packets are recorded; see [`Recorder`](crate::Recorder).
    pub recorded: Option<Recorded>,
    /// The other connections that this notice stands for, each with its time (nanoseconds since 1970).
    #[serde(skip)]
    pub(crate) others: Vec<(Endpoints, u64)>,
    /// What closed a connection with these addresses before has no part in it.
    #[serde(skip)]
    pub(crate) is_new: bool,
    /// It is of a connection of this program's own.
    #[serde(skip)]
    pub(crate) is_own: bool,
}

/// A reset on its way to whoever is told: it is large, and moved several times.
pub(crate) type BoxedReset = Box<LiveReset>;

impl LiveReset {
    /// A reset of which its event, and what follows from it, is known.
    pub(crate) fn new(time_ns: u64, ends: Endpoints, direction: Direction, opinion: Opinion) -> Self {
        let (cause, confidence, candidates, evidence) = opinion;
        Self {
            time_seconds: time_ns as f64 / 1e9,
            direction,
            local: ends.0,
            remote: (ends.1.port() != 0).then_some(ends.1),
            cause,
            confidence,
            candidates,
            reason: None,
            state: None,
            process: None,
            role: None,
            namespace: None,
            is_own_namespace: false,
            namespace_candidates: Vec::new(),
            namespace_name: None,
            workload: None,
            connections: 1,
            further_resets: 0,
            bytes: Bytes::default(),
            listener: None,
            evidence,
            remedy: cause.remedy(),
            recorded: None,
            others: Vec::new(),
            is_new: false,
            is_own: false,
        }
    }

    pub(crate) fn set(&mut self, (cause, confidence, candidates, evidence): Opinion) {
        (self.cause, self.confidence, self.candidates, self.evidence) =
            (cause, confidence, candidates, evidence);
        self.remedy = cause.remedy();
    }

    /// The two ends; the remote port is 0 if the kernel does not say the peer.
    pub(crate) fn ends(&self) -> Endpoints {
        (self.local, self.remote.unwrap_or(SocketAddr::new(self.local.ip(), 0)))
    }

    /// When it was, in nanoseconds since 1970-01-01 00:00 UTC; to the microsecond, what the seconds hold.
    pub(crate) fn time_ns(&self) -> u64 {
        (self.time_seconds * 1e9) as u64
    }

    pub(crate) fn opinion(&self) -> Opinion {
        (self.cause, self.confidence, self.candidates.clone(), self.evidence.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_of_n_holds_one_more() {
        let queue = |waiting| AcceptQueue { waiting, limit: 4 };
        assert!(!queue(4).is_full() && queue(5).is_full());
        assert!(!queue(3).is_near_its_limit() && queue(4).is_near_its_limit());
    }
}
