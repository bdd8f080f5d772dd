//! Rates: `500k` and `10MiB` are bytes a second, `80Mbit` is bits a second.

use linger_lab::Bytes;

/// Bytes a second, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u64);

/// Reads a rate. `/s` may follow the unit.
pub(crate) fn rate(text: &str) -> Result<Rate, String> {
    let unit = text.strip_suffix("/s").unwrap_or(text);
    let is_in_bits = unit.to_ascii_lowercase().ends_with("bit");
    let bytes = if is_in_bits {
        let linger_lab::Rate(bits) = unit.parse()?;
        bits / 8
    } else {
        let Bytes(bytes) = unit.parse().map_err(|why: String| format!("{why}, or kbit, Mbit, Gbit"))?;
        bytes
    };
    match bytes {
        0 => Err(format!("`{text}` would let nothing through: leave it out for no limit")),
        bytes => Ok(Rate(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_bits_are_told_apart_by_their_unit() {
        for (text, bytes) in [
            ("1", 1),
            ("500k", 500_000),
            ("500kB/s", 500_000),
            ("10MiB", 10 << 20),
            ("80Mbit", 10_000_000),
            ("80Mbit/s", 10_000_000),
            ("8bit", 1),
        ] {
            assert_eq!(rate(text), Ok(Rate(bytes)), "{text}");
        }
        for text in ["", "0", "0bit", "7bit", "fast", "5 parsecs", "-1"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
