//! Parses sizes and rates.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error as _};

/// A number of bytes: `100`, `64k` (64,000), `64KiB` (65,536), `2M`, `2MiB`, `1G`, `1GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Bits per second: `500k`, `40Mbit`, `1Gbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text)?;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1_000,
            "m" | "mb" => 1_000_000,
            "g" | "gb" => 1_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            _ => {
                return Err(format!(
                    "`{text}` is no size: the units are k, M, G (1000s) and KiB, MiB, GiB (1024s)"
                ));
            }
        };
        scale(number, factor).map(Self).ok_or_else(|| format!("`{text}` is too large"))
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text)?;
        let factor = match unit.to_ascii_lowercase().trim_end_matches("/s").trim_end_matches("bit") {
            "" => 1,
            "k" => 1_000,
            "m" => 1_000_000,
            "g" => 1_000_000_000,
            _ => {
                return Err(format!(
                    "`{text}` is no rate: the units are bit, kbit, Mbit and Gbit, each second"
                ));
            }
        };
        match scale(number, factor) {
            Some(0) => Err(format!("`{text}` would let nothing through: leave the rate out for no limit")),
            Some(rate) => Ok(Self(rate)),
            None => Err(format!("`{text}` is too large")),
        }
    }
}

/// Separates the digits from the unit.
fn split(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    Ok((number, text[end..].trim()))
}

fn scale(number: f64, factor: u64) -> Option<u64> {
    let value = number * factor as f64;
    (value < u64::MAX as f64 / 2.0).then_some(value as u64)
}

/// Reads a number as well as text, for scenario files; both as text.
pub(crate) fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a positive whole number, or text with a unit")]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    })
}

macro_rules! from_number_or_text {
    ($type:ident) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                number_or_text(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}
from_number_or_text!(Bytes);
from_number_or_text!(Rate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("108", 108),
            ("64k", 64_000),
            ("64KiB", 65_536),
            ("2MiB", 2 << 20),
            ("1.5M", 1_500_000),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "k", "-1", "5 parsecs", "1e99", "999999999999G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, bits) in
            [("40Mbit", 40_000_000), ("40Mbit/s", 40_000_000), ("1G", 1_000_000_000), ("500", 500)]
        {
            assert_eq!(text.parse(), Ok(Rate(bits)), "{text}");
        }
        for text in ["0", "-4Mbit", "fast"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
