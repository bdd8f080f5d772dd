//! Bounds on the times that options take.

use std::time::Duration;

use linger_lab::duration;

/// A time greater than zero.
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
    fn times_are_bounded() {
        assert!(positive("0").is_err() && positive("0s").is_err() && positive("1ms").is_ok());
        let bounded = up_to(Duration::from_secs(600));
        assert!(bounded("600").is_ok() && bounded("10m").is_ok() && bounded("1").is_ok());
        assert!(bounded("601").is_err() && bounded("0.9").is_err());
    }
}
