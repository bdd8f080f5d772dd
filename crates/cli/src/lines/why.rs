//! Lines of `linger why`.

use linger_why as library;
use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;
use super::common::{self, names};
use super::reset::{owner_address, seconds};
use crate::tools::tools;

/// Resets with one cause at one place.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Group {
    /// Why they were sent.
    #[schemars(schema_with = "common::cause")]
    cause: &'static str,
    /// The causes that fit.
    #[schemars(schema_with = "common::causes")]
    candidates: Vec<&'static str>,
    /// The best confidence among them.
    #[schemars(schema_with = "common::confidence")]
    confidence: &'static str,
    /// Whether all of them were harmless.
    harmless: bool,
    /// The listener concerned; port 0 where there are several.
    listener: Option<String>,
    /// The service: the name that all clients have asked for, or what usually listens on the port.
    service: Option<String>,
    /// Who has to look into it: `server`, `client`, `end` (which of the two is not known, or both), `between` (a box).
    #[schemars(schema_with = "common::owner")]
    owner: &'static str,
    /// The owner's address; null where it is not known, or where there are several.
    owner_address: Option<String>,
    /// Whether a box before the owner may as well be it.
    owner_or_between: bool,
    /// How many connections were reset.
    connections: u64,
    /// Response bytes that never arrived, all together, as far as is visible.
    lost_response_bytes: u64,
    /// Request bytes that were never read, all together, as far as is visible.
    unread_request_bytes: u64,
    /// Where the accept queue was full: SYNs to the listener that were dropped, of all its connections, at least so many. The kernel
    /// counts them in ListenOverflows and ListenDrops.
    dropped_syns: Option<u32>,
    /// The same of what clients sent after a SYN-ACK: the last packet of the handshake, and data.
    dropped_answers: Option<u32>,
    /// Those of the latter that are nothing but an acknowledgement. The kernel counts some of them elsewhere, if the listener has
    /// TCP_DEFER_ACCEPT.
    dropped_bare_acks: Option<u32>,
    /// What clients sent after a SYN-ACK, and got a reset for. It is in no other count here, and the kernel counts it as well.
    refused_answers: Option<u32>,
    /// The first reset's time, RFC 3339.
    #[schemars(schema_with = "common::date_time")]
    first: Option<String>,
    /// The first reset's time, in seconds since 1970.
    first_seconds: Option<f64>,
    /// The last reset's time, RFC 3339.
    #[schemars(schema_with = "common::date_time")]
    last: Option<String>,
    /// The last reset's time, in seconds since 1970.
    last_seconds: Option<f64>,
    /// How long nothing was sent before each of them, in seconds; null if that differs.
    silence_seconds: Option<f64>,
    /// How far the resets differ from that.
    silence_spread_seconds: Option<f64>,
    /// Whose default timeout that silence is.
    timeouts: Vec<&'static str>,
    /// The pause between two resets, in seconds; null if the pauses differ.
    period_seconds: Option<f64>,
    /// The first ones, at most a thousand.
    members: Vec<Member>,
}

impl LineBody for Group {
    const KIND: &'static str = "group";
}

/// One connection of a group.
#[derive(Serialize, JsonSchema)]
struct Member {
    /// The capture.
    file: String,
    /// The reset's frame.
    frame: u64,
    /// The address that sent the reset.
    from: String,
    /// The address to which the reset was sent.
    to: String,
}

impl From<&library::Group> for Group {
    fn from(group: &library::Group) -> Self {
        let member = |member: &library::Member| Member {
            file: member.file.clone(),
            frame: member.frame,
            from: member.from.to_string(),
            to: member.to.to_string(),
        };
        Self {
            cause: group.cause.name(),
            candidates: names(&group.candidates),
            confidence: group.confidence.name(),
            harmless: group.harmless,
            listener: group.listener.map(|listener| listener.to_string()),
            service: group.service().map(str::to_owned),
            owner: group.owner.role.name(),
            owner_address: group.owner.address.map(owner_address),
            owner_or_between: group.owner.or_between,
            connections: group.connections,
            lost_response_bytes: group.lost_response_bytes,
            unread_request_bytes: group.unread_request_bytes,
            dropped_syns: group.drops.map(|drops| drops.syns),
            dropped_answers: group.drops.map(|drops| drops.answers),
            dropped_bare_acks: group.drops.map(|drops| drops.bare),
            refused_answers: group.drops.map(|drops| drops.refused),
            first: common::rfc3339(seconds(group.first_ns)),
            first_seconds: Some(seconds(group.first_ns)),
            last: common::rfc3339(seconds(group.last_ns)),
            last_seconds: Some(seconds(group.last_ns)),
            silence_seconds: group.timing.silence.map(|(silence, _)| seconds(silence)),
            silence_spread_seconds: group.timing.silence.map(|(_, spread)| seconds(spread)),
            timeouts: group.timing.timeouts.clone(),
            period_seconds: group.timing.period.map(seconds),
            members: group.members.iter().map(member).collect(),
        }
    }
}

