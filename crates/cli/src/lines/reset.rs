//! A reset: one kind of line for `linger why`, which reads captures, and `linger watch`, which sees them live.

use std::net::SocketAddr;

use linger_watch::{Direction, KnownPlace, LiveReset, NamespaceId, ProcessRole, Unknown};
use linger_why::Finding;
use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;
use super::common::{self, At, Process, names};
use super::recorded::RecordedAs;
use crate::tools::tools;

/// A reset, in a capture or live. What only one of the two can know is null in the other's lines.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Reset {
    #[serde(flatten)]
    at: At,
    /// The address that sent the reset, or that the reset claims as its sender; null if it is not known.
    from: Option<String>,
    /// The address to which the reset was sent.
    to: Option<String>,
    /// Why the reset was sent; `unknown` if several candidates remain.
    #[schemars(schema_with = "common::cause")]
    cause: &'static str,
    /// How sure the cause is.
    #[schemars(schema_with = "common::confidence")]
    confidence: &'static str,
    /// The causes that fit, the likeliest first.
    #[schemars(schema_with = "common::causes")]
    candidates: Vec<&'static str>,
    /// The evidence for the cause.
    evidence: Vec<Evidence>,
    /// What to do about it.
    remedy: String,
    /// Whether nothing was lost and no connection was refused; null in the lines of `linger watch`.
    harmless: Option<bool>,
    /// Bytes of the response that the client never got, as far as the capture shows.
    lost_response_bytes: Option<u64>,
    /// Bytes of the request that the server never took, as far as the capture shows.
    unread_request_bytes: Option<u64>,
    /// The further capture or fact that would decide it.
    would_decide: Option<String>,
    /// Further resets on the same connection, consequences of this one. Live: those that came before this line; later
    /// ones have lines of type `further-resets`.
    further_resets: Option<u32>,
    /// The capture; null in the lines of `linger watch`, as all further fields of captures.
    file: Option<String>,
    /// The interface it was seen on, by its number in the capture.
    interface: Option<u32>,
    /// The number of its frame, from 1, as Wireshark counts.
    frame: Option<u64>,
    /// The tags and tunnels around it, the outermost first, such as `VLAN 10, VXLAN 42`; empty if there are none.
    tags: Option<String>,
    /// The side that opened the connection, if that is known.
    client: Option<String>,
    /// The service: the name that the client has asked for, or what usually listens on the port.
    service: Option<String>,
    /// Who has to look into it: `server`, `client`, `end` (which of the two is not known), `between` (a box). Of an undecided
    /// reset, whose address it carries.
    #[schemars(schema_with = "common::perhaps_owner")]
    owner: Option<&'static str>,
    /// The owner's address, if it is known.
    owner_address: Option<String>,
    /// Whether a box before the owner may as well be it.
    owner_or_between: Option<bool>,
    /// What the wire proves.
    class: Option<&'static str>,
    /// How long nothing was sent before the reset, or before the packet that it answers, in seconds.
    silence_seconds: Option<f64>,
    /// From the connection's first packet in the capture to the reset, in seconds.
    age_seconds: Option<f64>,
    /// The packets that matter, in order; none in the lines of `linger watch`.
    ladder: Vec<Rung>,
    /// The reset's TTL or hop limit.
    ttl: Option<u8>,
    /// Live: `sent` or `received`, by this host. Null in a capture, as all further fields.
    direction: Option<&'static str>,
    /// This host's end.
    local: Option<String>,
    /// The other end; null if the kernel does not say.
    remote: Option<String>,
    /// The kernel's name of the reason.
    reason: Option<String>,
    /// The socket's TCP state at that moment.
    state: Option<&'static str>,
    /// The process concerned.
    process: Option<Process>,
    /// What the process has to do with it: it `closed` or aborted the connection, or ended; it `held` the connection,
    /// which its peer reset; it `listens` on the port, and the kernel answered in its place.
    process_role: Option<&'static str>,
    /// Where on this host it was.
    place: Option<ResetPlace>,
    /// How many connections this line stands for: more than one if a process ended with several.
    connections: Option<u32>,
    /// Bytes that this host had received and the process had not read.
    unread_bytes: Option<u32>,
    /// Bytes that the process had written and the peer had not acknowledged.
    unacknowledged_bytes: Option<u32>,
    /// The part of the unacknowledged bytes that never left this host.
    unsent_bytes: Option<u32>,
    /// Why some of the bytes are not known.
    bytes_unknown: Option<&'static str>,
    /// The listener's queue, if a listener is concerned.
    listener: Option<Queue>,
    /// With `--record`: where its packets are, and what they say; null if there are none.
    recorded: Option<RecordedAs>,
}

