//! The result of one connection, as its client saw it.

use std::fmt;
use std::io;
use std::time::Duration;

use linger_verdict::{Observation, Verdict};

/// How a connection ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// Every byte arrived, and the end was clean.
    Complete,
    /// Bytes are missing, and the end was clean: silent truncation.
    ShortCleanEnd,
    /// Reset before the first byte.
    ResetBeforeAny,
    /// Reset in the middle.
    ResetAfterSome,
    /// Every byte arrived, and the connection was reset: instead of its end, after it, or as the error of a write.
    ResetAfterAll,
    /// Connection refused: no listener.
    Refused,
    /// The timeout passed.
    TimedOut,
    /// A local error: no route, no port, no permission.
    Failed,
}

impl Fate {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::Complete,
        Self::ShortCleanEnd,
        Self::ResetBeforeAny,
        Self::ResetAfterSome,
        Self::ResetAfterAll,
        Self::Refused,
        Self::TimedOut,
        Self::Failed,
    ];

    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ShortCleanEnd => "short_clean_end",
            Self::ResetBeforeAny => "reset_before_any",
            Self::ResetAfterSome => "reset_after_some",
            Self::ResetAfterAll => "reset_after_all",
            Self::Refused => "refused",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Complete => "complete",
            Self::ShortCleanEnd => "short with a clean end (silent)",
            Self::ResetBeforeAny => "reset before any byte",
            Self::ResetAfterSome => "reset after some bytes",
            Self::ResetAfterAll => "reset after all bytes",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
            Self::Failed => "failed here",
        })
    }
}

/// The result of one connection.
#[derive(Debug)]
pub struct Attempt {
    /// How the connection ended.
    pub fate: Fate,
    /// Response bytes that were read.
    pub received: u64,
    /// Response bytes that should have arrived; `None` if not known.
    pub expected: Option<u64>,
    /// Whether the connection was reset, also after its end was read.
    pub reset: bool,
    /// The error of the client's write, if one failed.
    pub write_error: Option<io::Error>,
    /// The error that led to the fate, if there was one.
    pub error: Option<io::Error>,
    /// From the connect to the end.
    pub elapsed: Duration,
}

impl Attempt {
    /// Takes in what the server has written. One that has written nothing has lost nothing at its close, but its client is without the response:
    /// then what the client was to get is still expected.
    pub(crate) fn served(&mut self, written: u64) {
        if written > 0 {
            self.expected = Some(written);
        }
    }

    /// The verdict: lost if bytes are missing; at risk if another client, kernel or link would have lost some.
    pub fn verdict(&self) -> Verdict {
        Observation {
            complete: self.expected.is_some_and(|expected| self.received >= expected),
            reset: self.reset,
            write_failed: self.write_error.is_some(),
        }
        .verdict()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Attempt {
        Attempt {
            fate: Fate::Complete,
            received: 100,
            expected: Some(100),
            reset: false,
            write_error: None,
            error: None,
            elapsed: Duration::ZERO,
        }
    }

    #[test]
    fn each_thing_that_is_wrong_changes_the_verdict() {
        assert_eq!(whole().verdict(), Verdict::Kept);
        assert_eq!(Attempt { received: 99, ..whole() }.verdict(), Verdict::Lost);
        assert_eq!(Attempt { expected: None, ..whole() }.verdict(), Verdict::Lost, "nobody knows");
        assert_eq!(Attempt { reset: true, ..whole() }.verdict(), Verdict::AtRisk);
        let write_error = Some(io::ErrorKind::BrokenPipe.into());
        assert_eq!(Attempt { write_error, ..whole() }.verdict(), Verdict::AtRisk);
    }

    /// 0 of 0 bytes is not all of a response.
    #[test]
    fn a_response_that_was_never_written_did_not_arrive() {
        let mut attempt = Attempt { fate: Fate::ResetBeforeAny, received: 0, reset: true, ..whole() };
        attempt.served(0);
        assert_eq!((attempt.verdict(), attempt.expected), (Verdict::Lost, Some(100)));
        // One byte of it, and that one has arrived: the rest was lost to an error of the server's, not to its close.
        let mut attempt = Attempt { fate: Fate::ResetAfterAll, received: 1, reset: true, ..whole() };
        attempt.served(1);
        assert_eq!((attempt.verdict(), attempt.expected), (Verdict::AtRisk, Some(1)));
    }

    #[test]
    fn a_time_that_is_over_is_no_loss_where_everything_came() {
        let attempt = Attempt { fate: Fate::TimedOut, ..whole() };
        assert_eq!(attempt.verdict(), Verdict::Kept);
    }
}
