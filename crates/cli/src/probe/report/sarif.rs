//! SARIF 2.1.0 (OASIS). A check is a rule, and its answer a result of the kind `pass`, `fail` or `open`.
//!
//! A location is a URI without scheme: consumers of code scanning refuse a whole file with a location that is `https:`.

use std::fmt::Write as _;

use linger_probe::CheckAnswer;
use linger_untrusted::to_json;
use serde_json::{Value, json};

use super::{Case, CaseResult, Reported};

/// The report as a document.
///
/// # Errors
/// Returns the errors of serialising it.
pub(super) fn text(reported: &Reported<'_>) -> serde_json::Result<String> {
    let rules: Vec<Value> = reported
        .cases
        .iter()
        .map(|case| {
            json!({
                "id": case.name(),
                "shortDescription": { "text": literal(case.question()) },
                "fullDescription": { "text": literal(case.question()) },
                "defaultConfiguration": { "level": "error" },
            })
        })
        .collect();
    let failed = reported.cases.iter().find(|case| case.result == CaseResult::Error);
    let results: Vec<Value> = reported
        .cases
        .iter()
        .enumerate()
        .filter(|(_, case)| case.check.is_some())
        .map(|(index, case)| result(reported, index, case))
        .collect();
    let notifications: Vec<Value> =
        failed.map(|case| json!({ "level": "error", "message": message(case) })).into_iter().collect();
    let time = |at| humantime::format_rfc3339_millis(at).to_string();
    let version = env!("CARGO_PKG_VERSION");
    let mut document = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "linger probe",
                "version": version,
                "semanticVersion": version,
                "rules": rules,
            } },
            "automationDetails": { "id": literal_id(reported.target) },
            "invocations": [{
                "executionSuccessful": reported.is_whole,
                "exitCode": reported.status,
                "startTimeUtc": time(reported.started),
                "endTimeUtc": time(reported.ended),
                "toolExecutionNotifications": notifications,
            }],
        }],
    });
    // Absent where nothing was examined (section 3.14.23): an empty list would say that nothing was found.
    if failed.is_none() {
        document["runs"][0]["results"] = results.into();
    }
    to_json(&document).map(|text| text + "\n")
}

fn result(reported: &Reported<'_>, index: usize, case: &Case) -> Value {
    let (kind, level) = match case.result {
        CaseResult::Kept => ("pass", "none"),
        CaseResult::Fault(CheckAnswer::AtRisk) | CaseResult::Accepted => ("fail", "warning"),
        CaseResult::Fault(_) => ("fail", "error"),
        CaseResult::Skipped | CaseResult::Error => ("open", "none"),
    };
    let mut result = json!({
        "ruleId": case.name(),
        "ruleIndex": index,
        "kind": kind,
        "level": level,
        "message": message(case),
        "locations": [{
            "physicalLocation": { "artifactLocation": { "uri": location(reported.target) } },
            "logicalLocations": [{ "fullyQualifiedName": reported.target, "kind": "resource" }],
        }],
        "partialFingerprints": { "checkOfTarget/v1": format!("{} {}", case.name(), reported.target) },
        "properties": case.finding.clone().unwrap_or_else(|| json!({})),
    });
    if case.result == CaseResult::Accepted {
        let accepted = json!({ "kind": "external", "status": "accepted", "justification": "--at-risk-ok" });
        result["suppressions"] = json!([accepted]);
    }
    result
}

fn message(case: &Case) -> Value {
    let mut all = vec![case.sentence.clone()];
    all.extend_from_slice(&case.details);
    json!({ "text": literal(&all.join("\n")) })
}

/// Text of a message. Brackets would begin a link, and braces a placeholder (sections 3.11.5 and 3.11.6).
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '[' | ']' => out.extend(['\\', c]),
            '{' | '}' => out.extend([c, c]),
            c => out.push(c),
        }
    }
    out
}

/// A run's identifier, which names the target: later runs replace earlier ones of the same target only.
fn literal_id(target: &str) -> String {
    format!("linger-probe/{}", location(target))
}

/// The target as a relative reference (RFC 3986 section 4.2): host, port and path, without the scheme. A colon may not
/// stand in its first segment.
fn location(target: &str) -> String {
    let rest = target.split_once("://").map_or(target, |(_, rest)| rest);
    let mut out = String::with_capacity(rest.len());
    for byte in rest.trim_start_matches('/').bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_relative_reference() {
        for (target, uri) in [
            ("http://127.0.0.1:8080/large", "127.0.0.1%3A8080/large"),
            ("https://[::1]:443/a?b=c d", "%5B%3A%3A1%5D%3A443/a%3Fb%3Dc%20d"),
            ("http://unix:/run/app.sock:/é", "unix%3A/run/app.sock%3A/%C3%A9"),
        ] {
            assert_eq!(location(target), uri, "{target}");
        }
    }

    #[test]
    fn a_message_has_neither_links_nor_placeholders() {
        assert_eq!(literal(r"[x](http://y) {0} \u{1b}"), r"\[x\](http://y) {{0}} \\u{{1b}}");
    }
}
