//! The labelled captures: every cause, at the client, in the middle and at the server.
//!
//! `captures/record.py` recorded them from real kernels; `captures/labels.toml` says what is right. A new
//! scenario goes into both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use linger_packet::capture;
use linger_why::{Analyzer, Confidence, Finding, Limits};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    causes: Vec<String>,
    #[serde(default)]
    elsewhere: Vec<String>,
    #[serde(default)]
    undecided: Vec<String>,
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

fn findings(path: &Path) -> Vec<Finding> {
    let mut reader = capture::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut analyzer = Analyzer::new(path.display().to_string(), Limits::default());
    while let Some(packet) = reader.next().unwrap() {
        analyzer.packet(&packet);
    }
    let mut findings = analyzer.take();
    findings.extend(analyzer.finish().0);
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
    } else if finding.cause == linger_why::Cause::Unknown
        && finding.candidates.iter().any(|cause| right(cause.name()))
    {
        Mark::Undecided
    } else {
        Mark::Wrong
    }
}

#[test]
fn every_cause_is_named_or_honestly_undecided() {
    let (mut decidable, mut named, mut complaints) = (0, 0, Vec::new());
    for (name, label) in labels() {
        for place in PLACES {
            let findings = findings(&directory().join(format!("{name}.{place}.pcap.gz")));
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
    println!("{named} of {decidable} decidable resets named");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(decidable >= 75 && named * 10 >= decidable * 9, "{named} of {decidable}");
}
