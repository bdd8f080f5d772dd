//! The result as a document: who kept, risked and lost what on which kernel, and where kernels differ.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::differences::differences;
use super::result::{KernelResult, VerdictCounts};
use super::{CLIENTS, ENDINGS, LINES, PEERS};

/// What `cargo xtask kernels` has measured: docs/kernels.json, of which docs/kernels.md is made.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelReport {
    pub(super) written_by: String,
    pub(super) day: String,
    /// Of the program.
    pub(super) version: String,
    /// The command that each kernel was given.
    pub(super) command: String,
    pub(super) qemu: Option<String>,
    pub(super) kernels: Vec<KernelResult>,
}

impl KernelReport {
    /// Whether another report is of the same experiment with the same program.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (&self.command, &self.version) == (&other.command, &other.version)
    }

    /// Takes the place of an earlier report, whose results of other kernels it keeps.
    pub(super) fn fill(&mut self, earlier: Self) {
        let mut own = std::mem::replace(&mut self.kernels, earlier.kernels);
        for kernel in &mut self.kernels {
            if let Some(place) = own.iter().position(|one| one.name == kernel.name) {
                *kernel = own.remove(place);
            }
        }
    }

    /// The kernels of which there are cells.
    pub(super) fn measured(&self) -> Vec<&KernelResult> {
        self.kernels.iter().filter(|kernel| !kernel.cells.is_empty()).collect()
    }

    /// Why the table is not complete; none if it is.
    pub(super) fn gaps(&self) -> Vec<String> {
        let missing = self
            .kernels
            .iter()
            .filter_map(|kernel| kernel.missing.as_ref().map(|why| format!("{}: {why}", kernel.name)));
        let mut gaps: Vec<String> = missing.collect();
        let mut lines: Vec<String> = self.measured().iter().map(|kernel| kernel.line()).collect();
        lines.sort();
        lines.dedup();
        if lines.len() < LINES {
            gaps.push(format!(
                "{} lines of releases, and {LINES} are wanted: {}",
                lines.len(),
                lines.join(", ")
            ));
        }
        gaps
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "# The lab on other kernels\n\n\
             Written by `cargo xtask kernels`, {}, of `linger` {}: the lab's endings against its client models over `wifi`, each cell the same \
             trials with the same seed, inside kernels of Debian's releases. They run without root and without KVM: as `user-mode-linux` (a \
             process), or a cloud kernel under qemu{}, which translates its instructions. `kernels.json` has the counts. What the words mean \
             is in [lab.md](lab.md); of clients that run on other systems (Windows, the BSDs) there is the model, `discards`, and no kernel.\n\n\
             ```\n{}\n```\n\n",
            self.day,
            self.version,
            self.qemu.as_ref().map(|version| format!(" {version}")).unwrap_or_default(),
            self.command,
        );
        self.kernels_into(&mut text);
        let gaps = self.gaps();
        if !gaps.is_empty() {
            let _ = writeln!(text, "**Incomplete.** {}.\n", gaps.join(". "));
        }
        text.push_str("## What it comes to\n\n");
        for sentence in self.sentences() {
            let _ = writeln!(text, "- {sentence}");
        }
        for peer in PEERS {
            self.peer_into(peer, &mut text);
        }
        text
    }

    fn kernels_into(&self, text: &mut String) {
        text.push_str(
            "| kernel | runs on | package | took | frames lost by the machine |\n|---|---|---|---|---|\n",
        );
        for kernel in &self.kernels {
            let (release, package) = (or_dash(&kernel.release), or_dash(&kernel.package));
            let took = if kernel.seconds > 0 { format!("{} s", kernel.seconds) } else { "-".to_owned() };
            let lost = if kernel.cells.is_empty() {
                "not measured".to_owned()
            } else {
                kernel.accidents.to_string()
            };
            let _ = writeln!(text, "| {release} | {} | {package} | {took} | {lost} |", kernel.machine());
        }
        text.push('\n');
    }

    fn peer_into(&self, peer: &str, text: &mut String) {
        let kernels = self.measured();
        let columns: Vec<String> = kernels.iter().map(|kernel| kernel.column()).collect();
        let _ = writeln!(
            text,
            "\n## {peer}\n\n| ending | client | {} |\n|{}",
            columns.join(" | "),
            "---|".repeat(columns.len() + 2)
        );
        for (ending, client) in ENDINGS.iter().flat_map(|ending| CLIENTS.map(|client| (ending, client))) {
            let shown = kernels.iter().map(|kernel| {
                kernel.cell(peer, ending, client).map_or("not measured".to_owned(), VerdictCounts::shown)
            });
            let _ = writeln!(text, "| {ending} | {client} | {} |", shown.collect::<Vec<_>>().join(" | "));
        }
    }

    /// What the counts say, each sentence found anew in them.
    fn sentences(&self) -> Vec<String> {
        let kernels = self.measured();
        let sum = |of: &dyn Fn(&str, &str) -> bool| {
            let cells = kernels.iter().flat_map(|kernel| &kernel.cells).filter(|(key, _)| {
                let mut words = key.split(' ');
                of(words.next().unwrap_or_default(), words.next().unwrap_or_default())
            });
            cells.fold(VerdictCounts::default(), |sum, (_, one)| {
                VerdictCounts(sum.0 + one.0, sum.1 + one.1, sum.2 + one.2)
            })
        };
        let told = |what: &str, counted: VerdictCounts| {
            let VerdictCounts(_, at_risk, lost) = counted;
            format!("{what}: {lost} of {} trials lost, {at_risk} at risk.", counted.trials())
        };
        let uml = kernels.iter().filter(|kernel| kernel.is_uml()).count();
        let mut sentences = vec![
            format!("{} kernels, {uml} of them user-mode Linux.", kernels.len()),
            told("`lingering`, any peer and client, on all kernels", sum(&|_, ending| ending == "lingering")),
            told(
                "`reads-all`, any ending but `abort`, on all kernels",
                sum(&|peer, ending| peer == "reads-all" && ending != "abort"),
            ),
            told(
                "The others, without `abort`",
                sum(&|peer, ending| peer != "reads-all" && ending != "lingering" && ending != "abort"),
            ),
        ];
        sentences.extend(differences(&kernels));
        sentences
    }
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
