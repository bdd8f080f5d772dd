//! What the client's program and its system are like: models of what real clients do differently.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A model of a client. The usual one reads while it sends, goes on to read after a write error, and its kernel keeps at a reset what
/// came before: curl on Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ClientModel {
    /// It sends everything before it reads, and gives up at a write error without a look at what has arrived, as Python's
    /// urllib does, and wget.
    pub sends_first: bool,
    /// It pauses for so long once it has sent its request. The peer's late bytes are sent after the pause; only then it reads.
    pub reads_after: Option<Duration>,
    /// Its system throws away at a reset what the program has not read. RFC 9293 section 3.10.7.4 says of a reset that "all segment
    /// queues should be flushed"; Linux keeps what is there, Windows and the BSDs do not.
    pub discards: bool,
}

/// The usual model.
const USUAL: &str = "usual";
const SENDS_FIRST: &str = "sends-first";
const READS_LATE: &str = "reads-late";
const DISCARDS: &str = "discards";
/// The pause of `reads-late` without a number.
const LATE: Duration = Duration::from_secs(2);
/// Longer than any close waits.
const LONGEST: f64 = 3_600.0;

impl ClientModel {
    /// The names; all but the first can be joined by `+`.
    pub const NAMES: [&'static str; 4] = [USUAL, SENDS_FIRST, "reads-late=SECS", DISCARDS];

    /// Whether it is the usual one.
    pub fn is_usual(self) -> bool {
        self == Self::default()
    }
}

impl FromStr for ClientModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut model = Self::default();
        for name in text.split('+') {
            let (name, seconds) = name.split_once('=').map_or((name, None), |(name, it)| (name, Some(it)));
            match (name, seconds) {
                (USUAL, None) if text == USUAL => {}
                (SENDS_FIRST, None) => model.sends_first = true,
                (DISCARDS, None) => model.discards = true,
                (READS_LATE, None) => model.reads_after = Some(LATE),
                (READS_LATE, Some(seconds)) => {
                    let pause = seconds.parse().ok().filter(|pause| (0.0..=LONGEST).contains(pause));
                    let wrong = || format!("`{seconds}` is not a number of seconds of at most an hour");
                    model.reads_after = Some(Duration::from_secs_f64(pause.ok_or_else(wrong)?));
                }
                _ => {
                    let known = Self::NAMES.join(", ");
                    return Err(format!("unknown client `{text}`; known are {known}, and `+` joins them"));
                }
            }
        }
        Ok(model)
    }
}

impl fmt::Display for ClientModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late = self.reads_after.map(|pause| format!("{READS_LATE}={}", pause.as_secs_f64()));
        let parts = [self.sends_first.then(|| SENDS_FIRST.to_owned()), late];
        let parts: Vec<_> =
            parts.into_iter().flatten().chain(self.discards.then(|| DISCARDS.to_owned())).collect();
        f.pad(&if parts.is_empty() { USUAL.to_owned() } else { parts.join("+") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_shown() {
        for name in
            ["usual", "sends-first", "reads-late=2", "discards", "sends-first+reads-late=0.25+discards"]
        {
            assert_eq!(name.parse::<ClientModel>().unwrap().to_string(), name);
        }
        let late: ClientModel = "reads-late".parse().unwrap();
        assert_eq!((late.reads_after, late.is_usual()), (Some(LATE), false));
        for wrong in [
            "",
            "polite",
            "usual+discards",
            "discards+usual",
            "reads-late=",
            "reads-late=-1",
            "reads-late=nan",
            "reads-late=4000",
            "sends-first=3",
            "discards+",
        ] {
            assert!(wrong.parse::<ClientModel>().is_err(), "{wrong}");
        }
    }
}
