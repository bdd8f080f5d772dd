//! The supervisor's notices while the program runs.

use crate::coverage::Coverage;
use crate::refusal::Refusal;
use crate::report::RunReport;

/// A notice of the supervisor while the program runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<'a> {
    /// The counts, as requested by SIGUSR1.
    Report(&'a RunReport),
    /// Which listeners are covered. Reported when the first listener is seen, when a listener that is not covered is
    /// seen later, and after each requested report.
    Coverage(&'a Coverage),
    /// The program has ended, and its starter has been told. What it has left behind and its connections may still be there.
    /// Whoever reads what the supervisor writes may be waiting for its end.
    ProgramEnded,
    /// The fds of a process cannot be looked at. Reported for the first such process of a run.
    Refused(&'a Refusal),
}
