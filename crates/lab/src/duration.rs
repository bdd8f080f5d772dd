//! Times as they are typed, the same for every option and in scenario files: `30ms`, `5m`, `1h 30m`, or a number alone, in
//! seconds.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

/// The longest time that is accepted: more than anybody waits, and far from where instants overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A time as options and scenarios write it, which may be zero.
///
/// # Errors
/// Returns a text for the user: how a time is written, or that this one is too long.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    match parsed {
        None => Err("write a time as 30ms, 5s or 1h30m, or as a number of seconds".to_owned()),
        Some(time) if time > LONGEST => Err("nobody waits longer than ten years".to_owned()),
        Some(time) => Ok(time),
    }
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_bare_seconds_say_the_same() {
        for (text, milliseconds) in [
            ("5", 5_000),
            ("0.5", 500),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "-1", "nan", "inf", "1e99", "5 parsecs", "99999999999999s", "10y1d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
