//! Connections that were never opened: SYNs that nobody answered, and handshakes that the server took no note of.

use linger_packet::Flags;

use super::{Failed, FailureLook};
use crate::advice::{Capture, Host, NextEvidence};
use crate::connection::TWO_PAUSES;
use crate::opening::Opening;
use crate::surroundings::Openings;
use crate::{Cause, Claim, Class, Confidence};

use Cause::{AcceptQueueOverflow, FirewallReject, NoAnswer, Unreachable};

/// A connection counts as unanswered from this many SYNs on: a scanner sends one or two.
const SYNS: usize = 3;
/// If a listener refused this many connections right after the handshake, its accept queue was full.
const TURNED_AWAY: u32 = 3;
/// So many connections that were opened, and on which the application says nothing, fill the shortest accept queue: with a backlog
/// of 1 Linux holds two. A single one may wait for an answer that takes long.
const HELD: u32 = 2;

impl FailureLook<'_> {
    /// The client's SYNs, and nothing else.
    pub(super) fn silence(&self) -> Option<Failed> {
        let opener = self.connection.opener()?;
        let own = self.connection.records().filter(|record| record.dir() == opener);
        let syns: Vec<_> = own.filter(|record| record.flags.has(Flags::SYN)).collect();
        // A SYN may have data (TCP Fast Open, RFC 7413). It is unanswered all the same.
        let [client, server] = [opener, 1 - opener].map(|dir| &self.connection.sides[dir]);
        let others = syns.len() != self.connection.records().count();
        if client.ack().is_some() || server.seen() || others {
            return None;
        }
        let (first, last) = (syns.first()?, syns.last()?);
        // Of many SYNs only the last ones are kept.
        let (count, nanoseconds) = match self.connection.opening {
            Opening::Asked { syns: all, syn_frame: 0, .. }
                if all < u8::MAX && usize::from(all) > syns.len() =>
            {
                (u16::from(all), last.since_first())
            }
            _ => (syns.len() as u16, last.since_first() - first.since_first()),
        };
        if self.icmp.is_none() && (syns.len() < SYNS || nanoseconds < TWO_PAUSES) {
            return None;
        }
        let mut failed = Failed::at(Class::Unanswered, opener, last);
        failed.unread = Some(0);
        failed.say(self.frame(last.frame), Claim::SynsUnanswered { count, nanoseconds });
        if let Some(icmp) = self.icmp {
            failed.say(icmp.frame, icmp.claim());
            let candidates = if icmp.is_of_a_rule() {
                vec![Unreachable, FirewallReject]
            } else {
                vec![Unreachable, NoAnswer]
            };
            failed.decide(candidates, NextEvidence::Host(Host::Reporter));
            return Some(failed);
        }
        self.silent_listener(&mut failed);
        Some(failed)
    }

    /// Names the candidates by what other connections of the listener show: Linux drops a SYN while the accept queue is full.
    fn silent_listener(&self, failed: &mut Failed) {
        let listener = self.listener;
        let accepted = listener.accepted.is_some_and(|accepted| accepted < self.time(failed.since));
        let waiting = (listener.leaves_waiting() || listener.crowd.is_some()) && listener.served_others > 0;
        let full = listener.repeats > 0 || listener.turned_away >= TURNED_AWAY || waiting;
        if accepted {
            failed.say(None, Claim::PortAcceptedBefore);
        }
        if listener.repeats > 0 {
            failed.say(None, Claim::OthersSynAcksRepeated);
        }
        if listener.turned_away >= TURNED_AWAY {
            failed.say(None, Claim::OthersTurnedAway(listener.turned_away));
        }
        if waiting {
            if listener.leaves_waiting() {
                failed.say(None, Claim::PortOpenedLate(listener.opened_late));
            }
            if let Some(Openings { again, at_first, unheard, .. }) = listener.crowd {
                failed.say(None, Claim::PortCrowded { again, at_first, unheard });
            }
            failed.say(None, Claim::ServedOthersMeanwhile);
        }
        let first = self.time(0);
        let held = listener.held;
        // Had a process taken one of them, or any other, since then, there would be room again.
        let stuck = held.count >= HELD
            && held.opened < self.time(failed.since)
            && held.ended.is_none_or(|ended| ended > self.time(failed.since))
            && held.served.is_none_or(|served| served < first);
        if stuck && !full {
            failed.say(None, Claim::PortHolds(held.count));
            if held.heard.is_some_and(|heard| heard > first) {
                failed.say(None, Claim::HostHeardMeanwhile);
            } else {
                // The host, or the path, may have gone.
                failed.confidence = Confidence::Possible;
            }
        }
        if full || stuck {
            failed.decide(vec![AcceptQueueOverflow, NoAnswer], NextEvidence::Host(Host::AcceptQueue));
        } else if accepted {
            failed.decide(vec![NoAnswer, AcceptQueueOverflow], NextEvidence::Host(Host::AcceptQueue));
        } else {
            failed.decide(vec![NoAnswer], NextEvidence::Capture(Capture::Server));
        }
    }

    /// The server repeated its SYN-ACK after the client's answer, and acknowledged none of the client's data.
    pub(super) fn not_accepted(&self) -> Option<Failed> {
        let opener = self.connection.opener()?;
        let [client, server] = [&self.connection.sides[opener], &self.connection.sides[1 - opener]];
        let first = client.isn().wrapping_add(1);
        let unheard =
            server.seen() && server.payload == 0 && !server.has_fin() && server.ack() == Some(first);
        let again = self.connection.opening.repeats();
        if !unheard || again == 0 || client.payload == 0 || client.repeats == 0 {
            return None;
        }
        let last = self.connection.records().rev().find(|record| record.dir() == opener)?;
        let mut failed = Failed::at(Class::Unanswered, opener, last);
        failed.unread = Some(client.payload);
        let syn_ack = self.connection.opening.syn_ack().map(|syn_ack| self.frame(syn_ack.frame));
        failed.say(syn_ack, Claim::SynAckRepeated(again));
        failed.say(None, Claim::ClientRepeated(client.repeats));
        failed.decide(vec![AcceptQueueOverflow], NextEvidence::Host(Host::AcceptQueue));
        Some(failed)
    }
}
