//! JUnit XML: what Jenkins, GitLab and the like read. The order of elements and the required attributes are those of the
//! strictest schema in use (that of Ant's JUnit task), which the looser ones accept, too.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use linger_untrusted::message;

/// A report for CI.
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) properties: Vec<(&'static str, String)>,
    pub(crate) cases: Vec<TestCase>,
    pub(crate) started: SystemTime,
    pub(crate) ended: SystemTime,
}

/// One test case.
pub(crate) struct TestCase {
    pub(crate) name: String,
    pub(crate) class: String,
    pub(crate) seconds: f64,
    pub(crate) result: TestResult,
    /// What came of it, in a sentence.
    pub(crate) sentence: String,
    /// More of it, in lines.
    pub(crate) details: Vec<String>,
}

/// How a test case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TestResult {
    Passed,
    /// With the kind of failure.
    Failed(&'static str),
    /// With the kind of error.
    Error(&'static str),
    /// It decides nothing.
    Skipped,
}

impl Suite {
    /// The report as a document.
    pub(crate) fn text(&self) -> String {
        let count = |of: fn(&TestResult) -> bool| self.cases.iter().filter(|case| of(&case.result)).count();
        let seconds = self.ended.duration_since(self.started).unwrap_or_default().as_secs_f64();
        let suite = [
            ("package", "linger".to_owned()),
            ("id", "0".to_owned()),
            ("name", self.name.clone()),
            ("tests", self.cases.len().to_string()),
            ("failures", count(|result| matches!(result, TestResult::Failed(_))).to_string()),
            ("errors", count(|result| matches!(result, TestResult::Error(_))).to_string()),
            ("skipped", count(|result| *result == TestResult::Skipped).to_string()),
            ("time", format!("{seconds:.3}")),
            ("timestamp", timestamp(self.started)),
            ("hostname", rustix::system::uname().nodename().to_string_lossy().into_owned()),
        ];
        let mut out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
        open(&mut out, "  ", "testsuite", &suite, ">\n");
        out.push_str("    <properties>\n");
        for (name, value) in &self.properties {
            let attributes = [("name", (*name).to_owned()), ("value", value.clone())];
            open(&mut out, "      ", "property", &attributes, "/>\n");
        }
        out.push_str("    </properties>\n");
        for case in &self.cases {
            case.write(&mut out);
        }
        let all: Vec<String> =
            self.cases.iter().map(|case| format!("{}: {}\n", case.name, case.sentence)).collect();
        let _ = writeln!(out, "    <system-out>{}</system-out>", escaped(&all.concat(), false));
        out.push_str("    <system-err></system-err>\n  </testsuite>\n</testsuites>\n");
        out
    }
}

impl TestCase {
    fn write(&self, out: &mut String) {
        let attributes = [
            ("name", self.name.clone()),
            ("classname", self.class.clone()),
            ("time", format!("{:.3}", self.seconds)),
        ];
        let (element, kind) = match self.result {
            TestResult::Passed => return open(out, "    ", "testcase", &attributes, "/>\n"),
            TestResult::Failed(kind) => ("failure", Some(kind)),
            TestResult::Error(kind) => ("error", Some(kind)),
            TestResult::Skipped => ("skipped", None),
        };
        open(out, "    ", "testcase", &attributes, ">\n");
        let mut why = vec![("message", self.sentence.clone())];
        why.extend(kind.map(|kind| ("type", kind.to_owned())));
        open(out, "      ", element, &why, ">");
        let mut all = vec![self.sentence.clone()];
        all.extend_from_slice(&self.details);
        let _ = writeln!(out, "{}</{element}>\n    </testcase>", escaped(&all.join("\n"), false));
    }
}

/// `YYYY-MM-DDThh:mm:ss` in UTC. The schema allows neither a fraction nor a zone.
fn timestamp(at: SystemTime) -> String {
    let whole = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(whole);
    humantime::format_rfc3339_seconds(at).to_string().trim_end_matches('Z').to_owned()
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
