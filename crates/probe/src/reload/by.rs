//! How a server is told to reload, or to stop.

use std::fmt;
use std::str::FromStr;

use rustix::process::Signal;

/// How a server is told to reload, or to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReloadBy {
    /// By a command for `sh -c`. What it prints goes to standard error; its status 0 says that the server has reloaded.
    Command(String),
    /// By a signal.
    Signal {
        /// A process of the server: the one that has part in its listening socket, or has started those that do.
        pid: u32,
        /// The signal.
        signal: ReloadSignal,
    },
}

impl ReloadBy {
    /// Whether the server is to end: connections that it refuses afterwards are right.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Signal { signal, .. } if signal.is_stop())
    }
}

/// A signal by which servers are told to reload, or to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReloadSignal {
    /// To reload, mostly.
    Hup,
    /// httpd: to reload without cutting responses.
    Usr1,
    /// php-fpm, HAProxy's master: to reload; unicorn, nginx: to start a new program beside the old one.
    Usr2,
    /// To stop.
    Term,
    /// nginx, php-fpm: to stop once the requests under way are answered.
    Quit,
    /// To stop, as Ctrl-C does.
    Int,
    /// httpd: to stop once the requests under way are answered.
    Winch,
}

impl ReloadSignal {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Hup, Self::Usr1, Self::Usr2, Self::Term, Self::Quit, Self::Int, Self::Winch];

    /// The signal's name, without SIG.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Term => "TERM",
            Self::Quit => "QUIT",
            Self::Int => "INT",
            Self::Winch => "WINCH",
        }
    }

    /// Whether it means to stop, and not to reload.
    pub fn is_stop(self) -> bool {
        matches!(self, Self::Term | Self::Quit | Self::Int | Self::Winch)
    }

    pub(super) fn kernels(self) -> Signal {
        match self {
            Self::Hup => Signal::HUP,
            Self::Usr1 => Signal::USR1,
            Self::Usr2 => Signal::USR2,
            Self::Term => Signal::TERM,
            Self::Quit => Signal::QUIT,
            Self::Int => Signal::INT,
            Self::Winch => Signal::WINCH,
        }
    }
}

impl fmt::Display for ReloadSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// `HUP`, `SIGHUP` or `hup`.
impl FromStr for ReloadSignal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        Self::ALL.into_iter().find(|signal| signal.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no signal by which a server is told to reload or to stop: {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_named_with_and_without_sig() {
        for signal in ReloadSignal::ALL {
            for text in [signal.name().to_owned(), format!("SIG{signal}"), signal.name().to_lowercase()] {
                assert_eq!(text.parse(), Ok(signal), "{text}");
            }
        }
        for text in ["", "SIG", "KILL", "9", "HUP "] {
            assert!(text.parse::<ReloadSignal>().is_err(), "{text:?}");
        }
        let stops = ReloadSignal::ALL.into_iter().filter(|signal| signal.is_stop());
        assert_eq!(stops.map(ReloadSignal::name).collect::<Vec<_>>(), ["TERM", "QUIT", "INT", "WINCH"]);
    }
}
