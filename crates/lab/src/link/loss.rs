//! How a link loses packets: each by itself, or in bursts.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// How packets are lost by chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// Each with the same probability, 0 to 1.
    Each(f64),
    /// In bursts.
    Bursts(GilbertElliott),
}

impl Default for Loss {
    fn default() -> Self {
        Self::Each(0.0)
    }
}

impl From<f64> for Loss {
    fn from(probability: f64) -> Self {
        Self::Each(probability)
    }
}

impl Loss {
    /// Whether it ever loses anything.
    pub fn is_none(&self) -> bool {
        *self == Self::Each(0.0)
    }

    /// The part of all packets that is lost in the long run.
    pub fn rate(&self) -> f64 {
        match self {
            Self::Each(probability) => *probability,
            Self::Bursts(model) => {
                let bad = model.share_of_bad();
                bad * model.bad + (1.0 - bad) * model.good
            }
        }
    }
}

/// The model of Gilbert and Elliott, with the parameters and the defaults of `netem` (tc-netem(8), `loss gemodel p r 1-h
/// 1-k`). The link is in one of two states, and each packet may change it; a packet is lost with the probability of the
/// state that it finds (`loss_gilb_ell` in the kernel's `sch_netem.c`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    /// Probability, at each packet, that the good state becomes the bad one.
    pub p: f64,
    /// Probability, at each packet, that the bad state becomes the good one: bursts last for 1/r packets on average.
    pub r: f64,
    /// Probability of a loss in the bad state (netem's 1-h).
    pub bad: f64,
    /// Probability of a loss in the good state (netem's 1-k).
    pub good: f64,
}

impl GilbertElliott {
    /// The part of all packets that finds the bad state, in the long run.
    pub fn share_of_bad(&self) -> f64 {
        if self.p == 0.0 { 0.0 } else { self.p / (self.p + self.r) }
    }

    /// What a packet that finds the state `is_bad` is lost with, and the state behind it, by this draw from 0 to 1.
    pub(crate) fn step(&self, is_bad: bool, draw: f64) -> (f64, bool) {
        if is_bad { (self.bad, draw >= self.r) } else { (self.good, draw < self.p) }
    }
}

/// A probability in a scenario.
pub(crate) fn probability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(D::Error::custom(format!("{value} is no probability: it must be between 0 and 1")))
}

#[derive(Deserialize)]
enum Model {
    #[serde(rename = "gilbert-elliott")]
    GilbertElliott,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bursts {
    #[serde(rename = "model")]
    _model: Model,
    #[serde(deserialize_with = "probability")]
    p: f64,
    #[serde(default, deserialize_with = "some_probability")]
    r: Option<f64>,
    #[serde(default, alias = "1-h", deserialize_with = "some_probability")]
    bad: Option<f64>,
    #[serde(default, alias = "1-k", deserialize_with = "some_probability")]
    good: Option<f64>,
}

pub(crate) fn some_probability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    probability(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Loss {
    /// Accepts a number or a table. Written by hand, because the errors of an untagged enum do not say what is wrong where.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Loss;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a probability, or { model = \"gilbert-elliott\", p = …, r = … }")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Loss, E> {
                probability(serde::de::value::F64Deserializer::new(value)).map(Loss::Each)
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Loss, E> {
                self.visit_f64(value as f64)
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Loss, E> {
                self.visit_f64(value as f64)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Loss, A::Error> {
                let Bursts { p, r, bad, good, .. } = Bursts::deserialize(MapAccessDeserializer::new(map))?;
                // The defaults of tc (q_netem.c in iproute2).
                let (r, bad, good) = (r.unwrap_or(1.0 - p), bad.unwrap_or(1.0), good.unwrap_or(0.0));
                Ok(Loss::Bursts(GilbertElliott { p, r, bad, good }))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_run_follows_from_the_parameters() {
        let model = GilbertElliott { p: 0.01, r: 0.3, bad: 1.0, good: 0.0 };
        assert!((Loss::Bursts(model).rate() - 0.01 / 0.31).abs() < 1e-12);
        let never = GilbertElliott { p: 0.0, r: 0.0, bad: 1.0, good: 0.25 };
        assert_eq!(Loss::Bursts(never).rate(), 0.25, "never bad, and no division by zero");
        let for_good = GilbertElliott { p: 1.0, r: 0.0, bad: 0.5, good: 0.0 };
        assert_eq!(Loss::Bursts(for_good).rate(), 0.5);
    }

    /// As `loss_gilb_ell` has it: the state that the packet finds decides, and only the next one sees the change.
    #[test]
    fn a_packet_is_lost_by_the_state_that_it_finds() {
        let model = GilbertElliott { p: 0.2, r: 0.4, bad: 0.9, good: 0.1 };
        assert_eq!(model.step(false, 0.19), (0.1, true));
        assert_eq!(model.step(false, 0.2), (0.1, false));
        assert_eq!(model.step(true, 0.39), (0.9, false));
        assert_eq!(model.step(true, 0.4), (0.9, true));
    }
}
