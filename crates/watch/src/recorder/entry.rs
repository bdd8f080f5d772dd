//! What is said of a recorded reset: in the comments of its section, and in the index.

use std::fmt::Write;

use linger_untrusted::Untrusted;

use super::index::{IndexedReset, KernelVerdict};
use crate::addresses::Endpoints;
use crate::live_reset::{LiveReset, ProcessRole};
use crate::recorded::{Recorded, WireVerdict};

/// Where the packets of a reset are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SectionPlace {
    /// The number of the file.
    pub(super) file: u64,
    /// Bytes of the capture before the section, and of the section.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// The section's first packet, and the number of its packets.
    pub(super) first_frame: u64,
    pub(super) frames: u64,
}

/// What the kernel said, which is the comment of the reset's packet.
pub(super) fn by_kernel(reset: &LiveReset) -> String {
    let reason = reset.reason.as_ref().map_or(String::new(), |reason| format!(", {reason}"));
    format!("kernel: {} ({}){reason}", reset.cause, reset.confidence.name())
}

/// The comment of the whole section.
pub(super) fn comment(reset: &LiveReset, ends: &Endpoints, recorded: &Recorded) -> String {
    let kernel = by_kernel(reset);
    let peer = if ends.1.port() == 0 { "?".to_owned() } else { ends.1.to_string() };
    let mut whole =
        format!("reset {} {}: {} -> {peer}\n{kernel}", recorded.id, reset.direction.name(), ends.0);
    // Writing to a text does not fail.
    for says in &reset.evidence {
        let _ = write!(whole, "\n  {}", Untrusted::from(says.as_str()).terminal());
    }
    if let Some(process) = &reset.process {
        let role = reset.role.map_or("by", ProcessRole::words);
        let _ = write!(whole, "\nprocess: {role} {}", process.terminal());
    }
    let _ = write!(whole, "\nbytes: {}", reset.bytes.describe());
    let _ = match &recorded.packets {
        Some(WireVerdict { cause, confidence, .. }) => {
            write!(whole, "\npackets: {cause} ({}): {}", confidence.name(), recorded.agreement.name())
        }
        None => write!(whole, "\npackets: they do not show this reset"),
    };
    whole
}

/// The line of the index.
pub(super) fn entry(
    reset: &LiveReset,
    (ends, time_ns): (&Endpoints, u64),
    recorded: &Recorded,
    place: &SectionPlace,
) -> IndexedReset {
    IndexedReset {
        id: recorded.id.clone(),
        time_seconds: (time_ns / 1_000) as f64 / 1e6,
        direction: reset.direction,
        local: ends.0,
        remote: (ends.1.port() != 0).then_some(ends.1),
        kernel: KernelVerdict {
            cause: reset.cause,
            confidence: reset.confidence,
            candidates: reset.candidates.clone(),
            reason: reset.reason.clone(),
            pid: reset.process.as_ref().map(|process| process.pid),
            process: reset.process.as_ref().map(|process| process.name.clone()),
        },
        packets: recorded.packets.clone(),
        agreement: recorded.agreement,
        file: recorded.file.clone(),
        offset: place.offset,
        bytes: place.bytes,
        first_frame: place.first_frame,
        frames: place.frames,
    }
}