impl LineBody for Reset {
    const KIND: &'static str = "reset";
}

/// One thing that speaks for a cause.
#[derive(Debug, Serialize, JsonSchema)]
struct Evidence {
    /// The frame of the capture that shows the evidence; null if no single frame shows it.
    frame: Option<u64>,
    /// The evidence in words.
    says: String,
}

/// A network namespace of this host, and the workload there.
#[derive(Serialize, JsonSchema)]
pub(super) struct ResetPlace {
    /// The network namespace, by the inode that `lsns` shows; null if it is not known.
    namespace: Option<u64>,
    /// The namespace's name, if `ip netns` or Docker gave it one.
    namespace_name: Option<String>,
    /// If the namespace is not known: those that have the local address, at most 16.
    namespace_candidates: Vec<u64>,
    /// The process's cgroup.
    cgroup: Option<String>,
    /// The container's id.
    container: Option<String>,
    /// The uid of the Kubernetes pod.
    pod: Option<String>,
    /// The systemd unit.
    unit: Option<String>,
}

impl From<&LiveReset> for ResetPlace {
    fn from(reset: &LiveReset) -> Self {
        let workload = reset.workload.clone().unwrap_or_default();
        let json = |text: linger_untrusted::Untrusted| text.json().into_owned();
        Self {
            namespace: reset.namespace.map(NamespaceId::inode),
            namespace_name: reset.namespace_name.clone().map(json),
            namespace_candidates: reset.namespace_candidates.iter().map(|id| id.inode()).collect(),
            cgroup: workload.cgroup.map(json),
            container: workload.container,
            pod: workload.pod,
            unit: workload.unit.map(json),
        }
    }
}

impl From<&KnownPlace> for ResetPlace {
    fn from(place: &KnownPlace) -> Self {
        let workload = place.workload.clone().unwrap_or_default();
        let json = |text: linger_untrusted::Untrusted| text.json().into_owned();
        Self {
            namespace: Some(place.namespace.inode()),
            namespace_name: place.name.clone().map(json),
            namespace_candidates: Vec::new(),
            cgroup: workload.cgroup.map(json),
            container: workload.container,
            pod: workload.pod,
            unit: workload.unit.map(json),
        }
    }
}

/// One packet.
#[derive(Serialize, JsonSchema)]
struct Rung {
    /// The frame's number.
    frame: u64,
    #[serde(flatten)]
    at: At,
    /// Whether the sender of the reset sent this packet.
    by_resetter: bool,
    /// The TCP flags.
    flags: String,
    /// The packet's sequence number, counted from the sender's initial one.
    seq: u32,
    /// The packet's acknowledgement number, counted from the receiver's initial one.
    ack: Option<u32>,
    /// Bytes of payload.
    payload_bytes: u32,
    /// The window field as it stands in the header; null where it was not kept or not captured.
    window: Option<u16>,
    /// What is remarkable about the packet.
    note: Option<String>,
}

/// A listener's accept queue.
#[derive(Serialize, JsonSchema)]
pub(super) struct Queue {
    /// Connections that wait for `accept`.
    waiting: u32,
    /// The limit: a backlog of n holds n + 1.
    limit: u32,
}

impl From<linger_watch::AcceptQueue> for Queue {
    fn from(queue: linger_watch::AcceptQueue) -> Self {
        Self { waiting: queue.waiting, limit: queue.limit }
    }
}

/// Nanoseconds, to the microsecond: what a number of JSON holds of today's times.
fn at(nanoseconds: u64) -> At {
    At::seconds(seconds(nanoseconds))
}

/// An owner's address, with its port if it has one.
pub(super) fn owner_address(address: SocketAddr) -> String {
    if address.port() == 0 { address.ip().to_string() } else { address.to_string() }
}

