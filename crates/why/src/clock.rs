//! Durations and times in words: as many digits as a reader needs to recognise a timeout, and the wall clock in UTC.

use std::fmt;

/// Nanoseconds, worded as `12.3 ms`, `350.0 s` or `5 d 0 h`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duration(pub(crate) u64);

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 as f64 / 1e9;
        match self.0 {
            0..1_000_000 => write!(f, "{} us", self.0 / 1_000),
            1_000_000..1_000_000_000 => write!(f, "{:.1} ms", seconds * 1e3),
            1_000_000_000..172_800_000_000_000 => write!(f, "{seconds:.1} s"),
            _ => {
                let hours = self.0 / 3_600_000_000_000;
                write!(f, "{} d {} h", hours / 24, hours % 24)
            }
        }
    }
}

/// Nanoseconds since 1970, worded as `2026-05-28 20:26:40.123 UTC`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock(pub(crate) u64);

impl fmt::Display for WallClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = self.0 / 1_000_000;
        let seconds = milliseconds / 1_000;
        // Years that begin in March have their leap day at the end; eras of 400 years are alike (as in chrono's and
        // libc++'s conversions).
        let days = seconds / 86_400 + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03} UTC",
            milliseconds % 1_000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_knows_leap_years() {
        for (seconds, words) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (951_782_400, "2000-02-29 00:00:00.000 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59.000 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00.000 UTC"),
            (1_780_000_000, "2026-05-28 20:26:40.000 UTC"),
        ] {
            assert_eq!(WallClock(seconds * 1_000_000_000).to_string(), words);
        }
    }

    #[test]
    fn a_timeout_is_recognised() {
        for (nanoseconds, words) in [
            (999_999, "999 us"),
            (1_000_000, "1.0 ms"),
            (350_040_000_000, "350.0 s"),
            (172_799_900_000_000, "172799.9 s"),
            (432_000_000_000_000, "5 d 0 h"),
        ] {
            assert_eq!(Duration(nanoseconds).to_string(), words);
        }
    }
}
