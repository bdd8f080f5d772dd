//! The answers of the probe as one page that needs nothing else, of the same make as the page of `linger why`.

use std::io::{self, Write};

use linger_probe::{CheckAnswer, ProbeReport};
use linger_untrusted::message;
use linger_why::html::{begin, end, escape, list, row};

use super::{Case, CaseResult, Reported, last};

/// Writes the page.
pub(super) fn text(reported: &Reported<'_>) -> io::Result<String> {
    let mut out = Vec::new();
    begin(&mut out, "Does this server keep its responses?")?;
    header(&mut out, reported)?;
    if reported.cases.iter().any(|case| case.check.is_some()) {
        table(&mut out, &reported.cases)?;
    }
    for case in reported.cases.iter().filter(|case| weight(case) == Weight::Open) {
        article(&mut out, case)?;
    }
    for (weight, name, summary) in [
        (Weight::Kept, "kept", "Nothing to find fault with"),
        (Weight::Untold, "untold", "Not told, or beside the verdict"),
    ] {
        folded(&mut out, name, summary, reported.cases.iter().filter(|case| self::weight(case) == weight))?;
    }
    end(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// Where a case stands on the page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Open,
    Kept,
    Untold,
}

fn weight(case: &Case) -> Weight {
    match case.result {
        CaseResult::Fault(_) | CaseResult::Accepted | CaseResult::Error => Weight::Open,
        CaseResult::Kept => Weight::Kept,
        CaseResult::Skipped => Weight::Untold,
    }
}

fn header(out: &mut impl Write, reported: &Reported<'_>) -> io::Result<()> {
    let (first, class) = first(reported);
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    writeln!(out, "<header>\n<h1{class}>{}</h1>", escape(first))?;
    if let Some(report) = reported.report {
        for sentence in last::sentences(report) {
            writeln!(out, "<p>{}</p>", escape(sentence))?;
        }
    }
    writeln!(out, "<dl>")?;
    row(out, "Target", reported.target)?;
    if let Some(report) = reported.report {
        facts(out, report)?;
    }
    writeln!(out, "</dl>\n</header>")
}

fn facts(out: &mut impl Write, report: &ProbeReport) -> io::Result<()> {
    if let Some(server) = &report.server {
        row(out, "Server", &String::from_utf8_lossy(server.raw()))?;
    }
    let status = report.status.map_or(String::new(), |status| format!("{status}, "));
    let to = report
        .location
        .as_ref()
        .map_or(String::new(), |to| format!(" to {}", String::from_utf8_lossy(to.raw())));
    let plain = format!("{status}{} bytes ({}){to}", report.response_bytes, report.framing);
    row(out, "Plain response", &plain)?;
    row(out, "Protocol", report.protocol)?;
    if report.connections > 0 {
        let (sent, received) = (report.sent_bytes, report.received_bytes);
        row(out, "Cost", &format!("{} connections, {sent} bytes sent, {received} read", report.connections))?;
    }
    if let Some(why) = &report.unwatched {
        row(out, "Causes", &format!("not shown: {}", message(why)))?;
    }
    Ok(())
}

/// What came of it, of which server; and its class.
fn first(reported: &Reported<'_>) -> (String, &'static str) {
    let faults = |wanted: &dyn Fn(CheckAnswer) -> bool| {
        let names = reported.cases.iter().filter_map(|case| match case.result {
            CaseResult::Fault(answer) if wanted(answer) => Some(case.name()),
            _ => None,
        });
        names.collect::<Vec<_>>().join(", ")
    };
    let is_loss = |answer| matches!(answer, CheckAnswer::Loses | CheckAnswer::LosesSilently);
    let (losses, others) = (faults(&is_loss), faults(&|answer| !is_loss(answer)));
    let broken = if reported.is_whole { "" } else { "; not all was asked" };
    let (found, class) = match reported.cases.first() {
        Some(plain) if plain.result == CaseResult::Error => {
            (format!("No answer: {}", plain.sentence), "risk")
        }
        _ if !losses.is_empty() => (format!("Loses responses ({losses}){broken}"), ""),
        _ if !others.is_empty() => {
            (format!("Loses nothing, and is not without fault ({others}){broken}"), "risk")
        }
        _ if !reported.is_whole => ("No fault found; not all was asked".to_owned(), "risk"),
        _ if reported.report.is_some_and(|report| report.overall() == CheckAnswer::Keeps) => {
            ("Keeps its responses".to_owned(), "good")
        }
        _ if reported.cases.iter().any(|case| case.result == CaseResult::Accepted) => {
            ("Loses nothing; at risk, which was accepted".to_owned(), "risk")
        }
        _ => ("Cannot tell".to_owned(), "risk"),
    };
    (format!("{found}: {}", reported.target), class)
}

fn table(out: &mut impl Write, cases: &[Case]) -> io::Result<()> {
    writeln!(
        out,
        "<table class=\"list sorted\" id=\"answers\"><thead><tr><th>Check</th><th>Answer</th><th class=\"number\">Seconds</th><th>What was seen</th></tr></thead><tbody>"
    )?;
    for case in cases {
        let (answer, class) = answer(case);
        writeln!(
            out,
            "<tr><td>{}</td><td data-name=\"Answer\" class=\"{class}\">{answer}</td><td class=\"number\" \
             data-name=\"Seconds\">{:.3}</td><td data-name=\"Seen\">{}</td></tr>",
            case.name(),
            case.seconds,
            escape(&case.sentence)
        )?;
    }
    writeln!(out, "</tbody></table>")
}

/// The answer in a word, and its class.
fn answer(case: &Case) -> (&'static str, &'static str) {
    match case.result {
        CaseResult::Kept => ("keeps", "good"),
        CaseResult::Accepted => ("at risk, accepted", "risk"),
        CaseResult::Fault(answer @ (CheckAnswer::Loses | CheckAnswer::LosesSilently)) => {
            (answer.name(), "bad")
        }
        CaseResult::Fault(answer) => (answer.name(), "risk"),
        CaseResult::Skipped => ("not told", "soft"),
        CaseResult::Error => ("no answer", "bad"),
    }
}

fn folded<'c>(
    out: &mut impl Write,
    name: &str,
    summary: &str,
    cases: impl Iterator<Item = &'c Case> + Clone,
) -> io::Result<()> {
    let count = cases.clone().count();
    if count == 0 {
        return Ok(());
    }
    writeln!(out, "<details id=\"{name}\"><summary>{summary}: {count}</summary>")?;
    for case in cases {
        article(out, case)?;
    }
    writeln!(out, "</details>")
}

fn article(out: &mut impl Write, case: &Case) -> io::Result<()> {
    let (answer, class) = answer(case);
    let edge = match class {
        "bad" => "",
        "good" => " class=\"harmless\"",
        _ => " class=\"risk\"",
    };
    writeln!(out, "<article{edge}>\n<h3>{}: <span class=\"{class}\">{answer}</span></h3>", case.name())?;
    writeln!(out, "<p>{}</p>\n<dl>", escape(case.question()))?;
    row(out, "Seen", &case.sentence)?;
    // The first detail is the question.
    let details: Vec<String> = case.details.iter().skip(1).cloned().collect();
    list(out, "Evidence", &details)?;
    writeln!(out, "</dl>\n</article>")
}
