//! The labelled captures: every cause, at the client, in the middle and at the server.
//!
//! `captures/record.py` recorded them from real kernels; `captures/labels.toml` says what is right. A new
//! scenario goes into both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use linger_packet::capture::{self, CaptureReader};
use linger_packet::{LinkType, Segment, pcapng};
use linger_why::{AnalyzerLimits, Cause, Confidence, Finding, Rule, compare, examine_reader};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    causes: Vec<String>,
    #[serde(default)]
    elsewhere: Vec<String>,
    #[serde(default)]
    undecided: Vec<String>,
    #[serde(default)]
    unseen: Vec<String>,
    harmless: Option<bool>,
}

const PLACES: [&str; 3] = ["client", "middle", "server"];

fn directory() -> PathBuf {
    std::env::var_os("LINGER_CAPTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("captures"), PathBuf::from)
}

fn labels() -> BTreeMap<String, Label> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/labels.toml");
    toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn capture_of(name: &str, place: &str) -> PathBuf {
    directory().join(format!("{name}.{place}.pcap.gz"))
}

fn findings(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let examined = linger_why::examine(path, AnalyzerLimits::default(), |finding| findings.push(finding))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(examined.stopped, None);
    findings
}

/// A capture's packets, changed: each frame becomes none, one or several.
fn changed(path: &Path, mut change: impl FnMut(usize, &[u8]) -> Vec<Vec<u8>>) -> Vec<Finding> {
    let mut reader = capture::open(path).unwrap();
    let mut writer = pcapng::Writer::new(Vec::new(), "test").unwrap();
    let interface = writer.interface("changed", LinkType::ETHERNET, 0).unwrap();
    let mut at = 0;
    while let Some(packet) = reader.next().unwrap() {
        for frame in change(at, packet.data) {
            writer.packet(interface, packet.time_ns, &frame, packet.wire_len as u32, None).unwrap();
        }
        at += 1;
    }
    let file = writer.into_inner();
    let mut findings = Vec::new();
    let reader = CaptureReader::in_memory(&file).unwrap();
    examine_reader(reader, &path.display().to_string(), AnalyzerLimits::default(), |finding| {
        findings.push(finding)
    });
    findings
}

#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Right,
    Undecided,
    Wrong,
}

fn mark(finding: &Finding, label: &Label, place: &str) -> Mark {
    let elsewhere = label.elsewhere.iter().filter(|_| place != "client");
    let right = |name: &str| label.causes.iter().chain(elsewhere.clone()).any(|cause| cause == name);
    if right(finding.cause.name()) {
        Mark::Right
    } else if finding.cause == Cause::Unknown && finding.candidates.iter().any(|cause| right(cause.name())) {
        Mark::Undecided
    } else {
        Mark::Wrong
    }
}

#[test]
fn every_cause_is_named_or_honestly_undecided() {
    let (mut decidable, mut named, mut complaints) = (0, 0, Vec::new());
    let mut right = BTreeMap::<String, u16>::new();
    for (name, label) in labels() {
        for place in PLACES {
            let findings = findings(&capture_of(&name, place));
            if findings.is_empty() != label.unseen.iter().any(|unseen| unseen == place) {
                complaints.push(format!("{name} {place}: {} resets", findings.len()));
            }
            for finding in &findings {
                let what = format!(
                    "{name} {place} frame {}: {} ({}, {}) candidates {:?} harmless {} lost {:?} unread {:?}",
                    finding.frame,
                    finding.cause,
                    finding.confidence,
                    finding.class,
                    finding.candidates,
                    finding.harmless,
                    finding.lost_response_bytes,
                    finding.unread_request_bytes
                );
                println!("{what}");
                let mark = mark(finding, &label, place);
                if mark == Mark::Right {
                    *right.entry(format!("{}/{}", finding.cause, finding.class)).or_default() += 1;
                }
                if mark == Mark::Wrong {
                    complaints.push(format!("wrong: {what}"));
                }
                if finding.confidence == Confidence::Certain {
                    assert_eq!(mark, Mark::Right, "certain and wrong: {what}");
                }
                if !label.undecided.iter().any(|undecided| undecided == place) {
                    decidable += 1;
                    named += usize::from(mark == Mark::Right);
                    if mark == Mark::Undecided {
                        complaints.push(format!("undecided: {what}"));
                    }
                }
                if label.harmless.is_some_and(|harmless| harmless != finding.harmless) {
                    complaints.push(format!("harmless should be {}: {what}", !finding.harmless));
                }
            }
        }
    }
    println!("{named} of {decidable} decidable resets named, {right:?}");
    let table = Rule::all().iter().filter(|rule| rule.labelled > 0).map(|rule| (rule.name(), rule.labelled));
    assert_eq!(table.collect::<BTreeMap<_, _>>(), right, "the numbers in src/rules.rs");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(decidable >= 75 && named * 10 >= decidable * 9, "{named} of {decidable}");
}

/// Runs every capture through `change`; nothing may be both certain and wrong.
fn none_certain_and_wrong(change: impl Fn(usize, &[u8]) -> Vec<Vec<u8>>) -> (usize, usize) {
    let (mut all, mut wrong) = (0, 0);
    for (name, label) in labels() {
        for place in PLACES {
            for finding in changed(&capture_of(&name, place), &change) {
                let mark = mark(&finding, &label, place);
                all += 1;
                if mark == Mark::Wrong {
                    wrong += 1;
                    println!("{name} {place}: {} ({})", finding.cause, finding.confidence);
                }
                assert!(
                    finding.confidence != Confidence::Certain || mark == Mark::Right,
                    "certain and wrong: {name} {place} frame {}: {:?}",
                    finding.frame,
                    finding
                );
            }
        }
    }
    (all, wrong)
}

