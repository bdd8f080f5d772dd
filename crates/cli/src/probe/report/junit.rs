//! The answers of the probe as a report for CI.

use super::{Case, CaseResult, Reported};
use crate::junit::{Suite, TestCase, TestResult};

/// The report as a document.
pub(super) fn text(reported: &Reported<'_>) -> String {
    let target = reported.target;
    let suite = Suite {
        name: format!("linger probe {target}"),
        properties: properties(reported),
        cases: reported.cases.iter().map(|case| test_case(target, case)).collect(),
        started: reported.started,
        ended: reported.ended,
    };
    suite.text()
}

fn properties(reported: &Reported<'_>) -> Vec<(&'static str, String)> {
    let mut all = vec![("target", reported.target.to_owned()), ("exit-status", reported.status.to_string())];
    if let Some(report) = reported.report {
        all.push(("protocol", report.protocol.to_owned()));
        all.push(("response-bytes", report.response_bytes.to_string()));
        all.push(("active", report.is_active.to_string()));
        all.extend(report.server.as_ref().map(|server| ("server", server.terminal().to_string())));
        all.extend(report.status.map(|status| ("status", status.to_string())));
    }
    all
}

fn test_case(target: &str, case: &Case) -> TestCase {
    TestCase {
        name: case.name().to_owned(),
        class: format!("linger.probe {target}"),
        seconds: case.seconds,
        result: match case.result {
            CaseResult::Kept | CaseResult::Accepted => TestResult::Passed,
            CaseResult::Fault(answer) => TestResult::Failed(answer.name()),
            CaseResult::Error => TestResult::Error("no answer"),
            CaseResult::Skipped => TestResult::Skipped,
        },
        sentence: case.sentence.clone(),
        details: case.details.clone(),
    }
}
