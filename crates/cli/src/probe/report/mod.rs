//! The answers as files: a page, and JUnit XML and SARIF for CI. Each check is a case; what could not be told never passes.

use std::io;
use std::process::ExitCode;
use std::time::SystemTime;

use linger_probe::{Check, CheckAnswer, CheckFinding, Doubt, ProbeReport};
use linger_untrusted::message;

use super::{ProbeArguments, last, text};
use crate::lines;
use crate::output::{self, Content, NewFile, Refused};

mod html;
mod junit;
mod sarif;

/// How the probe ended.
pub(crate) enum ProbeEnd<'r> {
    Whole(&'r ProbeReport),
    /// With the answers so far.
    Interrupted(Option<&'r ProbeReport>),
    /// Nothing could be asked, for this reason.
    Failed(&'r str),
}

/// The files to be written when the probe has ended. Dropped before, they are not written.
pub(crate) struct ProbeFiles {
    html: Option<NewFile>,
    junit: Option<NewFile>,
    sarif: Option<NewFile>,
    target: String,
    asked: Vec<Check>,
    at_risk_ok: bool,
    started: SystemTime,
}

/// One case of a report.
struct Case {
    /// The check; `None` for the plain request.
    check: Option<Check>,
    result: CaseResult,
    /// Why, in a sentence.
    sentence: String,
    /// What was asked and seen, in lines.
    details: Vec<String>,
    seconds: f64,
    /// The finding, as `--json` has it.
    finding: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CaseResult {
    Kept,
    /// At risk, and the user accepts that.
    Accepted,
    Fault(CheckAnswer),
    /// It could not be told, or it decides nothing.
    Skipped,
    /// Not even a plain request was answered.
    Error,
}

/// The name of the case of the plain request.
const PLAIN: &str = "plain-response";

impl Case {
    fn name(&self) -> &'static str {
        self.check.map_or(PLAIN, Check::name)
    }

    fn question(&self) -> &'static str {
        self.check.map_or("Is a plain request answered?", Check::question)
    }
}

/// What was to be reported, and all that came of it.
struct Reported<'r> {
    target: &'r str,
    report: Option<&'r ProbeReport>,
    cases: Vec<Case>,
    started: SystemTime,
    ended: SystemTime,
    /// Whether every question was asked that was to be.
    is_whole: bool,
    status: u8,
}

impl ProbeFiles {
    /// Begins the files that the options name.
    ///
    /// # Errors
    /// Returns the exit status after saying why a file cannot be written.
    pub(crate) fn create(arguments: &ProbeArguments, asked: Vec<Check>) -> Result<Self, ExitCode> {
        let options =
            [("--html", &arguments.html), ("--junit", &arguments.junit), ("--sarif", &arguments.sarif)];
        let options = options.map(|(option, path)| (option, path.as_deref(), Content::Text));
        let [html, junit, sarif] = output::begin(options, arguments.payload.as_deref())?;
        Ok(Self {
            html,
            junit,
            sarif,
            target: arguments.target.to_string(),
            asked,
            at_risk_ok: arguments.at_risk.at_risk_ok,
            started: SystemTime::now(),
        })
    }

    /// Writes the files, each whole or not at all. `status` is the exit status.
    pub(crate) fn write(self, ended: ProbeEnd<'_>, status: u8) -> Result<(), Refused> {
        let (report, open) = match ended {
            ProbeEnd::Whole(report) => (Some(report), None),
            ProbeEnd::Interrupted(report) => (report, Some("not asked: the probe was interrupted")),
            ProbeEnd::Failed(_) => (None, Some("not asked: a plain request was not answered")),
        };
        let mut cases = vec![plain(&ended, report)];
        cases.extend(self.asked.iter().map(|check| {
            let found = report.and_then(|report| Some((report, report.of(*check)?)));
            match found {
                Some((report, finding)) => case(report, finding, self.at_risk_ok),
                None => skipped(Some(*check), open.unwrap_or("not asked")),
            }
        }));
        let reported = Reported {
            target: &self.target,
            report,
            cases,
            started: self.started,
            ended: SystemTime::now(),
            is_whole: open.is_none(),
            status,
        };
        // Each is written, whatever becomes of the others.
        let mut written = Ok(());
        if let Some(file) = self.html {
            written = written.and(match html::text(&reported) {
                Ok(text) => file.write_whole(&text),
                Err(error) => Err(file.failed(error)),
            });
        }
        if let Some(file) = self.junit {
            written = written.and(file.write_whole(&junit::text(&reported)));
        }
        if let Some(file) = self.sarif {
            written = written.and(match sarif::text(&reported) {
                Ok(text) => file.write_whole(&text),
                Err(error) => Err(file.failed(io::Error::other(error))),
            });
        }
        written
    }
}

