//! What the supervisor has to say while the program runs.

use crate::coverage::Coverage;
use crate::refusal::Refusal;
use crate::report::RunReport;

/// What the supervisor has to say while the program runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// The counts, as requested by SIGUSR1.
    Report(&'a RunReport),
    /// Which listeners are covered: when the first is there, when one that is not covered comes later, and after each report
    /// that was requested.
    Coverage(&'a Coverage),
    /// The fds of a process cannot be looked at. Reported for the first such process of a run.
    Refused(&'a Refusal),
}
