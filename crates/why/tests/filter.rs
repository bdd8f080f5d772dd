//! Which findings a filter tells, over the labelled captures.

use std::path::Path;

use linger_why::{AnalyzerLimits, Finding, FindingFilter, examine};

fn findings() -> Vec<Finding> {
    let mut findings = Vec::new();
    // 10.77.1.1 asks 10.77.2.1:8080, or fd77:1::1 asks fd77:2::1.
    for name in ["cut-short-length", "cut-short-length-v6", "aborted-silent", "port-closed"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("captures/{name}.client.pcap.gz"));
        let mut own = Vec::new();
        examine(&path, AnalyzerLimits::default(), |finding| own.push(finding)).unwrap();
        findings.extend(own.into_iter().next());
    }
    findings
}

#[test]
fn expressions_hold_as_they_are_read() {
    let findings = findings();
    let told = |text: &str| {
        let filter: FindingFilter = text.parse().unwrap_or_else(|error| panic!("{error}"));
        let names = findings.iter().filter(|finding| filter.has(finding));
        names.map(|finding| finding.cause.name()).collect::<Vec<_>>().join(" ")
    };
    let all = "cut-short cut-short aborted port-closed";
    assert_eq!(findings.iter().map(|finding| finding.cause.name()).collect::<Vec<_>>().join(" "), all);
    for (text, expected) in [
        ("cause aborted", "aborted"),
        ("not cause aborted", "cut-short cut-short port-closed"),
        ("!cause aborted && !(cause cut-short)", "port-closed"),
        // `and` binds more tightly than `or`.
        ("cause aborted or cause cut-short and host fd77::/16", "cut-short aborted"),
        ("(cause aborted or cause cut-short) and host fd77::/16", "cut-short"),
        ("not cause aborted and cause aborted", ""),
        ("not (cause aborted and cause port-closed)", all),
        ("host 10.0.0.0/8", "cut-short aborted port-closed"),
        ("net 10.77.1.1", "cut-short aborted port-closed"),
        ("client host 10.77.1.1 or client host fd77:1::1", all),
        ("server host 10.77.1.1", ""),
        ("server host 10.77.2.1", "cut-short aborted port-closed"),
        ("server port 1-1023", ""),
        ("client port 32768-65535", all),
        ("class closed-early", "cut-short cut-short"),
        ("reset", "aborted port-closed"),
        ("confidence certain || confidence likely", all),
        ("service nobody.example", ""),
        ("harmless and harmful", ""),
        ("harmless or harmful", all),
    ] {
        assert_eq!(told(text), expected, "{text}");
    }
    assert!(findings.iter().all(|finding| FindingFilter::default().has(finding)));
}
