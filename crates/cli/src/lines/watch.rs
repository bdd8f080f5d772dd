//! Lines of `linger watch`.

use std::collections::BTreeMap;

use linger_watch as library;
use linger_watch::{Notice, Warning};
use schemars::JsonSchema;
use serde::Serialize;

use super::common::{At, Evidence, Process, ResetBase, names};
use super::{LineBody, Verb, line};
use crate::output::{Stdout, Stopped};
use crate::tools::tools;

/// A reset, live.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Reset {
    #[serde(flatten)]
    base: ResetBase,
    /// `sent` or `received`, by this host.
    direction: &'static str,
    /// This host's end.
    local: String,
    /// The other end; null if the kernel does not say.
    remote: Option<String>,
    /// The kernel's own word for it.
    reason: Option<String>,
    /// The socket's TCP state at that moment.
    state: Option<&'static str>,
    /// The process that closed or aborted, that had the connection, or that listens.
    process: Option<Process>,
    /// Bytes that this host had received and the process had not read.
    unread_bytes: Option<u32>,
    /// Bytes that the process had written and the peer had not acknowledged.
    unacknowledged_bytes: Option<u32>,
    /// The part of the unacknowledged bytes that never left this host.
    unsent_bytes: Option<u32>,
    /// Why some of the bytes are not known.
    bytes_unknown: Option<&'static str>,
    /// The listener's queue, where a listener is concerned.
    listener: Option<Queue>,
}

impl LineBody for Reset {
    const KIND: &'static str = "reset";
}

/// A listener's accept queue.
#[derive(Serialize, JsonSchema)]
struct Queue {
    /// Connections that wait for `accept`.
    waiting: u32,
    /// The limit: a backlog of n holds n + 1.
    limit: u32,
}

impl From<library::AcceptQueue> for Queue {
    fn from(queue: library::AcceptQueue) -> Self {
        Self { waiting: queue.waiting, limit: queue.limit }
    }
}

impl From<&library::LiveReset> for Reset {
    fn from(reset: &library::LiveReset) -> Self {
        let (local, remote) = (Some(reset.local.to_string()), reset.remote.map(|remote| remote.to_string()));
        let (from, to) = match reset.direction {
            library::Direction::Sent => (local, remote),
            _ => (remote, local),
        };
        let says = |says: &String| Evidence { frame: None, says: says.clone() };
        Self {
            base: ResetBase {
                at: At::seconds(reset.time_seconds),
                from,
                to,
                cause: reset.cause.name(),
                confidence: reset.confidence.name(),
                candidates: names(&reset.candidates),
                evidence: reset.evidence.iter().map(says).collect(),
                remedy: reset.remedy.words(&tools()),
            },
            direction: reset.direction.name(),
            local: reset.local.to_string(),
            remote: reset.remote.map(|remote| remote.to_string()),
            reason: reset.reason.clone(),
            state: reset.state,
            process: reset.process.as_ref().map(Process::from),
            unread_bytes: reset.bytes.unread,
            unacknowledged_bytes: reset.bytes.unacknowledged,
            unsent_bytes: reset.bytes.unsent,
            bytes_unknown: reset.bytes.unknown.map(library::Unknown::meaning),
            listener: reset.listener.map(Queue::from),
        }
    }
}

/// What will end in resets.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Warned {
    /// `listener-near-limit`: the accept queue is at four fifths or more; `unread-after-peer-closed`: the peer has
    /// closed and bytes of it lie unread, so that closing now would reset.
    warning: &'static str,
    /// This host's end, or the listener.
    local: String,
    /// The peer.
    remote: Option<String>,
    /// The listener's queue.
    listener: Option<Queue>,
    /// Bytes that lie unread.
    unread_bytes: Option<u32>,
    /// The process that has the socket, or that listens.
    process: Option<Process>,
}

impl LineBody for Warned {
    const KIND: &'static str = "warning";
}

impl Warned {
    fn new(warning: &Warning) -> Option<Self> {
        Some(match warning {
            Warning::ListenerNearLimit { local, queue, process, .. } => Self {
                warning: "listener-near-limit",
                local: local.to_string(),
                remote: None,
                listener: Some((*queue).into()),
                unread_bytes: None,
                process: process.as_ref().map(Process::from),
            },
            Warning::UnreadAfterPeerClosed { local, remote, unread, process, .. } => Self {
                warning: "unread-after-peer-closed",
                local: local.to_string(),
                remote: Some(remote.to_string()),
                listener: None,
                unread_bytes: Some(*unread),
                process: process.as_ref().map(Process::from),
            },
            _ => return None,
        })
    }
}

/// The kernel's counters, and what was seen beside them.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Counters {
    /// Counters that have grown, by the kernel's names.
    kernel: BTreeMap<&'static str, u64>,
    /// Resets seen that this host sent, before any filter.
    seen_sent: u64,
    /// Resets seen that it received.
    seen_received: u64,
    /// Resets that the kernel counted as sent and that were not seen, at least.
    missed: u64,
    /// Events that the kernel dropped because they were not read in time.
    events_lost: u64,
    /// How often sockets were destroyed faster than they could be told of: bytes of some resets are unknown.
    overruns: u64,
}

impl LineBody for Counters {
    const KIND: &'static str = "counters";
}

impl From<&library::Counted> for Counters {
    fn from(counted: &library::Counted) -> Self {
        Self {
            kernel: counted.kernel.clone(),
            seen_sent: counted.seen_sent,
            seen_received: counted.seen_received,
            missed: counted.missed,
            events_lost: counted.events_lost,
            overruns: counted.overruns,
        }
    }
}

/// Prints what happened.
pub(crate) fn notice(notice: &Notice, out: &mut Stdout) -> Result<(), Stopped> {
    match notice {
        Notice::Reset(reset) => out.json(&line(Verb::Watch, Reset::from(&**reset))),
        Notice::Warning(warning) => match Warned::new(warning) {
            Some(warned) => out.json(&line(Verb::Watch, warned)),
            None => Ok(()),
        },
        Notice::Counters(counted) => out.json(&line(Verb::Watch, Counters::from(&**counted))),
        _ => Ok(()),
    }
}
