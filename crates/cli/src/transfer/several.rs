//! Several operands of one command: one summary, one exit status.

use std::ops::ControlFlow;
use std::process::ExitCode;

use linger_transfer::{Error, ItemVerdict, Summary};

use super::show::Show;
use super::standing::Standing;
use super::{conclude_told, hint};
use crate::output::say;

/// What the transfers came to so far.
#[derive(Debug, Default)]
pub(super) struct Several {
    summary: Summary,
    /// The first error; those after it are told as they come.
    error: Option<Error>,
}

impl Several {
    /// Adds one transfer. Breaks if the next one would meet the same error.
    pub(super) fn note(&mut self, summary: Summary, error: Option<Error>) -> ControlFlow<()> {
        let mut summary = summary;
        let verdict = summary.verdict(error.as_ref());
        let is_last = matches!(
            error,
            Some(
                Error::Unreachable { .. }
                    | Error::Identity(_)
                    | Error::KeyChanged { .. }
                    | Error::Cancelled
                    | Error::NotPossibleHere(_)
                    | Error::Cut(_)
            )
        );
        if verdict == ItemVerdict::NotDelivered && summary.failed == 0 && summary.unsent == 0 {
            // A whole operand was refused, so none of its entries counts as failed. Beside other operands it counts as one.
            summary.failed = u64::from(self.summary.confirmed > 0 || self.error.is_some());
        }
        self.summary.add(&summary);
        match (error, &self.error) {
            (Some(error), None) => self.error = Some(error),
            (Some(error), Some(_)) => say!("linger: {}", hint::error_with_hint(&error)),
            (None, _) => {}
        }
        if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Prints the summary, and returns the exit status of all transfers together.
    pub(super) fn conclude(self, show: Show, standing: &Standing) -> Result<ExitCode, Error> {
        let Self { summary, error } = self;
        if error.is_none() {
            standing.ended(&summary);
        }
        let told = show.finish(&summary, error.as_ref());
        Ok(conclude_told(&summary, error.as_ref(), told))
    }
}
