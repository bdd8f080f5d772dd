//! What one kernel did: its cells, and by which names it stands in the document.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What one kernel did, or why there is nothing of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelResult {
    /// What was looked for: `uml bullseye`.
    pub(super) name: String,
    /// The kernel's package and its version; none of this machine's own.
    pub(super) package: String,
    /// As the kernel says it.
    pub(super) release: String,
    pub(super) seconds: u64,
    /// Frames that the machine lost, not the link.
    pub(super) accidents: u64,
    /// Why it is missing, or not complete.
    pub(super) missing: Option<String>,
    /// By `peer ending client`.
    pub(super) cells: BTreeMap<String, VerdictCounts>,
}

/// Trials of a cell: kept, at risk, lost.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct VerdictCounts(pub(super) u64, pub(super) u64, pub(super) u64);

impl VerdictCounts {
    pub(super) fn trials(self) -> u64 {
        self.0 + self.1 + self.2
    }

    pub(super) fn shown(self) -> String {
        let Self(kept, at_risk, lost) = self;
        match (kept, at_risk, lost) {
            (_, 0, 0) => "kept".to_owned(),
            (_, at_risk, 0) => format!("at risk {at_risk}"),
            (_, 0, lost) => format!("**lost {lost}**"),
            (_, at_risk, lost) => format!("**lost {lost}**, at risk {at_risk}"),
        }
    }
}

impl KernelResult {
    /// Its line of releases, as `6.12`.
    pub(super) fn line(&self) -> String {
        self.release.split(['.', '-', '+']).take(2).collect::<Vec<_>>().join(".")
    }

    pub(super) fn is_uml(&self) -> bool {
        self.name.starts_with("uml ")
    }

    /// As the head of a column: the line, and on which machine.
    pub(super) fn column(&self) -> String {
        let machine = self.name.split(' ').next().unwrap_or_default();
        format!("{} {machine}", self.line())
    }

    pub(super) fn machine(&self) -> &'static str {
        match self.name.split(' ').next() {
            Some("uml") => "user-mode Linux",
            Some("qemu") => "qemu, TCG",
            _ => "this machine",
        }
    }

    /// The key of a cell.
    pub(super) fn key(peer: &str, ending: &str, client: &str) -> String {
        format!("{peer} {ending} {client}")
    }

    pub(super) fn cell(&self, peer: &str, ending: &str, client: &str) -> Option<VerdictCounts> {
        self.cells.get(&Self::key(peer, ending, client)).copied()
    }
}
