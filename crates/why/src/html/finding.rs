//! One finding as rows of a list of terms: its cause, the evidence, and what to do.

use std::io::{self, Write};

use super::{escape, row};
use crate::{Cause, Evidence, Finding, Tools};

/// Writes the rows of a finding. `more` is evidence that is not in its packets.
///
/// # Errors
/// Returns the errors of `out`.
pub fn rows(out: &mut impl Write, finding: &Finding, more: &[String], tools: &Tools) -> io::Result<()> {
    row(out, "Cause", &cause(finding))?;
    let evidence = |evidence: &Evidence| {
        let frame = evidence.frame.map_or(String::new(), |frame| format!("frame {frame}: "));
        format!("{frame}{}", evidence.says)
    };
    let all: Vec<String> = finding.evidence.iter().map(evidence).chain(more.iter().cloned()).collect();
    list(out, "Evidence", &all)?;
    if let Some(ask) = finding.would_decide {
        row(out, "Would decide it", &ask.words(tools))?;
    }
    row(out, "Remedy", &finding.remedy.words(tools))
}

/// One row of a list of terms that has several values; nothing if it has none.
///
/// # Errors
/// Returns the errors of `out`.
pub fn list(out: &mut impl Write, name: &str, items: &[String]) -> io::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    writeln!(out, "<dt>{name}</dt><dd><ul>")?;
    for item in items {
        writeln!(out, "<li>{}</li>", escape(item))?;
    }
    writeln!(out, "</ul></dd>")
}

fn cause(finding: &Finding) -> String {
    match finding.cause {
        Cause::Unknown => {
            let named: Vec<&str> = finding.candidates.iter().map(|cause| cause.name()).collect();
            format!("undecided between {}", named.join(", "))
        }
        cause => format!("{cause} ({}). {}", finding.confidence, cause.meaning()),
    }
}
