//! Lines of `linger why`.

use linger_why as library;
use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;
use super::common::{self, At, Evidence, ResetBase, names};
use crate::tools::tools;

/// A reset in a capture.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Reset {
    #[serde(flatten)]
    base: ResetBase,
    /// The capture.
    file: String,
    /// The interface it was seen on, by its number in the capture.
    interface: u32,
    /// The number of its frame, from 1, as Wireshark counts.
    frame: u64,
    /// The side that opened the connection, where that is known.
    client: Option<String>,
    /// What the wire proves.
    class: &'static str,
    /// Nothing was lost, and nobody was refused.
    harmless: bool,
    /// Bytes of the response that the client never got, as far as the capture shows.
    lost_response_bytes: Option<u64>,
    /// Bytes of the request that the server never took, as far as the capture shows.
    unread_request_bytes: Option<u64>,
    /// The further capture or fact that would decide it.
    would_decide: Option<String>,
    /// Further resets on the same connection, consequences of this one.
    further_resets: u32,
    /// The packets that matter, in order.
    ladder: Vec<Rung>,
    /// The reset's TTL or hop limit.
    ttl: u8,
}

impl LineBody for Reset {
    const KIND: &'static str = "reset";
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

/// Nanoseconds, to the microsecond: what a number of JSON holds of today's times.
fn at(nanoseconds: u64) -> At {
    At::seconds((nanoseconds / 1_000) as f64 / 1e6)
}

impl From<&library::Finding> for Reset {
    fn from(finding: &library::Finding) -> Self {
        let evidence = finding.evidence.iter();
        Self {
            base: ResetBase {
                at: at(finding.time_ns),
                from: Some(finding.from.to_string()),
                to: Some(finding.to.to_string()),
                cause: finding.cause.name(),
                confidence: finding.confidence.name(),
                candidates: names(&finding.candidates),
                evidence: evidence
                    .map(|evidence| Evidence { frame: evidence.frame, says: evidence.says.clone() })
                    .collect(),
                remedy: finding.remedy.words(&tools()),
            },
            file: finding.file.clone(),
            interface: finding.interface,
            frame: finding.frame,
            client: finding.client.map(|client| client.to_string()),
            class: finding.class.name(),
            harmless: finding.harmless,
            lost_response_bytes: finding.lost_response_bytes,
            unread_request_bytes: finding.unread_request_bytes,
            would_decide: finding.would_decide.map(|ask| ask.words(&tools())),
            further_resets: finding.further_resets,
            ladder: finding.ladder.iter().map(rung).collect(),
            ttl: finding.ttl,
        }
    }
}

fn rung(rung: &library::Rung) -> Rung {
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
    /// How many connections were reset.
    connections: u64,
    /// Response bytes that never arrived, all together, as far as is visible.
    lost_response_bytes: u64,
    /// Request bytes that were never read, all together, as far as is visible.
    unread_request_bytes: u64,
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
            connections: group.connections,
            lost_response_bytes: group.lost_response_bytes,
            unread_request_bytes: group.unread_request_bytes,
            members: group.members.iter().map(member).collect(),
        }
    }
}

/// What was read of one capture.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Summary {
    /// The capture.
    file: String,
    /// Packets read.
    packets: u64,
    /// The number of these packets that are TCP segments.
    segments: u64,
    /// IP fragments, which are not reassembled.
    fragments: u64,
    /// Packets cut so short that the TCP flags are missing.
    cut: u64,
    /// Packets whose headers contradict themselves.
    malformed: u64,
    /// Packets of link types that this program does not know.
    unknown_link: u64,
    /// Packets captured twice.
    duplicates: u64,
    /// Connections seen.
    connections: u64,
    /// Connections forgotten while alive, because too many were.
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
    /// Whether packets may follow there: the capture is damaged, not merely cut off, or was left.
    unread: bool,
}

impl LineBody for Summary {
    const KIND: &'static str = "summary";
}

impl From<&library::Examined> for Summary {
    fn from(examined: &library::Examined) -> Self {
        let counts = &examined.counts;
        let seconds = |nanoseconds: u64| (nanoseconds != 0).then(|| (nanoseconds / 1_000) as f64 / 1e6);
        let (first, last) = (seconds(counts.first), seconds(counts.last));
        Self {
            file: examined.file.clone(),
            packets: counts.packets,
            segments: counts.segments,
            fragments: counts.fragments,
            cut: counts.cut,
            malformed: counts.malformed,
            unknown_link: counts.unknown_link,
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