#[test]
fn a_snap_length_of_68_changes_confidence_not_honesty() {
    let (all, wrong) = none_certain_and_wrong(|_, frame| vec![frame[..frame.len().min(68)].to_vec()]);
    assert!(all > 240 && wrong * 50 <= all, "{wrong} of {all} wrong");
}

#[test]
fn captures_that_begin_in_the_middle_are_not_guessed_over() {
    let (all, wrong) = none_certain_and_wrong(|at, frame| if at < 5 { vec![] } else { vec![frame.to_vec()] });
    assert!(all > 100 && wrong * 10 <= all, "{wrong} of {all} wrong");
}

#[test]
fn one_direction_alone_is_not_guessed_over() {
    for from_server in [true, false] {
        let (all, wrong) = none_certain_and_wrong(|_, frame| {
            // An ICMP error has no ports of its own.
            let Ok(segment) = Segment::from_ethernet(frame) else { return vec![frame.to_vec()] };
            if (segment.source.port() < 10_000) == from_server { vec![frame.to_vec()] } else { vec![] }
        });
        assert!(wrong * 20 <= all, "{wrong} of {all} wrong");
    }
}

#[test]
fn packets_captured_twice_count_once() {
    for (name, label) in labels() {
        for place in PLACES {
            let path = capture_of(&name, place);
            let once = findings(&path);
            let twice = changed(&path, |_, frame| vec![frame.to_vec(), frame.to_vec()]);
            let causes = |findings: &[Finding]| {
                let mut causes: Vec<_> = findings.iter().map(|finding| finding.cause).collect();
                causes.sort();
                causes
            };
            assert_eq!(causes(&once), causes(&twice), "{name} {place} {label:?}");
        }
    }
}

/// A copy of a capture in `folder`, in which the last packet comes once more, ten seconds later.
fn outlasting(path: &Path, folder: &Path) -> PathBuf {
    let mut reader = capture::open(path).unwrap();
    let mut writer = pcapng::Writer::new(Vec::new(), "test").unwrap();
    let interface = writer.interface("outlasting", LinkType::ETHERNET, 0).unwrap();
    let mut last = (0, Vec::new(), 0);
    while let Some(packet) = reader.next().unwrap() {
        last = (packet.time_ns, packet.data.to_vec(), packet.wire_len as u32);
        writer.packet(interface, last.0, &last.1, last.2, None).unwrap();
    }
    writer.packet(interface, last.0 + 10_000_000_000, &last.1, last.2, None).unwrap();
    let copy = folder.join("longer.pcapng");
    std::fs::write(&copy, writer.into_inner()).unwrap();
    copy
}

#[test]
fn two_captures_prove_a_forgery_that_one_cannot() {
    let paths = [capture_of("forged-perfect", "client"), capture_of("forged-perfect", "server")];
    let alone = findings(&paths[0]);
    assert_eq!((alone.len(), alone[0].cause), (1, Cause::Unknown), "one capture must abstain");
    let together: Vec<Finding> = paths.iter().flat_map(|path| findings(path)).collect();
    // The capture at the server may have been stopped before the reset.
    let compared = compare(&[&paths[0], &paths[1]], together.clone()).unwrap();
    assert_eq!(compared[0].cause, Cause::Unknown, "{:#?}", compared[0]);
    // The same with a packet after it.
    let longer = tempfile::tempdir().unwrap();
    let paths = [paths[0].clone(), outlasting(&paths[1], longer.path())];
    let compared = compare(&[&paths[0], &paths[1]], together).unwrap();
    let forged = compared.iter().find(|finding| finding.file.contains("client")).unwrap();
    assert_eq!((forged.cause, forged.confidence), (Cause::Forged, Confidence::Certain), "{forged:#?}");
}

#[test]
fn two_captures_of_a_genuine_reset_are_one_finding() {
    for name in ["unread-upload-window", "data-after-close", "aborted-server-speaks-first-v6", "port-closed"]
    {
        let paths = PLACES.map(|place| capture_of(name, place));
        let together: Vec<Finding> = paths.iter().flat_map(|path| findings(path)).collect();
        let alone = findings(&paths[2]);
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let compared = compare(&paths, together).unwrap();
        assert_eq!(compared.len(), alone.len(), "{name}");
        for (one, other) in compared.iter().zip(&alone) {
            assert_eq!(one.cause, other.cause);
            assert!(
                one.evidence.iter().any(|evidence| evidence.says.to_string().contains("has it too")),
                "{one:#?}"
            );
        }
    }
}

#[test]
fn a_goodbye_that_never_arrived_explains_the_rest() {
    let paths =
        [capture_of("half-open-server-forgot", "client"), capture_of("half-open-server-forgot", "server")];
    let together: Vec<Finding> = paths.iter().flat_map(|path| findings(path)).collect();
    let compared = compare(&[&paths[0], &paths[1]], together).unwrap();
    assert!(compared.iter().all(|finding| finding.cause == Cause::HalfOpen), "{compared:#?}");
}
