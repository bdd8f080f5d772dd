//! Durations in words: as many digits as a reader needs to recognise a timeout.

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

#[cfg(test)]
mod tests {
    use super::*;

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
