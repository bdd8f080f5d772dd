//! Times as they are typed, the same for every option: `30s`, `5m`, `1h 30m`, or a number alone, in seconds.

use std::time::Duration;

/// The longest: more than anybody waits, and far from where instants overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A time, which may be zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => humantime::parse_duration(text).ok(),
    };
    match parsed {
        None => Err("write a time as 30s, 5m or 1h30m, or as a number of seconds".to_owned()),
        Some(time) if time > LONGEST => Err("nobody waits longer than ten years".to_owned()),
        Some(time) => Ok(time),
    }
}

/// A time longer than nothing.
pub(crate) fn positive(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(time) }
}

/// A time of one second to `longest`.
pub(crate) fn up_to(
    longest: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| {
        let time = duration(text)?;
        if (Duration::from_secs(1)..=longest).contains(&time) {
            Ok(time)
        } else {
            Err(format!("it must be 1s to {}", humantime::format_duration(longest)))
        }
    }
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
        assert!(positive("0").is_err() && positive("0s").is_err() && positive("1ms").is_ok());
        let bounded = up_to(Duration::from_secs(600));
        assert!(bounded("600").is_ok() && bounded("10m").is_ok() && bounded("1").is_ok());
        assert!(bounded("601").is_err() && bounded("0.9").is_err());
    }
}
