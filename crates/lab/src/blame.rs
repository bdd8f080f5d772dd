//! Derives the cause of a cell's losses from the kernel's counters.

use linger_netns::Counters;

use crate::fate::Fate;
use crate::stats::Tally;

/// The cause for which responses of a cell were lost or at risk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Every response was kept.
    Nobody,
    /// The close: the kernel counted aborted connections, and no overflow.
    Close,
    /// The accept queue: it overflowed, and no connection was aborted by a close. The server never saw those clients.
    AcceptQueue,
    /// The counters name neither, or both.
    Unclear,
}

impl Blame {
    /// Decides from the clients' results and the counters of the server's namespace.
    pub fn find(tally: &Tally, counters: &Counters) -> Self {
        if tally.not_kept() == 0 {
            return Self::Nobody;
        }
        let aborted = ["TCPAbortOnClose", "TCPAbortOnData", "TCPAbortOnLinger"]
            .iter()
            .any(|counter| counters.of(counter) > 0);
        // A reset sent by a time-wait socket (FIN_WAIT2 or TIME_WAIT) increments no TCPAbort counter.
        let reset = aborted || counters.of("OutRsts") > 0;
        let overflowed = counters.of("ListenOverflows") > 0;
        let before_any = tally.of(Fate::ResetBeforeAny) + tally.of(Fate::TimedOut) + tally.of(Fate::Refused);
        match (overflowed, aborted) {
            (true, false) if before_any == tally.not_kept() => Self::AcceptQueue,
            (false, _) if reset => Self::Close,
            _ => Self::Unclear,
        }
    }

    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Close => "close",
            Self::AcceptQueue => "accept_queue",
            Self::Unclear => "unclear",
        }
    }
}

/// The counters that the lab shows for each cell, by the kernel's names.
pub const COUNTERS: [&str; 6] =
    ["TCPAbortOnClose", "TCPAbortOnData", "TCPAbortOnLinger", "OutRsts", "ListenOverflows", "ListenDrops"];
