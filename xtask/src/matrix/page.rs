//! What the runs came to, as docs/matrix.md and docs/matrix.json.

use std::fmt::Write as _;

use linger_probe::{Check, CheckAnswer};
use serde_json::{Value, json};

use super::MatrixRow;
use super::measure::MeasuredServer;
use super::server::MatrixServer;

fn word(answer: CheckAnswer) -> &'static str {
    match answer {
        CheckAnswer::Keeps => "keeps",
        CheckAnswer::AtRisk => "**at risk**",
        CheckAnswer::Loses => "**loses**",
        CheckAnswer::LosesSilently => "**loses silently**",
        CheckAnswer::Stalls => "**stalls**",
        CheckAnswer::Refuses => "**refuses**",
        CheckAnswer::Unbounded => "unbounded",
        CheckAnswer::CannotTell => "?",
        _ => "",
    }
}

/// The worst answer, and its rate where not every run had it.
fn cell(measured: &MeasuredServer, check: Check) -> String {
    match measured.rate(check) {
        None => "-".into(),
        Some((answer, same, all)) if same == all => word(answer).into(),
        Some((answer, same, all)) => format!("{} {same} of {all}", word(answer)),
    }
}

/// How many answers were compared, and how many of them cannot be true.
pub(super) fn agreement(rows: &[MatrixRow]) -> String {
    let measured: Vec<&MeasuredServer> = rows.iter().flatten().collect();
    let sum = |of: fn(&MeasuredServer) -> usize| measured.iter().map(|one| of(one)).sum::<usize>();
    format!(
        "{} runs of {} servers; {} answers were compared with the packets on the link and the counters of the server's kernel, and {} \
         disagree",
        sum(|one| one.runs as usize),
        measured.len(),
        sum(|one| one.compared as usize),
        sum(|one| one.disagreements.len()),
    )
}

pub(super) fn markdown(asked: &[MatrixServer], rows: &[MatrixRow]) -> String {
    let mut text = String::from(
        "# Who loses what\n\n\
         Written by `cargo xtask matrix` (`cargo xtask matrix --install` installs the servers): each server runs on loopback in a network \
         of its own beside the others, answers 300,000 bytes without looking at the request's body, and is asked many times by `linger \
         probe`, once with `--hostile`. What the questions mean is in [probe.md](probe.md); the sentences, bytes, endings and kernel counters \
         behind each word are in `matrix.json`. A word with a rate is a race: so many of the runs had this answer, and the others a better \
         one. `?` means that the question decides nothing there, `-` that the server has no WebSocket.\n\n",
    );
    let _ = writeln!(text, "{}.\n", agreement(rows));
    let mut heads = vec!["server", "version"];
    // Nobody's server is told to reload here.
    let checks = || Check::ALL.into_iter().filter(|check| *check != Check::Reload);
    heads.extend(checks().map(Check::name));
    let _ = writeln!(text, "| {} |\n|{}", heads.join(" | "), "---|".repeat(heads.len()));
    for (server, row) in asked.iter().zip(rows) {
        let Ok(measured) = row else { continue };
        let mut cells = vec![server.name().to_owned(), measured.version.clone()];
        cells.extend(checks().map(|check| cell(measured, check)));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push_str("\n## What was lost, and how\n\n");
    for (server, row) in asked.iter().zip(rows) {
        let Ok(measured) = row else { continue };
        let faults: Vec<_> = checks()
            .filter_map(|check| measured.worst(check))
            .filter(|finding| finding.answer.is_fault())
            .collect();
        if faults.is_empty() {
            continue;
        }
        let _ = writeln!(text, "**{}**\n", server.name());
        for finding in faults {
            let _ = writeln!(text, "- {}: {}", finding.check, finding.sentence);
        }
        text.push('\n');
    }
    let missing: Vec<_> =
        asked.iter().zip(rows).filter_map(|(server, row)| Some((server, row.as_ref().err()?))).collect();
    if !missing.is_empty() {
        text.push_str("## Not measured\n\n");
        for (server, why) in missing {
            let _ = writeln!(text, "- {}: {}", server.name(), why.lines().next().unwrap_or_default());
        }
    }
    text
}

pub(super) fn document(asked: &[MatrixServer], rows: &[MatrixRow]) -> Value {
    let servers = asked.iter().zip(rows).map(|(server, row)| match row {
        Ok(measured) => {
            let worst: Vec<_> = Check::ALL.into_iter().filter_map(|check| measured.worst(check)).collect();
            let rate = |check: &Check| {
                let (answer, same, all) = measured.rate(*check)?;
                Some((check.name(), json!({ "answer": answer, "runs_with_it": same, "runs": all })))
            };
            let rates: std::collections::BTreeMap<_, _> = Check::ALL.iter().filter_map(rate).collect();
            json!({
                "name": server.name(),
                "version": measured.version,
                "server": measured.report.server,
                "response_bytes": measured.report.response_bytes,
                "framing": measured.report.framing,
                "answer": measured.overall(),
                "runs": measured.runs,
                "compared": measured.compared,
                "disagreements": measured.disagreements,
                "rates": rates,
                "findings": worst,
            })
        }
        Err(why) => json!({ "name": server.name(), "not_measured": why }),
    });
    json!({ "written_by": "cargo xtask matrix", "servers": servers.collect::<Vec<_>>() })
}
