//! Connections that stand still: data that nobody acknowledges, and windows that stay closed.

use linger_packet::IcmpProblem;

use super::{Failed, FailureLook};
use crate::advice::{Capture, Host, NextEvidence};
use crate::claim::Farewell;
use crate::key::Dir;
use crate::record::Record;
use crate::side::Side;
use crate::{Cause, Claim, Class};

use Cause::{BlackHole, RetransmissionTimeout, Unreachable, WindowStuck};

/// The least number of retransmissions of one segment.
const AGAIN: usize = 3;
/// The least time for which a window stayed closed, in nanoseconds: a reader that only pauses opens it sooner.
const CLOSED_FOR: u64 = 10_000_000_000;
/// The least number of window probes in that time.
const PROBES: usize = 3;
/// The least payload of a segment that may be too long for its path, in bytes. Shorter segments fit the smallest MTU of
/// IPv6 (1,280 bytes), tunnel headers included.
const FULL: u32 = 1_000;

impl FailureLook<'_> {
    /// The reader's window stayed closed to the end.
    pub(super) fn window_stuck(&self) -> Option<Failed> {
        [0, 1].into_iter().find_map(|reader| self.stuck(reader))
    }

    fn stuck(&self, reader: Dir) -> Option<Failed> {
        let side = &self.connection.sides[reader];
        if side.window() != Some(0) || side.has_fin() {
            return None;
        }
        let records: Vec<&Record> = self.connection.records().collect();
        let shut = |record: &&Record| record.dir() == reader && record.window == 0;
        let open = records.iter().rposition(|record| record.dir() == reader && record.window != 0);
        let after = &records[open.map_or(0, |open| open + 1)..];
        let closed = &after[after.iter().position(shut)?..];
        let probes = closed.iter().filter(|record| record.dir() != reader && record.repeated()).count();
        let (first, last) = (closed.first()?, closed.last()?);
        let nanoseconds = last.since_first() - first.since_first();
        if probes < PROBES || nanoseconds < CLOSED_FOR {
            return None;
        }
        let latest = closed.iter().copied().rfind(shut)?;
        let mut failed = Failed::at(Class::Stalled, reader, latest);
        let probes = probes as u16;
        failed.say(self.frame(first.frame), Claim::WindowStuck { probes, nanoseconds });
        failed.decide(vec![WindowStuck], NextEvidence::Host(Host::Reader));
        Some(failed)
    }

    /// The first segment that is not acknowledged was sent again and again, and never acknowledged.
    pub(super) fn unacknowledged(&self) -> Option<Failed> {
        [0, 1].into_iter().find_map(|sender| self.lost(sender))
    }

    fn lost(&self, sender: Dir) -> Option<Failed> {
        let (side, peer) = (&self.connection.sides[sender], &self.connection.sides[1 - sender]);
        let head = peer.ack().filter(|_| peer.seen() && peer.window() != Some(0))?;
        if side.payload_after(head) == 0 {
            return None;
        }
        let copies = || {
            self.connection.records().filter(move |record| {
                record.dir() == sender && record.seq == head && record.len > 1 && record.repeated()
            })
        };
        let (first, last) = (copies().next()?, copies().next_back()?);
        let (count, nanoseconds) = (copies().count(), last.since_first() - first.since_first());
        if count < AGAIN || nanoseconds < super::SPAN {
            return None;
        }
        let mut failed = Failed::at(Class::Stalled, sender, last);
        let outstanding = u64::from(side.payload_beyond(head, peer.sacked()));
        match self.connection.client() {
            Some(client) if client == sender => failed.unread = Some(outstanding),
            Some(_) => failed.lost = Some(outstanding),
            None => {}
        }
        failed.farewell = farewell_left(side, peer, head);
        let bytes = copies().map(|record| record.len).max().unwrap_or(0);
        let count = count as u16;
        failed.say(self.frame(last.frame), Claim::SentAgain { bytes, count, nanoseconds });
        if let Some(icmp) = self.icmp {
            failed.say(icmp.frame, icmp.claim());
        }
        let too_big = matches!(self.icmp.map(|icmp| icmp.error.problem), Some(IcmpProblem::TooBig { .. }));
        let none_so_long = u32::from(side.longest_taken.max(peer.sacked().longest)) < bytes;
        // Bytes that the peer reports beyond the lost segment arrived, and were sent after it. A partial report is not used.
        let short_taken = peer.sacked().bytes.min(if peer.sacked().is_partial { 0 } else { u32::MAX });
        if bytes >= FULL && none_so_long && (too_big || short_taken > 0) {
            failed.say(None, Claim::NoneSoLongTaken { bytes });
            if short_taken > 0 {
                failed.say(None, Claim::ShorterTaken { bytes: short_taken });
            }
            failed.decide(vec![BlackHole, RetransmissionTimeout], NextEvidence::Host(Host::PathMtu));
        } else if self.icmp.is_some() {
            failed.decide(vec![Unreachable, RetransmissionTimeout], NextEvidence::Host(Host::Reporter));
        } else {
            let capture = NextEvidence::Capture(Capture::OtherEnd);
            let mut candidates = vec![RetransmissionTimeout, Unreachable];
            candidates.extend((bytes >= FULL && none_so_long).then_some(BlackHole));
            failed.decide(candidates, capture);
        }
        Some(failed)
    }
}

/// The farewell of `side`, if nothing else lies beyond `head`, and nobody waits for it: the peer has closed or said its own, and all
/// of its words have arrived. An alert other than close_notify (RFC 8446 section 6.1) is no farewell here: it says what went wrong.
fn farewell_left(side: &Side, peer: &Side, head: u32) -> Option<Farewell> {
    let whole = side.app.missing_after(side.next) == Some(0);
    let over = peer.has_fin() || peer.app.farewell().is_some();
    let arrived = side.ack().is_some_and(|ack| peer.payload_after(ack) == 0);
    let error = side.app.alert().is_some_and(|alert| alert != 0);
    side.app.farewell_from(head).filter(|_| whole && over && arrived && !error)
}
