//! What a scenario expects of a cell, in words: none, some, most, all.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::stats::Tally;

/// A part of a cell's trials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Not one.
    None,
    /// At least one, and not all.
    Some,
    /// At least nine in ten. If a busy machine stops a server between its `write()` and its `close()`, a few responses
    /// arrive before the reset.
    Most,
    /// Every one.
    All,
}

impl Share {
    /// Whether `part` of `trials` is as much as this.
    pub fn is_met(self, part: u64, trials: u64) -> bool {
        match self {
            Self::None => part == 0,
            Self::Some => part > 0 && part < trials,
            Self::Most => trials > 0 && part * 10 >= trials * 9,
            Self::All => trials > 0 && part == trials,
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Some => "some, not all",
            Self::Most => "at least nine in ten",
            Self::All => "all",
        })
    }
}

/// How many of a cell's trials are expected to be lost or at risk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expectation {
    /// The share of the trials that are lost or at risk, counted together.
    NotKept(Share),
    /// A share for each verdict. A verdict that is not named may have any share.
    Each {
        /// The share of the trials in which bytes were missing.
        lost: Option<Share>,
        /// The share of the trials that are at risk.
        at_risk: Option<Share>,
    },
}

impl Expectation {
    /// Whether a cell's trials are as expected.
    pub fn is_met(self, tally: &Tally) -> bool {
        let met = |share: Option<Share>, part| share.is_none_or(|share| share.is_met(part, tally.trials));
        match self {
            Self::NotKept(share) => share.is_met(tally.not_kept(), tally.trials),
            Self::Each { lost, at_risk } => met(lost, tally.lost) && met(at_risk, tally.at_risk),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotKept(share) => write!(f, "{share} lost or at risk"),
            Self::Each { lost: Some(lost), at_risk: Some(at_risk) } => {
                write!(f, "{lost} lost, {at_risk} at risk")
            }
            Self::Each { lost: Some(lost), at_risk: None } => write!(f, "{lost} lost"),
            Self::Each { lost: None, at_risk: Some(at_risk) } => write!(f, "{at_risk} at risk"),
            Self::Each { lost: None, at_risk: None } => f.write_str("anything"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Each {
    lost: Option<Share>,
    at_risk: Option<Share>,
}

impl<'de> Deserialize<'de> for Expectation {
    /// Accepts a word, or a table with a word for each verdict. Written by hand, because the error of an untagged enum
    /// would not say which words are possible.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Expectation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("none, some, most or all, or { lost = …, at-risk = … }")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<Expectation, E> {
                Share::deserialize(StrDeserializer::new(word)).map(Expectation::NotKept)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Expectation, A::Error> {
                let Each { lost, at_risk } = Each::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Expectation::Each { lost, at_risk })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lost: u64, at_risk: u64) -> Tally {
        let mut tally = Tally::default();
        (tally.trials, tally.lost, tally.at_risk) = (10, lost, at_risk);
        tally
    }

    #[test]
    fn a_word_counts_lost_and_at_risk_together() {
        let most = Expectation::NotKept(Share::Most);
        assert!(most.is_met(&tally(4, 5)) && !most.is_met(&tally(4, 4)));
        let none = Expectation::NotKept(Share::None);
        assert!(none.is_met(&tally(0, 0)));
        assert!(!none.is_met(&tally(1, 0)) && !none.is_met(&tally(0, 1)));
        let some = Expectation::NotKept(Share::Some);
        assert!(some.is_met(&tally(1, 0)) && some.is_met(&tally(0, 9)));
        assert!(!some.is_met(&tally(0, 0)) && !some.is_met(&tally(5, 5)));
        let all = Expectation::NotKept(Share::All);
        assert!(all.is_met(&tally(3, 7)) && !all.is_met(&tally(3, 6)));
    }

    #[test]
    fn a_table_tells_them_apart() {
        let lost = Expectation::Each { lost: Some(Share::Most), at_risk: None };
        assert!(lost.is_met(&tally(9, 1)) && lost.is_met(&tally(9, 0)));
        assert!(!lost.is_met(&tally(8, 2)), "those at risk are not lost");
        let both = Expectation::Each { lost: Some(Share::None), at_risk: Some(Share::All) };
        assert!(both.is_met(&tally(0, 10)) && !both.is_met(&tally(1, 9)));
    }

    #[test]
    fn no_trial_at_all_is_neither_most_nor_all() {
        let nothing = Tally::default();
        assert!(!Expectation::NotKept(Share::Most).is_met(&nothing));
        assert!(!Expectation::NotKept(Share::All).is_met(&nothing));
    }
}
