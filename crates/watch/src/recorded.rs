//! What is known of a recorded reset: the cause by its packets, and whether it is the kernel's.

use std::net::SocketAddr;

use linger_packet::capture::CaptureReader;
use linger_why::{AnalyzerLimits, Cause, Confidence, Finding, examine_reader};
use serde::{Deserialize, Serialize};

/// Connections that are told apart in the packets of one reset.
const FLOWS: usize = 64;
/// Pieces of evidence that are kept of a verdict.
const EVIDENCE: usize = 8;

/// The record of a reset's packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Recorded {
    /// The number of its file and its own number in it, such as `3-17`; of the first connection with packets, if the reset
    /// stands for several.
    pub id: String,
    /// The capture.
    pub file: String,
    /// Number of packets.
    pub frames: u64,
    /// The cause by the kernel, which is that of the reset unless the packets know better.
    pub kernel: Cause,
    /// The cause by the packets; `None` if they do not show this reset.
    pub packets: Option<WireVerdict>,
    /// Whether the two agree.
    pub agreement: Agreement,
    /// How many connections of this reset have packets.
    pub connections: u32,
}

/// The cause of a reset by its packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WireVerdict {
    /// The cause; [`Cause::Unknown`] where several candidates remain.
    pub cause: Cause,
    /// How sure it is.
    pub confidence: Confidence,
    /// All causes that fit.
    pub candidates: Vec<Cause>,
    /// The observations that it rests on.
    pub evidence: Vec<String>,
}

/// Whether the kernel and the packets agree on a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Agreement {
    /// Both name the same cause.
    Agree,
    /// One does not decide, and what the other names is among its candidates.
    Compatible,
    /// Each names a cause that the other rules out.
    Differ,
    /// The packets do not show this reset.
    NoVerdict,
}

impl Agreement {
    /// The name in JSON; it does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Compatible => "compatible",
            Self::Differ => "differ",
            Self::NoVerdict => "no-verdict",
        }
    }

    pub(crate) fn of(kernel: (Cause, &[Cause]), packets: Option<&WireVerdict>) -> Self {
        let Some(packets) = packets else { return Self::NoVerdict };
        let (cause, candidates) = kernel;
        if cause == packets.cause && cause != Cause::Unknown {
            return Self::Agree;
        }
        // An undecided verdict stands for all of its candidates.
        let all = |cause: Cause, candidates: &[Cause]| -> Vec<Cause> {
            let decided = Some(cause).filter(|cause| *cause != Cause::Unknown);
            candidates.iter().copied().chain(decided).collect()
        };
        let by_packets = all(packets.cause, &packets.candidates);
        let seen = |cause: &Cause| by_packets.iter().any(|by| cause == by || looks(*cause).contains(by));
        // Packets that leave everything open rule nothing out.
        if by_packets.is_empty() || all(cause, candidates).iter().any(seen) {
            Self::Compatible
        } else {
            Self::Differ
        }
    }
}

/// What a cause that only the kernel can know looks like on the wire: when a process ends, the kernel closes its sockets.
fn looks(cause: Cause) -> &'static [Cause] {
    match cause {
        Cause::ProcessGone => &[Cause::ClosedWithUnreadData, Cause::Aborted, Cause::DataAfterClose],
        _ => &[],
    }
}

/// A reset that packets show.
#[derive(Clone, Debug)]
pub(crate) struct JudgedReset {
    from: SocketAddr,
    verdict: WireVerdict,
}

/// The resets that the packets of `section` show: one for each interface that the connection was seen on.
pub(crate) fn judge(section: &[u8]) -> Vec<JudgedReset> {
    let Ok(reader) = CaptureReader::in_memory(section) else { return Vec::new() };
    let mut limits = AnalyzerLimits::default();
    limits.flows = FLOWS;
    let mut judged = Vec::new();
    examine_reader(reader, "", limits, |finding| {
        if finding.class.is_reset() {
            let evidence = finding.evidence.iter().take(EVIDENCE).map(|evidence| evidence.says.to_string());
            let evidence = evidence.collect();
            let Finding { cause, confidence, candidates, from, .. } = finding;
            let verdict = WireVerdict { cause, confidence, candidates, evidence };
            judged.push(JudgedReset { from, verdict });
        }
    });
    judged
}

