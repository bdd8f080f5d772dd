//! The cases of a rule: the verdict on a base scenario, and the verdict on the scenario with one change.

use std::fmt::Write;
use std::path::Path;

use linger_packet::capture::CaptureReader;
use linger_why::Finding;

use crate::flow::Flow;
use crate::{check, trace};

/// The cases of one rule. What is expected is a list of words: cause, confidence, class, `harmless` or `harmful`,
/// `lost:N`, `unread:N` (`?` where that is not visible), `none` where no reset is found.
///
/// Each sentence of evidence is checked against the packets by the checker of `examples/corpus`.
///
/// Evidence, candidates and what would decide are compared with the file in `recorded/` that has the rule's name;
/// with `RECORD=1` in the environment they are written there instead, to be read before they are committed.
pub(crate) struct Cases {
    name: &'static str,
    recorded: String,
    wrong: Vec<String>,
}

pub(crate) fn rule(name: &'static str) -> Cases {
    Cases { name, recorded: String::new(), wrong: Vec::new() }
}

impl Cases {
    /// The base scenario.
    pub(crate) fn base(self, flow: &Flow, expected: &str) -> Self {
        self.but("as it is", flow, expected)
    }

    /// The scenario with one change.
    pub(crate) fn but(mut self, change: &str, flow: &Flow, expected: &str) -> Self {
        let findings = flow.findings();
        let words = subject(&findings).map_or_else(|| vec!["none".to_owned()], words);
        if !expected.split_whitespace().all(|word| words.iter().any(|known| known == word)) {
            let details: String = findings.iter().map(details).collect();
            self.wrong.push(format!("{change}: expected {expected}, got {}\n{details}", words.join(" ")));
        }
        let packets = trace::read_all(CaptureReader::in_memory(&flow.file()).unwrap());
        for finding in &findings {
            let refuted: Vec<_> = check::refuted(&packets, finding).iter().map(ToString::to_string).collect();
            assert!(refuted.is_empty(), "{}, {change}: {refuted:?}\n{}", self.name, details(finding));
        }
        let told = |findings: &[Finding]| findings.iter().map(details).collect::<String>();
        // The verdict does not depend on which end has the lower address.
        let mirrored = flow.clone().mirrored().findings();
        assert_eq!(told(&mirrored), told(&findings), "{}, {change}: mirrored", self.name);
        write!(self.recorded, "{change}:\n{}", told(&findings)).unwrap();
        self
    }

    /// Compares the details with what was recorded.
    pub(crate) fn done(self) {
        assert!(self.wrong.is_empty(), "{}: {}", self.name, self.wrong.join("\n"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules/recorded");
        let path =
            folder.join(format!("{}.txt", self.name.replace(|letter: char| !letter.is_alphanumeric(), "-")));
        if std::env::var_os("RECORD").is_some() {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(path, self.recorded).unwrap();
            return;
        }
        let known = std::fs::read_to_string(&path).unwrap_or_default();
        for (at, (known, new)) in known.lines().zip(self.recorded.lines()).enumerate() {
            assert_eq!(new, known, "{}, line {} of {}", self.name, at + 1, path.display());
        }
        assert_eq!(self.recorded.lines().count(), known.lines().count(), "{}", path.display());
    }
}

/// The finding that is asked for: the last one of the connection from port 40000, if there is any.
fn subject(findings: &[Finding]) -> Option<&Finding> {
    let own = |finding: &&Finding| finding.from.port() == 40_000 || finding.to.port() == 40_000;
    findings.iter().rev().find(own).or(findings.last())
}

fn words(finding: &Finding) -> Vec<String> {
    let bytes = |bytes: Option<u64>| bytes.map_or("?".to_owned(), |bytes| bytes.to_string());
    vec![
        finding.cause.name().to_owned(),
        finding.confidence.name().to_owned(),
        finding.class.name().to_owned(),
        if finding.harmless { "harmless" } else { "harmful" }.to_owned(),
        format!("lost:{}", bytes(finding.lost_response_bytes)),
        format!("unread:{}", bytes(finding.unread_request_bytes)),
    ]
}

fn details(finding: &Finding) -> String {
    let mut out = format!("  frame {}: {}\n", finding.frame, words(finding).join(" "));
    let candidates: Vec<_> = finding.candidates.iter().map(|cause| cause.name()).collect();
    writeln!(out, "    candidates {}", candidates.join(", ")).unwrap();
    for evidence in &finding.evidence {
        let frame = evidence.frame.map_or(String::new(), |frame| format!("frame {frame}: "));
        writeln!(out, "    - {frame}{}", evidence.says).unwrap();
    }
    if let Some(ask) = &finding.would_decide {
        writeln!(out, "    would decide: {ask}").unwrap();
    }
    out
}
