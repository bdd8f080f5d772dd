//! The captures of the lab's own trials against the kernel's counters, which say why each connection was reset.
//!
//! The verdicts read neither comments nor the names of interfaces, so that the decisions written there give nothing away.

use std::collections::BTreeMap;
use std::path::Path;

use linger_why::{AnalyzerLimits, Cause, Confidence, Finding, examine};
use serde_json::Value;

/// Counts over all cells.
#[derive(Default)]
struct Score {
    trials: u64,
    /// Resets of the server, one for each view.
    resets: u64,
    named: u64,
    /// Undecided, and the true cause is among the candidates.
    undecided: u64,
    wrong: Vec<String>,
    certain_and_wrong: u64,
}

/// Reads what `linger lab --json --pcap FOLDER` printed, and the captures in that folder. Returns whether no verdict was certain and
/// wrong.
pub(crate) fn score(lines: &Path, folder: &Path) -> std::io::Result<bool> {
    let text = std::fs::read_to_string(lines)?;
    let cells = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut score = Score::default();
    let mut causes = BTreeMap::<String, u64>::new();
    for cell in cells.filter(|cell| cell["type"] == "cell") {
        let text = |key: &str| cell[key].as_str().unwrap_or_default().to_owned();
        let name = format!("{}-{}-{}.pcapng", text("ending"), text("peer"), text("link"));
        let mut findings: Vec<Finding> = Vec::new();
        let take = |finding| findings.push(finding);
        if examine(&folder.join(&name), AnalyzerLimits::default(), take).is_err() {
            continue;
        }
        score.trials += cell["trials"].as_u64().unwrap_or(0);
        let truths = truths(&cell);
        for finding in findings.iter().filter(|finding| of_the_server(finding)) {
            score.resets += 1;
            *causes.entry(format!("{} {}", finding.cause, finding.confidence)).or_default() += 1;
            if truths.contains(&finding.cause) {
                score.named += 1;
            } else if finding.cause == Cause::Unknown
                && finding.candidates.iter().any(|cause| truths.contains(cause))
            {
                score.undecided += 1;
            } else {
                score.certain_and_wrong += u64::from(finding.confidence == Confidence::Certain);
                score.wrong.push(format!(
                    "{name} frame {}: {} ({}), the kernel counted {truths:?}",
                    finding.frame, finding.cause, finding.confidence
                ));
            }
        }
    }
    for wrong in &score.wrong {
        println!("{wrong}");
    }
    for (cause, count) in causes {
        println!("{count:>6} {cause}");
    }
    println!(
        "{} trials, {} resets of the server in both views: {} named, {} undecided with the true cause among the candidates, {} wrong, \
         {} of them certain",
        score.trials,
        score.resets,
        score.named,
        score.undecided,
        score.wrong.len(),
        score.certain_and_wrong
    );
    Ok(score.certain_and_wrong == 0)
}

fn of_the_server(finding: &Finding) -> bool {
    finding.class.is_reset() && finding.client != Some(finding.from)
}

/// The causes that the server's kernel has counted.
fn truths(cell: &Value) -> Vec<Cause> {
    let counted = |name: &str| cell["counters"][name].as_u64().unwrap_or(0) > 0;
    let mut causes = Vec::new();
    if counted("TCPAbortOnClose") {
        causes.push(Cause::ClosedWithUnreadData);
    }
    // The kernel has one counter for SO_LINGER 0 and for data that meets a closed socket.
    if counted("TCPAbortOnData") {
        causes.push(if cell["ending"] == "abort" { Cause::Aborted } else { Cause::DataAfterClose });
    }
    if counted("TCPAbortOnLinger") {
        causes.push(Cause::DataAfterClose);
    }
    causes
}
