//! Derives the cause of a cell's losses from the kernel's counters.

use linger_netns::Counters;

use crate::cell::CellReport;
use crate::fate::Fate;
use crate::link::middlebox::MiddleboxCounts;
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
    /// A middlebox on the link dropped or reset packets, and no connection was aborted by a close.
    Middlebox,
    /// The counters name none of these, or several.
    Unclear,
}

impl Blame {
    /// Decides from the clients' results and the counters of the server's namespace.
    pub fn find(tally: &Tally, counters: &Counters) -> Self {
        if tally.not_kept() == 0 {
            return Self::Nobody;
        }
        let aborted = ABORTS.iter().any(|counter| counters.of(counter) > 0);
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

    /// Decides on a cell.
    pub fn of(report: &CellReport) -> Self {
        let middlebox = report.wire.as_ref().and_then(|wire| wire.middlebox);
        Self::find(&report.tally, &report.counters).beside(middlebox, &report.counters)
    }

    /// The same where the link may have a middlebox.
    fn beside(self, middlebox: Option<MiddleboxCounts>, counters: &Counters) -> Self {
        match self {
            Self::Nobody => self,
            // What is INVALID is mostly a late reset of a kernel that has aborted by itself.
            _ if middlebox.is_none_or(|counts| counts.without_state + counts.resets == 0) => self,
            Self::AcceptQueue => Self::Unclear,
            _ if ABORTS.iter().any(|counter| counters.of(counter) > 0) => Self::Unclear,
            _ => Self::Middlebox,
        }
    }

    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Close => "close",
            Self::AcceptQueue => "accept_queue",
            Self::Middlebox => "middlebox",
            Self::Unclear => "unclear",
        }
    }
}

/// The counters of connections that were aborted by a close.
const ABORTS: [&str; 3] = ["TCPAbortOnClose", "TCPAbortOnData", "TCPAbortOnLinger"];

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

    #[test]
    fn a_middlebox_is_blamed_only_for_what_nothing_else_explains() {
        let none = Counters::default();
        let aborted: Counters = [("TCPAbortOnData", 1)].into_iter().collect();
        let idle = MiddleboxCounts::default();
        let dropped = MiddleboxCounts { without_state: 1, ..idle };
        let reset = MiddleboxCounts { resets: 1, ..idle };
        for (before, middlebox, counters, after) in [
            (Blame::Unclear, Some(dropped), &none, Blame::Middlebox),
            (Blame::Close, Some(reset), &none, Blame::Middlebox),
            (Blame::Close, Some(dropped), &aborted, Blame::Unclear),
            (Blame::AcceptQueue, Some(dropped), &none, Blame::Unclear),
            (Blame::Close, Some(idle), &aborted, Blame::Close),
            (Blame::Close, Some(MiddleboxCounts { invalid: 9, ..idle }), &aborted, Blame::Close),
            (Blame::Unclear, Some(idle), &none, Blame::Unclear),
            (Blame::Unclear, None, &none, Blame::Unclear),
            (Blame::Nobody, Some(dropped), &none, Blame::Nobody),
        ] {
            assert_eq!(before.beside(middlebox, counters), after, "{before:?} {middlebox:?}");
        }
    }
}
