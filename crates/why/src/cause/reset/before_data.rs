//! Resets before any data was acknowledged: answers to SYN and SYN-ACK, full accept queues.

use crate::advice::{Capture, Host, NextEvidence};
use crate::claim::Claim;
use crate::{Cause, Confidence};

use super::{Judge, Opinion, REFUSED_WITHIN, TOGETHER};
use Cause::*;
use Confidence::{Likely, Possible};

impl Judge<'_> {
    pub(super) fn answer_to_syn(&mut self) -> Opinion {
        let time = self.f.reset.at.time_ns;
        let after = &self.f.reset.after;
        let again = after.asked_again.min(after.resets[0]);
        if again > 0 {
            self.say(None, Claim::RefusedAgain(again));
        }
        if after.asked_again > again {
            self.say(None, Claim::AskedInVain(after.asked_again - again));
        }
        if let Some(accepted) = self.listener.accepted
            && accepted > time
            && accepted - time < 2_000_000_000
        {
            self.say(None, Claim::PortAcceptsLater);
            self.ask(NextEvidence::Host(Host::RestartOrOverflow));
            return (Unknown, Possible, vec![PortClosed, ProcessGone, AcceptQueueOverflow, FirewallReject]);
        }
        let ended = self.listener.ended_within(time, REFUSED_WITHIN);
        if ended >= TOGETHER {
            self.say(None, Claim::EndedBefore(ended));
            self.ask(NextEvidence::Host(Host::Journal));
            return (ProcessGone, Likely, vec![ProcessGone, PortClosed, FirewallReject]);
        }
        if self.listener.accepted.is_some_and(|accepted| accepted < time) {
            self.say(None, Claim::PortAcceptedBefore);
        }
        self.ask(NextEvidence::Host(Host::Listener));
        (PortClosed, Likely, vec![PortClosed, ProcessGone, FirewallReject])
    }

    pub(super) fn answer_to_syn_ack(&mut self) -> Opinion {
        let f = self.f;
        if let Some(ack) = f.stale_answer() {
            self.say(f.frame_of(&ack), Claim::StaleAnswer);
            return (HalfOpen, Likely, vec![HalfOpen]);
        }
        self.say(None, Claim::HandshakeIncomplete);
        self.ask(NextEvidence::Host(Host::ClientConnect));
        (ClientGaveUp, Likely, vec![ClientGaveUp, HalfOpen])
    }

    /// A bare reset, before the sender had acknowledged any payload.
    pub(super) fn before_ack(&mut self) -> Opinion {
        let f = self.f;
        if f.sender_is_client() == Some(true) {
            self.ask(NextEvidence::Capture(Capture::Client));
            return (Unknown, Possible, vec![ClientGaveUp, HalfOpen, FirewallReject, Forged]);
        }
        let opening = f.connection().opening;
        let at = opening.syn_ack().map(|syn_ack| f.frame_at(syn_ack.frame));
        let again = opening.repeats();
        if again > 0 {
            self.say(at, Claim::SynAckRepeated(again));
            if f.receiver.repeats > 0 {
                self.say(None, Claim::ClientRepeated(f.receiver.repeats));
            }
            self.ask(NextEvidence::Host(Host::AcceptQueue));
            return (AcceptQueueOverflow, Likely, vec![AcceptQueueOverflow, FirewallReject]);
        }
        if f.receiver.repeats >= 2 {
            self.say(None, Claim::NeverAcknowledged(f.receiver.repeats));
            self.ask(NextEvidence::Host(Host::SynCookies));
            return (
                AcceptQueueOverflow,
                Likely,
                vec![AcceptQueueOverflow, FirewallReject, HalfOpen, Forged],
            );
        }
        if let Some(opinion) = self.process_gone(f.reset.at.time_ns, AcceptQueueOverflow) {
            return opinion;
        }
        self.say(at, Claim::NothingButSynAck);
        let (repeats, away) = (self.listener.repeats, self.listener.turned_away);
        if repeats > 0 {
            self.say(None, Claim::OthersSynAcksRepeated);
        }
        if away >= TOGETHER {
            self.say(None, Claim::OthersTurnedAway(away));
        }
        self.ask(NextEvidence::Host(Host::AbortOnOverflow));
        // `tcp_abort_on_overflow` is off by default. It refuses the third ACK, whatever data follows it.
        if repeats > 0 || away >= TOGETHER || f.refuses_third_ack() {
            return (
                AcceptQueueOverflow,
                Likely,
                vec![AcceptQueueOverflow, ProcessGone, FirewallReject, Forged],
            );
        }
        (Unknown, Possible, vec![FirewallReject, AcceptQueueOverflow, ProcessGone, Forged])
    }
}