fn skipped(check: Option<Check>, why: &str) -> Case {
    let sentence = why.to_owned();
    Case { check, result: CaseResult::Skipped, sentence, details: Vec::new(), seconds: 0.0, finding: None }
}

/// The case of the plain request. Where its response says nothing of the page itself, it is skipped.
fn plain(ended: &ProbeEnd<'_>, report: Option<&ProbeReport>) -> Case {
    let Some(report) = report else {
        let ProbeEnd::Failed(why) = ended else {
            return skipped(None, "not asked: the probe was interrupted");
        };
        return Case { result: CaseResult::Error, ..skipped(None, &message(why)) };
    };
    if let Some(doubt) = doubted(report) {
        return skipped(None, &doubt);
    }
    let status = report.status.map_or(String::new(), |status| format!("{status}, "));
    let sentence = format!("{status}{} bytes ({})", report.response_bytes, report.framing);
    Case { result: CaseResult::Kept, ..skipped(None, &sentence) }
}

/// Why no response of this target says anything of the page that users get.
fn doubted(report: &ProbeReport) -> Option<String> {
    let doubt = report.doubt().filter(|doubt| matches!(doubt, Doubt::PlainStatus(_) | Doubt::Empty))?;
    Some(message(&last::doubtful(report, &doubt)))
}

/// The case of a check, by the rules of the exit status.
fn case(report: &ProbeReport, finding: &CheckFinding, at_risk_ok: bool) -> Case {
    let counts = report.counting().any(|counted| counted.check == finding.check);
    let mut paragraphs = text::paragraphs(finding);
    let mut sentence = paragraphs.remove(0);
    let result = match finding.answer {
        CheckAnswer::CannotTell => CaseResult::Skipped,
        CheckAnswer::AtRisk if at_risk_ok => CaseResult::Accepted,
        CheckAnswer::Keeps => match doubted(report) {
            Some(doubt) => {
                sentence = format!("{sentence}. {doubt}");
                CaseResult::Skipped
            }
            None => CaseResult::Kept,
        },
        answer if !counts => {
            sentence = format!("told beside the verdict: {answer}: {sentence}");
            CaseResult::Skipped
        }
        answer => CaseResult::Fault(answer),
    };
    let mut details = vec![finding.check.question().to_owned(), format!("asked: {}", asked(finding))];
    let expected = finding.expected.map_or("an unknown number".to_owned(), |bytes| bytes.to_string());
    let ended = finding.ended.map_or("none".to_owned(), |ended| ended.to_string());
    details.push(format!("got {} of {expected} bytes; the connection's end: {ended}", finding.got));
    if let Some(status) = finding.status {
        details.push(format!("the response's status: {status}"));
    }
    details.append(&mut paragraphs);
    let finding_ = serde_json::to_value(lines::Finding::from(finding)).ok();
    let check = Some(finding.check);
    Case { check, result, sentence, details, seconds: finding.seconds, finding: finding_ }
}

/// What was asked, and how often.
fn asked(finding: &CheckFinding) -> String {
    let times = match finding.trials {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        trials => format!("{trials} times"),
    };
    let forms = finding.forms.join("; ");
    let this = finding.form.as_ref().map_or(String::new(), |form| format!("; this: {form}"));
    if forms.is_empty() { times } else { format!("{times}: {forms}{this}") }
}
