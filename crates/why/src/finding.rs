//! The result for one reset, or for one connection that failed without a reset.

use std::net::SocketAddr;

use serde::Serialize;

use crate::{Cause, Claim, Class, Confidence, NextEvidence, Remedy, ports};

/// A reset, why it was sent, and how that is known.
///
/// If a connection failed without a reset ([`Class::is_reset`]), the packet that shows the failure stands in the place of the
/// reset.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The capture it was found in.
    pub file: String,
    /// The interface it was seen on, by its number in the capture; 0 if there is one only.
    pub interface: u32,
    /// The number of its frame, from 1, as Wireshark counts.
    pub frame: u64,
    /// When it was seen, in nanoseconds since 1970-01-01 00:00 UTC; serialized in seconds.
    #[serde(serialize_with = "seconds")]
    pub time_ns: u64,
    /// Who sent it, or is said to.
    pub from: SocketAddr,
    /// Whom it was sent to.
    pub to: SocketAddr,
    /// The side that opened the connection, by its handshake or else by what the capture suggests; `None` if nothing does.
    pub client: Option<SocketAddr>,
    /// The name that the client has asked for: HTTP's Host, or the server name of TLS.
    pub asked_name: Option<String>,
    /// What the wire proves.
    pub class: Class,
    /// Why it was sent; [`Cause::Unknown`] where several candidates remain.
    pub cause: Cause,
    /// How sure the cause is.
    pub confidence: Confidence,
    /// The causes that fit, the likeliest first.
    pub candidates: Vec<Cause>,
    /// Nothing was lost, and nobody was refused.
    pub harmless: bool,
    /// Bytes of the response that the client never got, as far as the capture shows.
    pub lost_response_bytes: Option<u64>,
    /// Bytes of the request that the server never took, as far as the capture shows.
    pub unread_request_bytes: Option<u64>,
    /// What shows the cause: packets, fields of packets, counts.
    pub evidence: Vec<Evidence>,
    /// The further capture or fact that would decide it.
    pub would_decide: Option<NextEvidence>,
    /// What to do about it.
    pub remedy: Remedy,
    /// Further resets on the same connection, consequences of this one.
    pub further_resets: u32,
    /// How long nothing was sent before the reset, or before the packet that it answers, in nanoseconds.
    #[serde(serialize_with = "perhaps_seconds", rename = "silence_seconds")]
    pub silence_ns: Option<u64>,
    /// From the connection's first packet in the capture to the reset, in nanoseconds.
    #[serde(serialize_with = "perhaps_seconds", rename = "age_seconds")]
    pub age_ns: Option<u64>,
    /// The packets that matter, in order.
    pub ladder: Vec<Rung>,
    /// The reset's TTL or hop limit.
    pub ttl: u8,
    /// The tags and tunnels around it, the outermost first, such as `VLAN 10, VXLAN 42`; empty if there are none.
    pub tags: String,
    #[serde(skip)]
    pub(crate) numbers: Numbers,
}

/// Numbers that identify this connection in other captures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Numbers {
    /// The reset's sequence number.
    pub(crate) seq: u32,
    /// The initial sequence number of each side whose SYN was seen.
    pub(crate) isns: [Option<u32>; 2],
    /// The network it was seen in.
    pub(crate) network: linger_packet::Path,
}

impl Finding {
    /// What the service is called: the name that the client has asked for, or what usually listens on the port.
    pub fn service(&self) -> Option<&str> {
        self.asked_name.as_deref().or_else(|| ports::name_of(self.listener().port()))
    }

    /// The listening end: the one that is not the client, or the sender of the reset if the client is not known.
    pub fn listener(&self) -> SocketAddr {
        if self.client == Some(self.from) { self.to } else { self.from }
    }
}

/// One piece of evidence for a cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Evidence {
    /// The frame that shows the evidence; `None` if the evidence is a count, or that there is no such frame.
    pub frame: Option<u64>,
    /// What it says.
    #[serde(serialize_with = "worded")]
    pub says: Claim,
}

impl Evidence {
    pub(crate) fn view(says: String) -> Self {
        Self { frame: None, says: Claim::OtherView(says) }
    }

    /// Every frame number in it.
    pub(crate) fn frames_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let inside = if let Claim::Answers { frame, .. } = &mut self.says { Some(frame) } else { None };
        self.frame.as_mut().into_iter().chain(inside)
    }
}

fn worded<S: serde::Serializer>(claim: &Claim, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(claim)
}

/// One packet of a ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rung {
    /// The frame's number.
    pub frame: u64,
    /// When it was seen, in nanoseconds since 1970-01-01 00:00 UTC; serialized in seconds.
    #[serde(serialize_with = "seconds")]
    pub time_ns: u64,
    /// Whether the sender of the reset sent it.
    pub by_resetter: bool,
    /// The TCP flags.
    pub flags: String,
    /// The packet's sequence number, counted from the sender's initial one.
    pub seq: u32,
    /// The packet's acknowledgement number, counted from the receiver's initial one.
    pub ack: Option<u32>,
    /// Bytes of payload.
    pub len: u32,
    /// The window field of the header, unscaled; `None` if it was not kept or not captured.
    pub window: Option<u16>,
    /// A remark.
    pub note: Option<String>,
}

fn perhaps_seconds<S: serde::Serializer>(
    nanoseconds: &Option<u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match nanoseconds {
        Some(nanoseconds) => seconds(nanoseconds, serializer),
        None => serializer.serialize_none(),
    }
}

fn seconds<S: serde::Serializer>(nanoseconds: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    // To the microsecond: what an f64 holds of today's times.
    serializer.serialize_f64((*nanoseconds / 1_000) as f64 / 1e6)
}
