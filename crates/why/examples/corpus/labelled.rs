//! The captures of the lab's own trials against the kernel's counters, which say why each connection was reset.
//!
//! The verdicts read neither comments nor the names of interfaces, so that the decisions written there give nothing away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use linger_why::{AnalyzerLimits, Cause, Confidence, Finding, examine};
use serde_json::Value;

use crate::shape::Shape;
use crate::trace;

/// One reset of the server, as one view has it.
struct Label {
    cell: usize,
    shape: Shape,
    finding: Finding,
}

/// One cell of the lab.
struct Cell {
    name: String,
    trials: u64,
    /// The causes that the server's kernel has counted in it.
    truths: Vec<Cause>,
}

/// How the verdicts of some resets stand to the truth.
#[derive(Default)]
struct Score {
    named: u64,
    /// Undecided, and the true cause is among the candidates.
    undecided: u64,
    wrong: u64,
}

impl Score {
    fn all(&self) -> u64 {
        self.named + self.undecided + self.wrong
    }
}

impl std::fmt::Display for Score {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { named, undecided, wrong } = self;
        write!(
            f,
            "{named} named, {undecided} undecided with the true cause among the candidates, {wrong} wrong"
        )
    }
}

/// Reads what `linger lab --json --pcap FOLDER` printed, and the captures in that folder, of one run or more; prints which packets
/// decide, and how the verdicts stand to the kernel's counters. Returns whether no verdict was certain and wrong.
pub(crate) fn score(runs: &[[String; 2]]) -> std::io::Result<bool> {
    let (mut cells, mut labels) = (Vec::new(), Vec::new());
    for [lines, folder] in runs {
        read(Path::new(lines), Path::new(folder), &mut cells, &mut labels)?;
    }
    let decided = decided(&cells, &labels);
    let (mut decides, mut leaves) = (Score::default(), Score::default());
    let mut named = BTreeMap::<String, u64>::new();
    let mut by_cell = BTreeMap::<&str, [u64; 2]>::new();
    let (mut certain_and_wrong, mut wrong) = (0, Vec::new());
    for Label { cell, shape, finding } in &labels {
        let Cell { name, truths, .. } = &cells[*cell];
        let one_cause = decided[shape].len() == 1;
        by_cell.entry(name).or_default()[usize::from(one_cause)] += 1;
        *named.entry(format!("{} {}", finding.cause, finding.confidence)).or_default() += 1;
        let score = if one_cause { &mut decides } else { &mut leaves };
        let candidate = || finding.candidates.iter().any(|cause| truths.contains(cause));
        if truths.contains(&finding.cause) {
            score.named += 1;
        } else if finding.cause == Cause::Unknown && candidate() {
            score.undecided += 1;
        } else {
            score.wrong += 1;
            certain_and_wrong += u64::from(finding.confidence == Confidence::Certain);
            let Finding { frame, interface, cause, confidence, .. } = finding;
            wrong.push(format!(
                "{name} frame {frame}, interface {interface}: {cause} ({confidence}), the kernel counted {truths:?}: {shape}"
            ));
        }
    }
    println!(
        "What a reset and the packets before it look like, and the causes that the kernel counted where they do:"
    );
    for (shape, causes) in &decided {
        let of = |label: &&Label| label.shape == *shape;
        let count = labels.iter().filter(of).count();
        let said = labels.iter().filter(of).filter(|label| label.finding.cause != Cause::Unknown).count();
        println!("{count:>6} {shape}: {} ({said} named)", words(causes));
    }
    println!("Resets whose packets decide, by cell:");
    for (name, [open, one]) in by_cell.iter().filter(|(_, counts)| counts[1] > 0) {
        println!("{one:>6} of {:>4} {name}", open + one);
    }
    for wrong in &wrong {
        println!("{wrong}");
    }
    for (cause, count) in named {
        println!("{count:>6} {cause}");
    }
    let trials: u64 = cells.iter().map(|cell| cell.trials).sum();
    println!(
        "{trials} trials, {} resets of the server in both views, {certain_and_wrong} certain and wrong",
        labels.len()
    );
    println!("of {} whose packets decide: {decides}", decides.all());
    println!("of {} whose packets leave it open: {leaves}", leaves.all());
    Ok(certain_and_wrong == 0)
}

fn read(lines: &Path, folder: &Path, cells: &mut Vec<Cell>, labels: &mut Vec<Label>) -> std::io::Result<()> {
    let named = |error| std::io::Error::other(format!("{}: {error}", lines.display()));
    let text = std::fs::read_to_string(lines).map_err(named)?;
    let read = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for cell in read.filter(|line| line["type"] == "cell") {
        let text = |key: &str| cell[key].as_str().unwrap_or_default().to_owned();
        let name = format!("{}-{}-{}", text("ending"), text("peer"), text("link"));
        let file = folder.join(format!("{name}.pcapng"));
        let mut findings: Vec<Finding> = Vec::new();
        examine(&file, AnalyzerLimits::default(), |finding| findings.push(finding))
            .and_then(|_| trace::read(&file))
            .map(|packets| {
                let of_the_server =
                    |finding: &Finding| finding.class.is_reset() && finding.client != Some(finding.from);
                for finding in findings.into_iter().filter(of_the_server) {
                    let shape = Shape::of(&packets, &finding);
                    labels.extend(shape.map(|shape| Label { cell: cells.len(), shape, finding }));
                }
            })
            .map_err(|error| std::io::Error::other(format!("{}: {error}", file.display())))?;
        let name = format!("{name}, {} bytes", cell["response_bytes"]);
        cells.push(Cell { name, trials: cell["trials"].as_u64().unwrap_or(0), truths: truths(&cell) });
    }
    Ok(())
}

/// The causes that each shape leaves: those of the cells with a single cause in which it was seen, and of the others only where there is none
/// of the first kind.
fn decided(cells: &[Cell], labels: &[Label]) -> BTreeMap<Shape, BTreeSet<&'static str>> {
    let mut decided = BTreeMap::<Shape, BTreeSet<&'static str>>::new();
    for alone in [true, false] {
        for label in labels {
            let truths = &cells[label.cell].truths;
            let causes = decided.entry(label.shape).or_default();
            if (truths.len() == 1) == alone && (alone || causes.is_empty()) {
                causes.extend(truths.iter().map(|cause| cause.name()));
            }
        }
    }
    decided
}

fn words(causes: &BTreeSet<&'static str>) -> String {
    causes.iter().copied().collect::<Vec<_>>().join(" or ")
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