/// The verdict on a reset of `sender`, as far as the kernel says who that was. Of several, one that decides.
pub(crate) fn verdict_on(judged: &[JudgedReset], sender: SocketAddr) -> Option<WireVerdict> {
    let is_sender = |judged: &&JudgedReset| {
        let same_host = sender.ip().is_unspecified() || judged.from.ip() == sender.ip();
        sender.port() == 0 || judged.from.port() == sender.port() && same_host
    };
    let rank = |judged: &&JudgedReset| (judged.verdict.cause != Cause::Unknown, judged.verdict.confidence);
    judged.iter().filter(is_sender).max_by_key(rank).map(|judged| judged.verdict.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_one_only_where_each_rules_the_other_out() {
        use Cause::*;
        let packets = |cause, candidates: &[Cause]| WireVerdict {
            cause,
            confidence: Confidence::Likely,
            candidates: candidates.to_vec(),
            evidence: Vec::new(),
        };
        let of = |kernel: (Cause, &[Cause]), wire: WireVerdict| Agreement::of(kernel, Some(&wire));
        let unread: (Cause, &[Cause]) = (ClosedWithUnreadData, &[ClosedWithUnreadData]);
        assert_eq!(of(unread, packets(ClosedWithUnreadData, &[])), Agreement::Agree);
        assert_eq!(of(unread, packets(Unknown, &[Aborted, ClosedWithUnreadData])), Agreement::Compatible);
        assert_eq!(of(unread, packets(Unknown, &[])), Agreement::Compatible);
        assert_eq!(of(unread, packets(DataAfterClose, &[DataAfterClose])), Agreement::Differ);
        assert_eq!(of(unread, packets(Unknown, &[Aborted, HalfOpen])), Agreement::Differ);
        assert_eq!(of((Unknown, &[Aborted, Forged]), packets(Forged, &[Forged])), Agreement::Compatible);
        assert_eq!(of((Unknown, &[Aborted]), packets(Forged, &[Forged])), Agreement::Differ);
        let gone: (Cause, &[Cause]) = (ProcessGone, &[ProcessGone]);
        assert_eq!(of(gone, packets(ClosedWithUnreadData, &[ClosedWithUnreadData])), Agreement::Compatible);
        assert_eq!(of(gone, packets(PortClosed, &[PortClosed])), Agreement::Differ);
        assert_eq!(Agreement::of(unread, None), Agreement::NoVerdict);
    }

    #[test]
    fn a_verdict_is_on_the_reset_of_that_sender() {
        let judged = |from: &str, cause, confidence| {
            let verdict = WireVerdict { cause, confidence, candidates: vec![cause], evidence: Vec::new() };
            JudgedReset { from: from.parse().unwrap(), verdict }
        };
        let all = [
            judged("10.0.0.1:80", Cause::Unknown, Confidence::Possible),
            judged("10.0.0.1:80", Cause::Forged, Confidence::Likely),
            judged("10.0.0.2:4000", Cause::Aborted, Confidence::Certain),
        ];
        let on = |sender: &str| verdict_on(&all, sender.parse().unwrap()).map(|verdict| verdict.cause);
        assert_eq!(on("10.0.0.1:80"), Some(Cause::Forged));
        assert_eq!(on("0.0.0.0:80"), Some(Cause::Forged), "a listener");
        assert_eq!(on("10.0.0.2:4000"), Some(Cause::Aborted));
        assert_eq!(on("10.0.0.3:80"), None);
        assert_eq!(on("0.0.0.0:0"), Some(Cause::Aborted), "nobody knows who");
    }
}
