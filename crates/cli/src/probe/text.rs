//! What a probe prints for people: the plain response, and each answer with its reasons.

use anstyle::{AnsiColor, Style};
use linger_probe::{CheckAnswer, CheckFinding, LeftOut, ProbeReport, ReloadFound, RequestCounts};
use linger_untrusted::message;

use crate::lines::{self, line};
use crate::output::{Stdout, Stopped};

pub(crate) fn style(answer: CheckAnswer) -> Style {
    let colour = match answer {
        CheckAnswer::Keeps => AnsiColor::Green,
        CheckAnswer::CannotTell => AnsiColor::BrightBlack,
        CheckAnswer::Stalls | CheckAnswer::Unbounded | CheckAnswer::AtRisk | CheckAnswer::Refuses => {
            AnsiColor::Yellow
        }
        _ => AnsiColor::Red,
    };
    colour.on_default()
}

/// What the plain response was, and the names of the columns.
pub(crate) fn heading(out: &mut Stdout, report: &ProbeReport) -> Result<(), Stopped> {
    let status = report.status.map_or(String::new(), |status| format!("{status}, "));
    let location = report.location.as_ref().map(|to| format!(" to {}", to.terminal())).unwrap_or_default();
    let server =
        report.server.as_ref().map(|server| format!(", Server: {}", server.terminal())).unwrap_or_default();
    let unreached = report.unreached.iter();
    let unreached: Vec<String> =
        unreached.map(|one| format!("{}: {}", one.address, message(&one.reason))).collect();
    if report.proxy.is_some() || !unreached.is_empty() {
        let proxy = if report.proxy.is_some() { "through the proxy " } else { "" };
        let not = if unreached.is_empty() { String::new() } else { format!("; {}", unreached.join("; ")) };
        out.text(format_args!("asked {proxy}at {}{not}\n", report.address))?;
    }
    let (bytes, framing) = (report.response_bytes, report.framing);
    let over = if report.protocol == "HTTP/2" { " over HTTP/2" } else { "" };
    out.text(format_args!("plain response{over}: {status}{bytes} bytes ({framing}){location}{server}\n"))?;
    out.text(format_args!(
        "{:<19}{:<16}{:>10} {:>10}  {:<18}{:>7}\n",
        "check", "answer", "got", "expected", "ended", "seconds"
    ))
}

pub(crate) fn print(out: &mut Stdout, finding: &CheckFinding, json: bool) -> Result<(), Stopped> {
    if json {
        out.json(&line(lines::Finding::from(finding)))?;
        return out.flush();
    }
    let style = style(finding.answer);
    let expected = finding.expected.map_or("-".to_owned(), |bytes| bytes.to_string());
    let ended = finding.ended.map_or("-".to_owned(), |ended| ended.to_string());
    out.text(format_args!(
        "{:<19}{style}{:<16}{style:#}{:>10} {expected:>10}  {ended:<18}{:>7.3}\n",
        finding.check.name(),
        finding.answer.name(),
        finding.got,
        finding.seconds
    ))?;
    let options = &textwrap::Options::new(100).initial_indent("    ").subsequent_indent("    ");
    let mut paragraphs = paragraphs(finding).into_iter();
    if let Some(said) = paragraphs.next() {
        out.text(format_args!("{}\n", textwrap::fill(&said, options)))?;
    }
    for seen in paragraphs {
        let options = options.clone().subsequent_indent("      ");
        out.text(format_args!("{}\n", textwrap::fill(&seen, options)))?;
    }
    out.flush()
}

/// The answer in a sentence with how often it came, and then what the kernel counted and saw.
pub(crate) fn paragraphs(finding: &CheckFinding) -> Vec<String> {
    let remedy = match finding.left_out {
        None => "",
        Some(LeftOut::Time) => "; --within gives more",
        Some(_) => "; --active asks it",
    };
    let mut all = vec![message(&format!("{}{remedy}{}", finding.sentence, times(finding)))];
    all.extend(finding.reload.as_ref().map(around));
    if !finding.counters.is_empty() {
        let counted: Vec<String> =
            finding.counters.iter().map(|(name, value)| format!("{name} +{value}")).collect();
        all.push(format!("the kernel counted: {}", counted.join(", ")));
    }
    all.extend(finding.resets.iter().map(|seen| format!("the kernel saw in all trials: {seen}")));
    let behind = finding.behind.iter();
    all.extend(behind.map(|seen| format!("the kernel saw meanwhile, behind the gateway: {seen}")));
    all
}

/// What became of the requests before, during and after a reload.
fn around(found: &ReloadFound) -> String {
    let of = |counts: RequestCounts| {
        let names = [
            (counts.kept, "kept"),
            (counts.at_risk, "at risk"),
            (counts.lost, "lost"),
            (counts.reset, "of these reset"),
            (counts.refused, "refused"),
            (counts.other, "answered otherwise"),
        ];
        let some: Vec<String> = names
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, name)| format!("{count} {name}"))
            .collect();
        if some.is_empty() { "none".to_owned() } else { some.join(", ") }
    };
    let what = if found.is_stop { "stop" } else { "reload" };
    format!(
        "requests before the {what}: {}; during: {}; after: {}",
        of(found.before),
        of(found.during),
        of(found.after)
    )
}

/// How often the answer came, and of what the trials were made.
fn times(finding: &CheckFinding) -> String {
    let (same, trials) = (finding.with_this_answer, finding.trials);
    match finding.forms.split_last() {
        _ if trials < 2 => String::new(),
        Some((last, others)) if !others.is_empty() => {
            let form = finding.form.as_deref().filter(|_| finding.answer.is_fault());
            let form = form.map_or(String::new(), |form| format!("; this: {form}"));
            format!(" ({same} of {trials} trials of {} and {last}{form})", others.join(", "))
        }
        _ => format!(" ({same} of {trials} trials)"),
    }
}
