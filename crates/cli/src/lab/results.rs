//! The tasks of a lab, and their results.

use std::collections::HashMap;
use std::fmt::Write as _;

use linger_lab::{
    BacklogPlan, BacklogReport, CellPlan, CellReport, Ending, Expectation, NetworkPlan, Peer, Share,
};

use super::network::NetworkOutcome;
use super::sizes::Differing;

/// A task, and the expected result.
pub(crate) struct Task {
    pub(crate) plan: Plan,
    pub(crate) expect: Option<Expectation>,
    /// Base name of its files, which no other task has.
    pub(crate) name: String,
}

impl Task {
    pub(crate) fn new(plan: Plan, expect: Option<Expectation>) -> Self {
        Self { plan, expect, name: String::new() }
    }

    /// The cell that the task tries, if it is one.
    pub(crate) fn cell(&self) -> Option<&CellPlan> {
        if let Plan::Cell(plan) = &self.plan { Some(plan.as_ref()) } else { None }
    }
}

/// Base name of a cell's files, if it is the only one of its kind.
pub(crate) fn name(plan: &CellPlan) -> String {
    let client = if plan.client.is_usual() { String::new() } else { format!("-{}", plan.client) };
    format!("{}-{}{client}-{}", plan.ending, plan.peer, plan.link.name)
}

/// Names the tasks: of several of a kind each has the sizes in which they differ at its end, and the second with the same sizes
/// has `-2`, in the order in which the tasks stand.
pub(crate) fn name_all(tasks: &mut [Task]) {
    let mut kinds: HashMap<String, Vec<usize>> = HashMap::new();
    for (number, task) in tasks.iter().enumerate() {
        if let Plan::Cell(plan) = &task.plan {
            kinds.entry(name(plan)).or_default().push(number);
        }
    }
    let mut files = HashMap::new();
    for task in tasks.iter_mut().filter(|task| matches!(task.plan, Plan::Network(_))) {
        let count = files.entry(task.name.clone()).and_modify(|count| *count += 1).or_insert(1);
        if *count > 1 {
            let _ = write!(task.name, "-{count}");
        }
    }
    for (kind, numbers) in kinds {
        let plans: Vec<&CellPlan> = numbers.iter().filter_map(|number| tasks[*number].cell()).collect();
        let sizes = Differing::among(&plans);
        let suffixes: Vec<String> = plans.into_iter().map(|plan| sizes.suffix(plan)).collect();
        let mut seen = HashMap::new();
        for (number, suffix) in numbers.into_iter().zip(suffixes) {
            let name = &mut tasks[number].name;
            *name = format!("{kind}{suffix}");
            let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
            if *count > 1 {
                let _ = write!(name, "-{count}");
            }
        }
    }
}

pub(crate) enum Plan {
    Cell(Box<CellPlan>),
    Backlog(Box<BacklogPlan>),
    Network(Box<NetworkPlan>),
}

/// What became of a task.
pub(crate) enum TaskReport {
    Cell(Box<CellReport>),
    Backlog(Box<BacklogReport>),
    Network(Box<NetworkOutcome>),
    Failed(std::io::Error),
}

/// Whether every response of a cell must be kept: by the lingering close, unless the peer never reads, and by
/// any close but an abort, if the server reads everything that the client sends.
pub(crate) fn must_keep(plan: &CellPlan) -> bool {
    // Who reads later than the close stays, and sends something first, is beyond the policy.
    let is_late = plan.client.model().reads_after.is_some_and(|pause| pause >= plan.policy.grace);
    plan.ending == Ending::Lingering && plan.peer != Peer::NeverReads && !is_late
        || plan.ending != Ending::Abort && plan.peer.is_innocent()
}

/// How results are shown to people.
pub(crate) enum Show {
    /// The three rows of the default run, and what to do next.
    Three,
    /// A table for each link, under the titles of the scenarios.
    Grid { titles: Vec<String> },
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every cell came out as expected.
    AsExpected,
    /// At least one result was not as expected.
    Unexpected,
    /// Someone asked to stop before everything was tried; what was tried is as expected.
    Interrupted,
}

impl Outcome {
    /// A stable identifier, for machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AsExpected => "as_expected",
            Self::Unexpected => "unexpected",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Everything that is to be shown.
pub(crate) struct Results {
    pub(crate) tasks: Vec<Task>,
    pub(crate) reports: Vec<Option<TaskReport>>,
    pub(crate) show: Show,
    pub(crate) seed: u64,
    /// The command that repeats the run.
    pub(crate) again: String,
    /// `--at-risk-ok`: responses at risk are no reason for a status of 1.
    pub(crate) at_risk_ok: bool,
    /// Someone asked to stop before everything was tried.
    pub(crate) interrupted: bool,
    /// Namespaces were refused: loopback in the machine's own network only.
    pub(crate) shared: bool,
}

impl Results {
    /// Whether a task came out otherwise than expected.
    pub(crate) fn is_unexpected(&self, task: &Task, report: &TaskReport) -> bool {
        match report {
            TaskReport::Cell(report) => match task.expect {
                // `--at-risk-ok` applies as well if a scenario expects every response kept.
                Some(Expectation::NotKept(Share::None)) if self.at_risk_ok => report.tally.lost > 0,
                Some(expect) => !expect.is_met(&report.tally),
                None => {
                    let at_risk = if self.at_risk_ok { 0 } else { report.tally.at_risk };
                    must_keep(&report.plan) && report.tally.lost + at_risk > 0
                }
            },
            TaskReport::Backlog(_) => false,
            TaskReport::Network(outcome) => {
                !outcome.is_cut && outcome.checks(self.at_risk_ok).iter().any(|check| !check.is_met)
            }
            TaskReport::Failed(_) => true,
        }
    }

    /// The sizes in which the cells differ.
    pub(super) fn sizes(&self) -> Differing {
        Differing::among(&self.tasks.iter().filter_map(Task::cell).collect::<Vec<_>>())
    }

    pub(crate) fn done(&self) -> impl Iterator<Item = (&Task, &TaskReport)> {
        self.tasks.iter().zip(&self.reports).filter_map(|(task, report)| Some((task, report.as_ref()?)))
    }

    pub(crate) fn outcome(&self) -> Outcome {
        if self.done().any(|(task, report)| self.is_unexpected(task, report)) {
            Outcome::Unexpected
        } else if self.interrupted {
            Outcome::Interrupted
        } else {
            Outcome::AsExpected
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linger_lab::{Link, Named};

    #[test]
    fn no_two_cells_write_to_the_same_file() {
        let task = |link: &str, response| {
            let mut plan = CellPlan::new(Ending::Close, Peer::Unread, Link::named(link).unwrap());
            plan.response = response;
            Task::new(Plan::Cell(Box::new(plan)), None)
        };
        let mut tasks = [task("wifi", 1), task("lan", 1), task("wifi", 64), task("wifi", 64), task("lan", 1)];
        name_all(&mut tasks);
        let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "close-unread-wifi-response1",
                "close-unread-lan",
                "close-unread-wifi-response64",
                "close-unread-wifi-response64-2",
                "close-unread-lan-2"
            ]
        );
    }
}
