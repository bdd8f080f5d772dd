//! Lines of `linger watch`.

use std::collections::BTreeMap;

use linger_watch as library;
use linger_watch::{Notice, Warning};
use schemars::JsonSchema;
use serde::Serialize;

use super::common::{self, Process};
use super::reset::{Queue, Reset, ResetPlace};
use super::{LineBody, line};
use crate::output::{Stdout, Stopped};

/// A condition that leads to resets.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Warned {
    /// `listener-near-limit`: the accept queue is at four fifths or more; `unread-after-peer-closed`: the peer has
    /// closed and bytes from it are unread, so that a plain close now would reset the connection;
    /// `accept-queue-overflowed`: connections found no room in an accept queue.
    warning: &'static str,
    /// The network namespace, by the inode that `lsns` shows.
    namespace: u64,
    /// Where on this host it is.
    place: ResetPlace,
    /// This host's end, or the listener. Of an overflow: the listener with the fullest queue; null if none is near its limit.
    local: Option<String>,
    /// The peer.
    remote: Option<String>,
    /// The listener's queue.
    listener: Option<Queue>,
    /// Bytes that lie unread.
    unread_bytes: Option<u32>,
    /// Connections that found no room since the last look.
    overflows: Option<u64>,
    /// The process that has the socket, or that listens.
    process: Option<Process>,
}

impl LineBody for Warned {
    const KIND: &'static str = "warning";
}

impl Warned {
    fn new(warning: &Warning) -> Option<Self> {
        Some(match warning {
            Warning::ListenerNearLimit { place, local, queue, process, .. } => Self {
                warning: "listener-near-limit",
                namespace: place.namespace.inode(),
                place: place.into(),
                local: Some(local.to_string()),
                overflows: None,
                remote: None,
                listener: Some((*queue).into()),
                unread_bytes: None,
                process: process.as_ref().map(Process::from),
            },
            Warning::UnreadAfterPeerClosed { place, local, remote, unread, process, .. } => Self {
                warning: "unread-after-peer-closed",
                namespace: place.namespace.inode(),
                place: place.into(),
                local: Some(local.to_string()),
                overflows: None,
                remote: Some(remote.to_string()),
                listener: None,
                unread_bytes: Some(*unread),
                process: process.as_ref().map(Process::from),
            },
            Warning::AcceptQueueOverflowed { place, local, queue, process, overflows, .. } => Self {
                warning: "accept-queue-overflowed",
                namespace: place.namespace.inode(),
                place: place.into(),
                local: local.map(|local| local.to_string()),
                remote: None,
                listener: queue.map(Queue::from),
                unread_bytes: None,
                overflows: Some(*overflows),
                process: process.as_ref().map(Process::from),
            },
            _ => return None,
        })
    }
}

/// The kernel's counters, and what was seen beside them.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Counters {
    /// Counters of this network namespace that have grown, by the kernel's names.
    kernel: BTreeMap<&'static str, u64>,
    /// Those of other network namespaces, since they were found.
    places: Vec<CountedPlace>,
    /// What cannot be seen on this host, by name.
    blind: Vec<&'static str>,
    /// Resets seen that this host sent, before any filter.
    seen_sent: u64,
    /// Resets seen that it received.
    seen_received: u64,
    /// Those of both that were of connections of this program's own, to a collector (`--otlp`), and are not told.
    own_resets: u64,
    /// Resets that the kernel counted as sent and that were not seen, at least.
    missed: u64,
    /// Events that the kernel dropped because they were not read in time.
    events_lost: u64,
    /// How often the netlink buffer for destroyed sockets overflowed: the byte counts of some resets are unknown.
    overruns: u64,
}

impl LineBody for Counters {
    const KIND: &'static str = "counters";
}

impl From<&library::Counted> for Counters {
    fn from(counted: &library::Counted) -> Self {
        Self {
            kernel: counted.kernel.clone(),
            places: counted.places.iter().map(CountedPlace::from).collect(),
            blind: counted.blind.iter().map(|blind| blind.name()).collect(),
            seen_sent: counted.seen_sent,
            seen_received: counted.seen_received,
            own_resets: counted.own_resets,
            missed: counted.missed,
            events_lost: counted.events_lost,
            overruns: counted.overruns,
        }
    }
}

/// The kernel's counters of another network namespace.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CountedPlace {
    place: ResetPlace,
    /// Counters that have grown, by the kernel's names.
    kernel: BTreeMap<&'static str, u64>,
}

impl From<&library::CountedPlace> for CountedPlace {
    fn from(counted: &library::CountedPlace) -> Self {
        Self { place: (&counted.place).into(), kernel: counted.kernel.clone() }
    }
}

/// Resets that this host sent after one that had its line, for packets that the peer sent without knowing of it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct FurtherResets {
    /// This host's end of the connection.
    local: String,
    /// The other end; null if the kernel does not say.
    remote: Option<String>,
    /// The cause of the first reset.
    #[schemars(schema_with = "common::cause")]
    cause: &'static str,
    /// The process of the first reset.
    process: Option<Process>,
    /// Where the first was sent; null if its namespace is not known.
    place: Option<ResetPlace>,
    /// How many followed, beyond those that were told before.
    resets: u32,
}

impl LineBody for FurtherResets {
    const KIND: &'static str = "further-resets";
}

impl From<&library::FurtherResets> for FurtherResets {
    fn from(further: &library::FurtherResets) -> Self {
        Self {
            local: further.local.to_string(),
            remote: further.remote.map(|remote| remote.to_string()),
            cause: further.cause.name(),
            process: further.process.as_ref().map(Process::from),
            place: further.place.as_ref().map(ResetPlace::from),
            resets: further.resets,
        }
    }
}

/// Prints what happened.
pub(crate) fn notice(notice: &Notice, out: &mut Stdout) -> Result<(), Stopped> {
    match notice {
        Notice::Reset(reset) => out.json(&line(Reset::from(&**reset))),
        Notice::Warning(warning) => match Warned::new(warning) {
            Some(warned) => out.json(&line(warned)),
            None => Ok(()),
        },
        Notice::Further(further) => out.json(&line(FurtherResets::from(&**further))),
        Notice::Counters(counted) => out.json(&line(Counters::from(&**counted))),
        _ => Ok(()),
    }
}

/// How a need of `linger watch` is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NeedState {
    Ok,
    /// Watching works, and shows less.
    Degraded,
    /// Watching does not work.
    Missing,
}

impl NeedState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Missing => "missing",
        }
    }
}

/// A right, limit or setting that `linger watch` needs (`--check`).
#[derive(Serialize, JsonSchema)]
pub(crate) struct NeedLine<'a> {
    /// The need.
    need: &'a str,
    /// How the need is met.
    state: NeedState,
    /// What there is.
    found: &'a str,
    /// What mends it: a command or a setting; null if nothing is missing.
    remedy: Option<&'a str>,
}

impl LineBody for NeedLine<'_> {
    const KIND: &'static str = "need";
}

/// Prints one need.
pub(crate) fn need(
    need: &str,
    state: NeedState,
    found: &str,
    remedy: Option<&str>,
    out: &mut Stdout,
) -> Result<(), Stopped> {
    out.json(&line(NeedLine { need, state, found, remedy }))
}
