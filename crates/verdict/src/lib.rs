//! What became of one response, as its client saw it: kept, at risk or lost.
//!
//! The lab, its client and the probe judge the responses of single connections by one rule:
//! [`Observation::verdict`]. The rule has a crate of its own because these crates have no other crate in common
//! to which it would belong.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The verdict on one trial. The variants are ordered; later ones are worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every byte arrived, and the connection ended well.
    Kept,
    /// Every byte arrived, but the connection was reset, or a write of the client's failed.
    ///
    /// This client read its response in time. Another client might not have: a client that writes first and stops at the
    /// error, a client whose kernel drops unread data at a reset, or a client behind a slower link.
    AtRisk,
    /// Bytes are missing. The end may have looked clean.
    Lost,
}

impl Verdict {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Kept, Self::AtRisk, Self::Lost];

    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::AtRisk => "at_risk",
            Self::Lost => "lost",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kept => "kept",
            Self::AtRisk => "at risk",
            Self::Lost => "lost",
        })
    }
}

/// What is known of a response when its connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// Every byte arrived. False if nobody knows how many bytes there should have been.
    pub complete: bool,
    /// The connection was reset, whether a read met the reset or it came after the end of the stream.
    pub reset: bool,
    /// A write of the client's failed.
    pub write_failed: bool,
}

impl Observation {
    /// The verdict on the response.
    pub const fn verdict(self) -> Verdict {
        match self {
            Self { complete: false, .. } => Verdict::Lost,
            Self { reset: false, write_failed: false, .. } => Verdict::Kept,
            Self { .. } => Verdict::AtRisk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Observation = Observation { complete: true, reset: false, write_failed: false };

    #[test]
    fn one_field_away_from_kept_nothing_is_kept() {
        assert_eq!(GOOD.verdict(), Verdict::Kept);
        assert_eq!(Observation { reset: true, ..GOOD }.verdict(), Verdict::AtRisk);
        assert_eq!(Observation { write_failed: true, ..GOOD }.verdict(), Verdict::AtRisk);
        assert_eq!(Observation { complete: false, ..GOOD }.verdict(), Verdict::Lost, "a silent loss");
    }

    #[test]
    fn missing_bytes_are_lost_however_the_connection_ended() {
        for (reset, write_failed) in [(true, false), (false, true), (true, true)] {
            let trial = Observation { complete: true, reset, write_failed };
            assert_eq!(trial.verdict(), Verdict::AtRisk, "{trial:?}");
            let trial = Observation { complete: false, ..trial };
            assert_eq!(trial.verdict(), Verdict::Lost, "{trial:?}");
        }
    }

    #[test]
    fn a_worse_verdict_is_greater() {
        assert!(Verdict::ALL.is_sorted());
        assert_eq!(Verdict::ALL.into_iter().max(), Some(Verdict::Lost));
    }
}
