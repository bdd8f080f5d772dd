//! JUnit XML: what Jenkins, GitLab and the like read. The order of elements and the required attributes are those of the
//! strictest schema in use (that of Ant's JUnit task), which the looser ones accept, too.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use linger_untrusted::message;

use super::{Case, CaseResult, Reported};

/// The report as a document.
pub(super) fn text(reported: &Reported<'_>) -> String {
    let count = |of: fn(CaseResult) -> bool| reported.cases.iter().filter(|case| of(case.result)).count();
    let seconds = reported.ended.duration_since(reported.started).unwrap_or_default().as_secs_f64();
    let suite = [
        ("package", "linger".to_owned()),
        ("id", "0".to_owned()),
        ("name", format!("linger probe {}", reported.target)),
        ("tests", reported.cases.len().to_string()),
        ("failures", count(|result| matches!(result, CaseResult::Fault(_))).to_string()),
        ("errors", count(|result| result == CaseResult::Error).to_string()),
        ("skipped", count(|result| result == CaseResult::Skipped).to_string()),
        ("time", format!("{seconds:.3}")),
        ("timestamp", timestamp(reported.started)),
        ("hostname", rustix::system::uname().nodename().to_string_lossy().into_owned()),
    ];
    let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    open(&mut out, "  ", "testsuite", &suite, ">\n");
    properties(&mut out, reported);
    for case in &reported.cases {
        testcase(&mut out, reported.target, case);
    }
    let all: Vec<String> =
        reported.cases.iter().map(|case| format!("{}: {}\n", case.name(), case.sentence)).collect();
    let _ = writeln!(out, "    <system-out>{}</system-out>", escaped(&all.concat(), false));
    out.push_str("    <system-err></system-err>\n  </testsuite>\n</testsuites>\n");
    out
}

/// `YYYY-MM-DDThh:mm:ss` in UTC. The schema allows neither a fraction nor a zone.
fn timestamp(at: SystemTime) -> String {
    let whole = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(whole);
    humantime::format_rfc3339_seconds(at).to_string().trim_end_matches('Z').to_owned()
}

fn properties(out: &mut String, reported: &Reported<'_>) {
    let mut all = vec![("target", reported.target.to_owned()), ("exit-status", reported.status.to_string())];
    if let Some(report) = reported.report {
        all.push(("protocol", report.protocol.to_owned()));
        all.push(("response-bytes", report.response_bytes.to_string()));
        all.push(("active", report.is_active.to_string()));
        all.extend(report.server.as_ref().map(|server| ("server", server.terminal().to_string())));
        all.extend(report.status.map(|status| ("status", status.to_string())));
    }
    out.push_str("    <properties>\n");
    for (name, value) in all {
        let attributes = [("name", name.to_owned()), ("value", value)];
        open(out, "      ", "property", &attributes, "/>\n");
    }
    out.push_str("    </properties>\n");
}

fn testcase(out: &mut String, target: &str, case: &Case) {
    let attributes = [
        ("name", case.name().to_owned()),
        ("classname", format!("linger.probe {target}")),
        ("time", format!("{:.3}", case.seconds)),
    ];
    let (kind, name) = match case.result {
        CaseResult::Kept | CaseResult::Accepted => {
            return open(out, "    ", "testcase", &attributes, "/>\n");
        }
        CaseResult::Fault(answer) => ("failure", answer.name()),
        CaseResult::Error => ("error", "no answer"),
        CaseResult::Skipped => ("skipped", "cannot tell"),
    };
    open(out, "    ", "testcase", &attributes, ">\n");
    let mut why = vec![("message", case.sentence.clone())];
    if kind != "skipped" {
        why.push(("type", name.to_owned()));
    }
    open(out, "      ", kind, &why, ">");
    let mut all = vec![case.sentence.clone()];
    all.extend_from_slice(&case.details);
    let _ = writeln!(out, "{}</{kind}>\n    </testcase>", escaped(&all.join("\n"), false));
}

fn open(out: &mut String, indent: &str, name: &str, attributes: &[(&str, String)], end: &str) {
    let _ = write!(out, "{indent}<{name}");
    for (name, value) in attributes {
        let _ = write!(out, " {name}=\"{}\"", escaped(value, true));
    }
    out.push_str(end);
}

/// Text for XML. What no document may have, even escaped (XML 1.0 section 2.2), is shown as in a Rust string.
fn escaped(text: &str, is_attribute: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in message(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // A parser makes blanks of them in an attribute (section 3.3.3).
            '\n' | '\t' if is_attribute => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            '\u{fffe}' | '\u{ffff}' => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_leaves_the_document_invalid() {
        for c in (0..=0x2_ffff).filter_map(char::from_u32) {
            for is_attribute in [false, true] {
                let escaped = escaped(&c.to_string(), is_attribute);
                let allowed = |c: char| matches!(c, '\t' | '\n' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
                assert!(escaped.chars().all(allowed), "{c:?}: {escaped:?}");
                assert!(!escaped.contains(['<', '>', '"']) && escaped != "&", "{c:?}: {escaped:?}");
            }
        }
        assert_eq!(escaped("a\n<\u{1b}[31m]]>\u{0}&\r", true), "a&#10;&lt;\\u{1b}[31m]]&gt;\\u{0}&amp;\\r");
        assert_eq!(escaped("a\nb\u{202e}", false), "a\nb\\u{202e}");
    }

    #[test]
    fn a_time_has_neither_fraction_nor_zone() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_780_000_000_999);
        assert_eq!(timestamp(at), "2026-05-28T20:26:40");
    }
}
