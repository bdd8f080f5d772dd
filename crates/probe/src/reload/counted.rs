//! What became of the requests around a reload, in numbers.

/// What became of the requests that were made around a reload, or a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct ReloadFound {
    /// Whether the server was told to stop.
    pub is_stop: bool,
    /// How often it was told.
    pub times: u32,
    /// What shows that it has done so, each time; `None` if nothing does.
    pub shown: Option<ReloadShown>,
    /// Responses that had begun before it was told, and were read when it had done so.
    pub under_way: u32,
    /// Requests that ended before the server was told.
    pub before: RequestCounts,
    /// Requests that began before the server had done what it was told, and ended after it was told.
    pub during: RequestCounts,
    /// Requests that began later.
    pub after: RequestCounts,
}

/// What became of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RequestCounts {
    /// Answered in full.
    pub kept: u32,
    /// Answered in full before a reset; or sent on a kept connection that the server had ended a moment before; or, while the server
    /// was stopping, never taken out of the listening socket's queue.
    pub at_risk: u32,
    /// Cut, or sent and not answered.
    pub lost: u32,
    /// How many of `at_risk` and `lost` ended by a reset.
    pub reset: u32,
    /// Not connected: nothing listened.
    pub refused: u32,
    /// Answered with another status, or not comparable.
    pub other: u32,
}

impl RequestCounts {
    /// How many there were.
    pub fn all(&self) -> u32 {
        self.kept + self.at_risk + self.lost + self.refused + self.other
    }

    /// How many of them reached a socket that listened.
    pub fn connected(&self) -> u32 {
        self.all() - self.refused
    }

    #[must_use]
    pub(crate) fn and(self, more: Self) -> Self {
        Self {
            kept: self.kept + more.kept,
            at_risk: self.at_risk + more.at_risk,
            lost: self.lost + more.lost,
            reset: self.reset + more.reset,
            refused: self.refused + more.refused,
            other: self.other + more.other,
        }
    }
}

/// What shows that a server has reloaded, or stopped. The variants are ordered; later ones say more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReloadShown {
    /// The command ended with status 0.
    Command,
    /// It refused connections.
    Refused,
    /// The process that was told has ended.
    Ended,
    /// Other processes hold its listening socket.
    Processes,
    /// Another socket listens in its place.
    Socket,
}

impl ReloadShown {
    /// The same, as the beginning of a sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Command => "the command ended with status 0",
            Self::Refused => "it refused connections",
            Self::Ended => "the process has ended",
            Self::Processes => "other processes hold the listening socket now",
            Self::Socket => "another socket listens now",
        }
    }
}
