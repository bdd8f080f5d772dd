//! Derives the cause of a cell's losses from the kernel's counters.

use linger_netns::Counters;

use crate::fate::Fate;
use crate::stats::Tally;

/// The cause for which responses of a cell were lost or at risk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Every response was kept.
    Nobody,
    /// The close: the kernel counted aborted connections or resets, and no dropped handshake.
    Close,
    /// The accept queue, or the SYN queue, which `listen(2)`'s backlog bounds, too: the kernel dropped handshakes, and
    /// no connection was aborted by a close. All responses that were not kept were reset before the first byte, timed
    /// out, or refused: the server never saw those clients.
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
        // Counted for both queues (tcp_conn_request and tcp_v4_syn_recv_sock); `ListenOverflows` is the accept queue's alone.
        let dropped = counters.of("ListenDrops") > 0;
        let before_any = tally.of(Fate::ResetBeforeAny) + tally.of(Fate::TimedOut) + tally.of(Fate::Refused);
        match (dropped, aborted) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fate::Attempt;

    #[test]
    fn the_counters_and_the_fates_decide_together() {
        let tally = |fates: &[Fate]| {
            let mut tally = Tally::default();
            for fate in fates {
                let received = u64::from(*fate == Fate::Complete);
                tally.count(&Attempt {
                    fate: *fate,
                    received,
                    expected: Some(1),
                    reset: false,
                    write_error: None,
                    error: None,
                    elapsed: std::time::Duration::ZERO,
                });
            }
            tally
        };
        let kept = [Fate::Complete];
        let unseen = [Fate::Complete, Fate::TimedOut, Fate::ResetBeforeAny];
        let cut = [Fate::TimedOut, Fate::ResetAfterSome];
        for (fates, counters, blame) in [
            (&kept[..], &[("ListenDrops", 1)][..], Blame::Nobody),
            (&unseen, &[("ListenDrops", 1)], Blame::AcceptQueue),
            (&unseen, &[("ListenDrops", 1), ("ListenOverflows", 1)], Blame::AcceptQueue),
            (&unseen, &[("ListenDrops", 1), ("OutRsts", 1)], Blame::AcceptQueue),
            (&unseen, &[("ListenDrops", 1), ("TCPAbortOnClose", 1)], Blame::Unclear),
            (&cut, &[("ListenDrops", 1)], Blame::Unclear),
            (&unseen, &[("OutRsts", 1)], Blame::Close),
            (&cut, &[("TCPAbortOnData", 1)], Blame::Close),
            (&cut, &[], Blame::Unclear),
        ] {
            let counters = counters.iter().copied().collect();
            assert_eq!(Blame::find(&tally(fates), &counters), blame, "{fates:?} {counters:?}");
        }
    }
}