/// What was read of one capture.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// The capture; the first and the last file of a rotated one.
    file: String,
    /// The number of files it consists of.
    files: u64,
    /// Packets read.
    packets: u64,
    /// Packets that were not looked at, because their time was not asked for.
    outside: u64,
    /// The number of the packets read that are TCP segments of hosts or ports that were not asked for.
    unselected: u64,
    /// The number of the packets read that are TCP segments.
    segments: u64,
    /// IP fragments, which are not reassembled.
    fragments: u64,
    /// Packets cut so short that the TCP flags are missing.
    cut: u64,
    /// Packets whose headers contradict themselves.
    malformed: u64,
    /// Packets with a layer that this program does not understand, in which there may be TCP.
    not_understood: u64,
    /// The layers that were not understood, the commonest first.
    not_understood_layers: Vec<UnreadLayer>,
    /// Packets captured twice.
    duplicates: u64,
    /// Connections seen.
    connections: u64,
    /// Connections forgotten while alive, because there were too many.
    forgotten: u64,
    /// Connections with a reset.
    resets: u64,
    /// The first packet's time, RFC 3339; null where there was none.
    #[schemars(schema_with = "common::date_time")]
    first: Option<String>,
    /// The first packet's time, in seconds since 1970.
    first_seconds: Option<f64>,
    /// The last packet's time, RFC 3339.
    #[schemars(schema_with = "common::date_time")]
    last: Option<String>,
    /// The last packet's time, in seconds since 1970.
    last_seconds: Option<f64>,
    /// Why reading stopped before the end, if it did.
    stopped: Option<String>,
    /// Whether more packets may follow after the point where reading stopped: the capture is damaged there,
    /// or reading was stopped on request. False if the capture is only cut off in its last packet.
    unread: bool,
}

impl LineBody for Summary {
    const KIND: &'static str = "why";
}

/// Packets with one layer that was not understood.
#[derive(Serialize, JsonSchema)]
struct UnreadLayer {
    /// The layer, such as `EtherType 8847`.
    layer: String,
    /// The number of packets.
    packets: u64,
}

impl From<&library::Examined> for Summary {
    fn from(examined: &library::Examined) -> Self {
        let counts = &examined.counts;
        let seconds = |nanoseconds: u64| (nanoseconds != 0).then(|| (nanoseconds / 1_000) as f64 / 1e6);
        let (first, last) = (seconds(counts.first), seconds(counts.last));
        Self {
            file: examined.file.clone(),
            files: examined.files.len() as u64,
            packets: counts.packets,
            outside: counts.outside,
            unselected: counts.unselected,
            segments: counts.segments,
            fragments: counts.fragments,
            cut: counts.cut,
            malformed: counts.malformed,
            not_understood: counts.not_understood,
            not_understood_layers: examined
                .not_understood
                .iter()
                .map(|(layer, packets)| UnreadLayer { layer: layer.to_string(), packets: *packets })
                .collect(),
            duplicates: counts.duplicates,
            connections: counts.connections,
            forgotten: counts.forgotten,
            resets: counts.resets,
            first: first.and_then(common::rfc3339),
            first_seconds: first,
            last: last.and_then(common::rfc3339),
            last_seconds: last,
            stopped: examined.stopped.clone(),
            unread: examined.unread,
        }
    }
}

/// A cause, as `--causes` lists them.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CauseEntry {
    /// The cause's name.
    #[schemars(schema_with = "common::cause")]
    cause: &'static str,
    /// What the cause means.
    meaning: String,
    /// What to do about it.
    remedy: String,
}

impl LineBody for CauseEntry {
    const KIND: &'static str = "cause";
}

impl From<library::Cause> for CauseEntry {
    fn from(cause: library::Cause) -> Self {
        Self {
            cause: cause.name(),
            meaning: cause.meaning().to_owned(),
            remedy: cause.remedy().words(&tools()),
        }
    }
}
