//! Resets before any data was acknowledged: answers to SYN and SYN-ACK, full accept queues.

use crate::advice::{Capture, Host, NextEvidence};
use crate::{Cause, Confidence};

use super::{Judge, Opinion, REFUSED_WITHIN, TOGETHER};
use Cause::*;
use Confidence::{Likely, Possible};

impl Judge<'_> {
    pub(super) fn answer_to_syn(&mut self) -> Opinion {
        let time = self.f.reset.at.time_ns;
        if let Some(accepted) = self.listener.accepted
            && accepted > time
            && accepted - time < 2_000_000_000
        {
            self.say(None, "the same port accepts another connection less than two seconds later");
            self.ask(NextEvidence::Host(Host::RestartOrOverflow));
            return (Unknown, Possible, vec![PortClosed, ProcessGone, AcceptQueueOverflow, FirewallReject]);
        }
        let ended = self.listener.ended_within(time, REFUSED_WITHIN);
        if ended >= TOGETHER {
            self.say(None, format!("shortly before, {ended} connections of the same port ended at once"));
            self.ask(NextEvidence::Host(Host::Journal));
            return (ProcessGone, Likely, vec![ProcessGone, PortClosed, FirewallReject]);
        }
        if self.listener.accepted.is_some() {
            self.say(None, "the same port accepted connections before");
        }
        self.ask(NextEvidence::Host(Host::Listener));
        (PortClosed, Likely, vec![PortClosed, ProcessGone, FirewallReject])
    }

    pub(super) fn answer_to_syn_ack(&mut self) -> Opinion {
        let f = self.f;
        if let Some(ack) = f.stale_answer() {
            self.say(
                f.frame_of(&ack),
                "the SYN was answered with the acknowledgement of an older connection on the same ports",
            );
            return (HalfOpen, Likely, vec![HalfOpen]);
        }
        self.say(None, "the handshake was never completed");
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
            self.say(
                at,
                format!("the SYN-ACK was sent again {again} times after the client had acknowledged it"),
            );
            if f.receiver.repeats > 0 {
                self.say(
                    None,
                    format!("the client repeated its data {} times unanswered", f.receiver.repeats),
                );
            }
            self.ask(NextEvidence::Host(Host::AcceptQueue));
            return (AcceptQueueOverflow, Likely, vec![AcceptQueueOverflow, FirewallReject]);
        }
        if f.receiver.repeats >= 2 {
            self.say(
                None,
                format!(
                    "the client's data was repeated {} times and never acknowledged, as behind SYN cookies",
                    f.receiver.repeats
                ),
            );
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
        self.say(at, "the server had completed the handshake, and refused the client's very next packet");
        if self.listener.repeats > 0 {
            self.say(None, "SYN-ACKs of the same port are repeated in other connections");
        }
        self.ask(NextEvidence::Host(Host::AbortOnOverflow));
        (AcceptQueueOverflow, Likely, vec![AcceptQueueOverflow, ProcessGone, FirewallReject, Forged])
    }
}