pub(super) fn seconds(nanoseconds: u64) -> f64 {
    (nanoseconds / 1_000) as f64 / 1e6
}

impl From<&Finding> for Reset {
    fn from(finding: &Finding) -> Self {
        let evidence = finding.evidence.iter();
        let owner = finding.owner();
        Self {
            at: at(finding.time_ns),
            from: Some(finding.from.to_string()),
            to: Some(finding.to.to_string()),
            cause: finding.cause.name(),
            confidence: finding.confidence.name(),
            candidates: names(&finding.candidates),
            evidence: evidence
                .map(|evidence| Evidence { frame: evidence.frame, says: evidence.says.to_string() })
                .collect(),
            remedy: finding.remedy.words(&tools()),
            harmless: Some(finding.harmless),
            lost_response_bytes: finding.lost_response_bytes,
            unread_request_bytes: finding.unread_request_bytes,
            would_decide: finding.would_decide.map(|ask| ask.words(&tools())),
            further_resets: Some(finding.further_resets),
            file: Some(finding.file.clone()),
            interface: Some(finding.interface),
            frame: Some(finding.frame),
            tags: Some(finding.tags.clone()),
            client: finding.client.map(|client| client.to_string()),
            service: finding.service().map(str::to_owned),
            owner: Some(owner.role.name()),
            owner_address: owner.address.map(owner_address),
            owner_or_between: Some(owner.or_between),
            class: Some(finding.class.name()),
            silence_seconds: finding.silence_ns.map(seconds),
            age_seconds: finding.age_ns.map(seconds),
            ladder: finding.ladder.iter().map(rung).collect(),
            ttl: Some(finding.ttl),
            direction: None,
            local: None,
            remote: None,
            reason: None,
            state: None,
            process: None,
            process_role: None,
            place: None,
            connections: None,
            unread_bytes: None,
            unacknowledged_bytes: None,
            unsent_bytes: None,
            bytes_unknown: None,
            listener: None,
            recorded: None,
        }
    }
}

fn rung(rung: &linger_why::Rung) -> Rung {
    Rung {
        frame: rung.frame,
        at: at(rung.time_ns),
        by_resetter: rung.by_resetter,
        flags: rung.flags.clone(),
        seq: rung.seq,
        ack: rung.ack,
        payload_bytes: rung.len,
        window: rung.window,
        note: rung.note.clone(),
    }
}

impl From<&LiveReset> for Reset {
    fn from(reset: &LiveReset) -> Self {
        let (local, remote) = (Some(reset.local.to_string()), reset.remote.map(|remote| remote.to_string()));
        let (from, to) = match reset.direction {
            Direction::Sent => (local.clone(), remote.clone()),
            _ => (remote.clone(), local.clone()),
        };
        let says = |says: &String| Evidence { frame: None, says: says.clone() };
        Self {
            at: At::seconds(reset.time_seconds),
            from,
            to,
            cause: reset.cause.name(),
            confidence: reset.confidence.name(),
            candidates: names(&reset.candidates),
            evidence: reset.evidence.iter().map(says).collect(),
            remedy: reset.remedy.words(&tools()),
            harmless: None,
            lost_response_bytes: None,
            unread_request_bytes: None,
            would_decide: None,
            further_resets: Some(reset.further_resets),
            file: None,
            interface: None,
            frame: None,
            tags: None,
            client: None,
            service: None,
            owner: None,
            owner_address: None,
            owner_or_between: None,
            class: None,
            silence_seconds: None,
            age_seconds: None,
            ladder: Vec::new(),
            ttl: None,
            direction: Some(reset.direction.name()),
            local,
            remote,
            reason: reset.reason.clone(),
            state: reset.state,
            process: reset.process.as_ref().map(Process::from),
            process_role: reset.role.map(ProcessRole::name),
            place: Some(ResetPlace::from(reset)),
            connections: Some(reset.connections),
            unread_bytes: reset.bytes.unread,
            unacknowledged_bytes: reset.bytes.unacknowledged,
            unsent_bytes: reset.bytes.unsent,
            bytes_unknown: reset.bytes.unknown.map(Unknown::meaning),
            listener: reset.listener.map(Queue::from),
            recorded: reset.recorded.as_ref().map(RecordedAs::from),
        }
    }
}
