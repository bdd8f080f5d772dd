//! What a lab is to try, and what came of it.

use linger_lab::{BacklogPlan, BacklogReport, CellPlan, CellReport, Ending, Expectation, Peer};

/// What is tried, and what is expected of it.
pub(crate) struct Task {
    pub(crate) plan: Plan,
    pub(crate) expect: Option<Expectation>,
}

pub(crate) enum Plan {
    Cell(CellPlan),
    Backlog(BacklogPlan),
}

/// What became of a task.
pub(crate) enum Report {
    Cell(Box<CellReport>),
    Backlog(Box<BacklogReport>),
    Failed(std::io::Error),
}

/// Everything that is to be shown.
pub(crate) struct Results {
    pub(crate) tasks: Vec<Task>,
    pub(crate) reports: Vec<Option<Report>>,
    pub(crate) titles: Vec<String>,
    pub(crate) seed: u64,
    /// The command that repeats the run.
    pub(crate) again: String,
    /// Someone asked to stop before everything was tried.
    pub(crate) interrupted: bool,
    /// Namespaces were refused: loopback in the machine's own network only.
    pub(crate) shared: bool,
}

impl Results {
    /// Whether a task came out otherwise than expected.
    pub(crate) fn is_unexpected(&self, task: &Task, report: &Report) -> bool {
        match report {
            Report::Cell(report) => match task.expect {
                Some(expect) => !expect.is_met(&report.tally),
                None => {
                    let ending = report.plan.ending;
                    let must_keep = ending == Ending::Lingering && report.plan.peer != Peer::NeverReads
                        || ending != Ending::Abort && report.plan.peer.is_innocent();
                    must_keep && report.tally.lost > 0
                }
            },
            Report::Backlog(_) => false,
            Report::Failed(_) => true,
        }
    }

    pub(crate) fn done(&self) -> impl Iterator<Item = (&Task, &Report)> {
        self.tasks.iter().zip(&self.reports).filter_map(|(task, report)| Some((task, report.as_ref()?)))
    }

    pub(crate) fn verdict(&self) -> &'static str {
        if self.done().any(|(task, report)| self.is_unexpected(task, report)) {
            "unexpected"
        } else if self.interrupted {
            "interrupted"
        } else {
            "as-expected"
        }
    }
}
