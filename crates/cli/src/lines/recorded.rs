//! Recorded resets: in the lines of `linger watch --record`, and the line of `linger why --reset`.

use linger_untrusted::Untrusted;
use linger_watch::{IndexedReset, RecordCounts, Recorded, WireVerdict};
use schemars::JsonSchema;
use serde::Serialize;

use super::common::{self, At, names};
use super::{LineBody, line};
use crate::output::{Stdout, Stopped};

/// The record of a reset.
#[derive(Serialize, JsonSchema)]
pub(super) struct RecordedAs {
    /// Its id, for `linger why --reset ID DIR`; of the first connection, if the line stands for several.
    id: String,
    /// The capture, in the directory of the records.
    file: String,
    /// Number of packets.
    frames: u64,
    /// How many connections of this line have records.
    connections: u32,
    /// The cause by the kernel: that of the line, unless the kernel could not know and the packets do.
    #[schemars(schema_with = "common::cause")]
    kernel_cause: &'static str,
    /// The cause by the packets; null if they do not show this reset.
    #[schemars(schema_with = "common::perhaps_cause")]
    packets_cause: Option<&'static str>,
    /// How sure the packets are.
    #[schemars(schema_with = "common::perhaps_confidence")]
    packets_confidence: Option<&'static str>,
    /// The causes that fit the packets.
    #[schemars(schema_with = "common::causes")]
    packets_candidates: Vec<&'static str>,
    /// Whether kernel and packets `agree`; are `compatible`, as one does not decide and admits what the other names; `differ`;
    /// or the packets do not show this reset (`no-verdict`).
    agreement: &'static str,
}

fn candidates(packets: Option<&WireVerdict>) -> Vec<&'static str> {
    packets.map_or(Vec::new(), |packets| names(&packets.candidates))
}

impl From<&Recorded> for RecordedAs {
    fn from(recorded: &Recorded) -> Self {
        let packets = recorded.packets.as_ref();
        Self {
            id: recorded.id.clone(),
            file: recorded.file.clone(),
            frames: recorded.frames,
            connections: recorded.connections,
            kernel_cause: recorded.kernel.name(),
            packets_cause: packets.map(|packets| packets.cause.name()),
            packets_confidence: packets.map(|packets| packets.confidence.name()),
            packets_candidates: candidates(packets),
            agreement: recorded.agreement.name(),
        }
    }
}

/// A recorded reset (`linger why --reset`): what the kernel said when it happened. The line `reset` after it is what the packets say now.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RecordedLine {
    #[serde(flatten)]
    at: At,
    /// Its id.
    id: String,
    /// `sent` or `received`, by the host that recorded it.
    direction: &'static str,
    /// That host's end.
    local: String,
    /// The other end; null if it is not known.
    remote: Option<String>,
    /// The cause by the kernel.
    #[schemars(schema_with = "common::cause")]
    kernel_cause: &'static str,
    /// How sure it is.
    #[schemars(schema_with = "common::confidence")]
    kernel_confidence: &'static str,
    /// The causes that fit what the kernel said.
    #[schemars(schema_with = "common::causes")]
    kernel_candidates: Vec<&'static str>,
    /// The kernel's name of the reason.
    reason: Option<String>,
    /// The pid of the process concerned.
    pid: Option<u32>,
    /// Its name.
    process: Option<String>,
    /// The cause by the packets, when it was recorded.
    #[schemars(schema_with = "common::perhaps_cause")]
    packets_cause: Option<&'static str>,
    /// How sure the packets are.
    #[schemars(schema_with = "common::perhaps_confidence")]
    packets_confidence: Option<&'static str>,
    /// The causes that fit the packets.
    #[schemars(schema_with = "common::causes")]
    packets_candidates: Vec<&'static str>,
    /// Whether the two agree: `agree`, `compatible`, `differ`, `no-verdict`.
    agreement: &'static str,
    /// The capture.
    file: String,
    /// Where its section begins in the capture.
    section_offset_bytes: u64,
    /// The length of the section.
    section_bytes: u64,
    /// The section's first packet in the capture.
    first_frame: u64,
    /// Number of packets.
    frames: u64,
}

impl LineBody for RecordedLine {
    const KIND: &'static str = "recorded-reset";
}

impl From<&IndexedReset> for RecordedLine {
    fn from(reset: &IndexedReset) -> Self {
        let (kernel, packets) = (&reset.kernel, reset.packets.as_ref());
        Self {
            at: At::seconds(reset.time_seconds),
            id: reset.id.clone(),
            direction: reset.direction.name(),
            local: reset.local.to_string(),
            remote: reset.remote.map(|remote| remote.to_string()),
            kernel_cause: kernel.cause.name(),
            kernel_confidence: kernel.confidence.name(),
            kernel_candidates: names(&kernel.candidates),
            reason: kernel.reason.clone(),
            pid: kernel.pid,
            process: kernel.process.as_ref().map(Untrusted::json).map(Into::into),
            packets_cause: packets.map(|packets| packets.cause.name()),
            packets_confidence: packets.map(|packets| packets.confidence.name()),
            packets_candidates: candidates(packets),
            agreement: reset.agreement.name(),
            file: reset.file.clone(),
            section_offset_bytes: reset.offset,
            section_bytes: reset.bytes,
            first_frame: reset.first_frame,
            frames: reset.frames,
        }
    }
}

/// What the recorder of `linger watch --record` has done, at the end.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Recording {
    /// Resets that have a record: two ends of one connection are two, and share their packets.
    recorded: u64,
    /// Resets of which no packet was there: of other network namespaces, or pushed out of the memory.
    without_packets: u64,
    /// Resets whose packets could not be written.
    not_written: u64,
    /// Recorded resets that were removed to make room (`--keep`).
    overwritten: u64,
    /// Packets that the kernel dropped because they were not read in time.
    dropped_packets: u64,
    /// Records of which kernel and packets differ.
    differ: u64,
}

impl LineBody for Recording {
    const KIND: &'static str = "recording";
}

/// Prints what was recorded.
pub(crate) fn recording(counts: RecordCounts, out: &mut Stdout) -> Result<(), Stopped> {
    let RecordCounts { recorded, without_packets, not_written, overwritten, dropped_packets, differ, .. } =
        counts;
    out.json(&line(Recording {
        recorded,
        without_packets,
        not_written,
        overwritten,
        dropped_packets,
        differ,
    }))
}
