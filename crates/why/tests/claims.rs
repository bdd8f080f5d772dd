//! Every sentence of evidence against the packets, by the checker of `examples/corpus`, which knows nothing of the rules.

#[path = "../examples/corpus/check.rs"]
mod check;
#[path = "../examples/corpus/check_course.rs"]
mod check_course;
#[path = "../examples/corpus/check_failed.rs"]
mod check_failed;
#[path = "../examples/corpus/check_prints.rs"]
mod check_prints;
#[path = "../examples/corpus/check_sender.rs"]
mod check_sender;
#[path = "../examples/corpus/check_streams.rs"]
mod check_streams;
#[path = "../examples/corpus/payload.rs"]
mod payload;
#[path = "../examples/corpus/trace.rs"]
mod trace;

use std::path::{Path, PathBuf};

use linger_packet::IcmpProblem;
use linger_why::{AnalyzerLimits, Cause, Claim, Finding, examine};

fn captures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    let folders = [folder.clone(), folder.join("http2")];
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "gz"))
        .collect()
}

fn findings(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    examine(path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
    findings
}

#[test]
fn no_sentence_is_refuted_by_its_packets() {
    let mut sentences = 0;
    for path in captures() {
        let packets = trace::read(&path).unwrap();
        for finding in findings(&path) {
            sentences += finding.evidence.len();
            let refuted = check::refuted(&packets, &finding);
            let words: Vec<_> = refuted.iter().map(ToString::to_string).collect();
            assert!(words.is_empty(), "{} frame {}: {words:?}", path.display(), finding.frame);
        }
    }
    assert!(sentences > 700, "{sentences}");
}

/// The checker must be able to refute: each sentence with one number changed.
#[test]
fn a_sentence_with_a_wrong_number_is_refuted() {
    let wrong = |claim: &Claim| {
        Some(match *claim {
            Claim::Answers { window, what, frame, or_earlier } => {
                Claim::Answers { window, what, frame: frame - 1, or_earlier }
            }
            Claim::Unasked { window, timestamps, at_next } => {
                Claim::Unasked { window, timestamps: !timestamps, at_next }
            }
            Claim::ClosedBefore { nanoseconds } => Claim::ClosedBefore { nanoseconds: nanoseconds + 5_000 },
            Claim::LateBytes { bytes, defied } => Claim::LateBytes { bytes: bytes + 1, defied },
            Claim::LateAcknowledged(bytes) => Claim::LateAcknowledged(bytes + 1),
            Claim::Undelivered(bytes) => Claim::Undelivered(bytes + 1),
            Claim::RequestIncomplete(bytes) => Claim::RequestIncomplete(bytes + 1),
            Claim::RequestsUnanswered(count) => Claim::RequestsUnanswered(count + 1),
            Claim::ResponseShort(bytes) => Claim::ResponseShort(bytes + 1),
            Claim::WindowReopens { before, now } => Claim::WindowReopens { before: before + 1, now },
            Claim::KeepaliveProbes { count, pauses_ms } => {
                Claim::KeepaliveProbes { count: count + 1, pauses_ms }
            }
            Claim::SynAckRepeated(count) => Claim::SynAckRepeated(count + 1),
            Claim::SynsUnanswered { count, nanoseconds } => {
                Claim::SynsUnanswered { count: count + 1, nanoseconds }
            }
            Claim::OpenedLate { count, nanoseconds } => {
                Claim::OpenedLate { count, nanoseconds: nanoseconds + 5_000_000 }
            }
            Claim::PortCrowded { again, at_first, unheard: 0 } => {
                Claim::PortCrowded { again: again + 1, at_first, unheard: 0 }
            }
            Claim::PortCrowded { again, at_first, unheard } => {
                Claim::PortCrowded { again, at_first, unheard: unheard + 1 }
            }
            Claim::PortOpenedLate(count) => Claim::PortOpenedLate(count + 1),
            Claim::ClosedShort(bytes) => Claim::ClosedShort(bytes + 1),
            Claim::RecordCut(bytes) => Claim::RecordCut(bytes + 1),
            Claim::RequestCut(bytes) => Claim::RequestCut(bytes + 1),
            Claim::CrossedByRequest(bytes) => Claim::CrossedByRequest(bytes + 1),
            Claim::RestedBeforeFin { nanoseconds } => {
                Claim::RestedBeforeFin { nanoseconds: nanoseconds + 5_000 }
            }
            Claim::WindowStuck { probes, nanoseconds } => {
                Claim::WindowStuck { probes, nanoseconds: nanoseconds + 5_000_000 }
            }
            Claim::SentAgain { bytes, count, nanoseconds } => {
                Claim::SentAgain { bytes, count: count + 1, nanoseconds }
            }
            Claim::NoneSoLongTaken { .. } => Claim::NoneSoLongTaken { bytes: 0 },
            Claim::ShorterTaken { bytes } => Claim::ShorterTaken { bytes: bytes + 1 },
            Claim::Icmp { reporter, .. } => Claim::Icmp { problem: IcmpProblem::TimeExceeded, reporter },
            Claim::TtlDiffers { reset, usual } => Claim::TtlDiffers { reset, usual: usual + 1 },
            Claim::Silence { nanoseconds } => Claim::Silence { nanoseconds: nanoseconds + 5_000 },
            Claim::GoAway { party, error, last, ref debug } => {
                Claim::GoAway { party, error: error + 1, last, debug: debug.clone() }
            }
            Claim::StreamsReset { party, error, ref streams } => {
                Claim::StreamsReset { party, error: error + 1, streams: streams.clone() }
            }
            Claim::Streams { fate, ref streams } => {
                let mut streams = streams.clone();
                streams.count += 1;
                Claim::Streams { fate, streams }
            }
            Claim::FastCgiUnread { stdin_ended } => Claim::FastCgiUnread { stdin_ended: !stdin_ended },
            _ => return None,
        })
    };
    let mut kinds = std::collections::BTreeSet::new();
    for path in captures() {
        let packets = trace::read(&path).unwrap();
        for finding in findings(&path) {
            for (at, evidence) in finding.evidence.iter().enumerate() {
                let Some(claim) = wrong(&evidence.says) else { continue };
                kinds.insert(format!("{claim:?}").split([' ', '(']).next().unwrap_or_default().to_owned());
                let mut changed = finding.clone();
                changed.evidence[at].says = claim;
                let refuted = check::refuted(&packets, &changed);
                assert!(!refuted.is_empty(), "{}: {:?}", path.display(), changed.evidence[at]);
            }
            let mut changed = finding.clone();
            changed.lost_response_bytes = Some(1 << 40);
            let known = finding.client.is_some() && finding.cause != Cause::Unknown;
            assert!(!known || !check::refuted(&packets, &changed).is_empty(), "{}", path.display());
        }
    }
    assert!(kinds.len() >= 26, "{kinds:?}");
}
