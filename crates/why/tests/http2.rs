//! HTTP/2 in clear between servers and clients that people use (`captures/record_http2.py`).

use std::path::Path;

use linger_why::{AnalyzerLimits, Claim, Finding, examine};

fn findings(name: &str) -> Vec<Finding> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/http2").join(format!("{name}.pcap.gz"));
    let mut findings = Vec::new();
    let examined = examine(&path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
    assert!(examined.counts.segments > 8, "{name}: {:?}", examined.counts);
    findings
}

/// What is said of streams, in words, without the party and what follows from it.
fn said(finding: &Finding) -> Vec<String> {
    let about = |claim: &&Claim| {
        matches!(
            claim,
            Claim::GoAway { .. }
                | Claim::Streams { .. }
                | Claim::StreamsReset { .. }
                | Claim::StreamsUnknown(_)
        )
    };
    finding.evidence.iter().map(|evidence| &evidence.says).filter(about).map(ToString::to_string).collect()
}

/// The one finding: its cause, its harm, and the beginnings of what is said of streams.
fn assert_one(name: &str, cause: &str, harmless: bool, sentences: &[&str]) {
    let findings = findings(name);
    let [finding] = &*findings else { panic!("{name}: {} findings", findings.len()) };
    let said = said(finding);
    assert_eq!((finding.cause.name(), finding.harmless), (cause, harmless), "{name}: {said:?}");
    assert_eq!(said.len(), sentences.len(), "{name}: {said:?}");
    for (says, begins) in said.iter().zip(sentences) {
        assert!(says.starts_with(&format!("HTTP/2: {begins}")), "{name}: {says}");
    }
}

#[test]
fn answered_connections_are_no_findings() {
    for name in ["whole-curl-nginx", "goaway-nginx", "cancelled-node", "upgrade-nghttp"] {
        let findings = findings(name);
        assert!(findings.is_empty(), "{name}: {}, {:?}", findings[0].cause, said(&findings[0]));
    }
}

#[test]
fn a_server_that_is_killed_leaves_one_response_cut_and_one_request_unanswered() {
    assert_one(
        "killed-node",
        "cut-short",
        false,
        &[
            "the response of stream 3 had begun, and no END_STREAM",
            "nothing came back on stream 5, whose request is complete",
        ],
    );
}

#[test]
fn a_stream_that_a_proxy_ends_is_a_failure_though_the_connection_lives() {
    assert_one(
        "upstream-dies-nginx",
        "cut-short",
        false,
        &["the server ended stream 1 with INTERNAL_ERROR (2)"],
    );
}

#[test]
fn a_refused_stream_is_no_loss() {
    assert_one(
        "refused-node",
        "aborted",
        true,
        &[
            "the server sent GOAWAY with NO_ERROR (0), which is a farewell",
            "the client sent GOAWAY with NO_ERROR (0), which is a farewell",
            "the server refused stream 3 (REFUSED_STREAM): it did not process it",
        ],
    );
}

#[test]
fn streams_above_that_of_goaway_are_no_loss() {
    assert_one(
        "calm-node",
        "closed-with-unread-data",
        true,
        &[
            "the server sent GOAWAY with ENHANCE_YOUR_CALM (11); the last stream it may have processed is 1; it says \
             \"too_many_requests\"",
            "the client sent GOAWAY with NO_ERROR (0)",
            "streams 3 and 5 are above GOAWAY's last stream, 1",
        ],
    );
}

#[test]
fn a_request_that_was_upgraded_is_stream_1() {
    assert_one(
        "upgrade-curl-killed",
        "closed-unanswered",
        false,
        &["nothing came back on stream 1, whose request is complete"],
    );
}
