//! Resets that answer a packet of an open or closed connection.

use linger_packet::Flags;

use crate::advice::{Capture, Host, NextEvidence};
use crate::{Cause, Confidence};

use super::{Judge, Opinion};
use Cause::*;
use Confidence::{Certain, Likely, Possible};

/// `tcp_fin_timeout` is 60 s by default. A reset that comes sooner after the FIN has another cause, or the setting was
/// lowered. This constant, in nanoseconds, is one second less, because delays vary.
const FIN_TIMEOUT: u64 = 59_000_000_000;

impl Judge<'_> {
    /// A bare reset after the sender's own FIN.
    pub(super) fn after_own_fin(&mut self) -> Opinion {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        let Some(fin) = s.fin() else { return self.no_memory() };
        let fin_time = f.connection().first_time + fin.since.nanoseconds();
        let since_fin = f.reset.at.time_ns.saturating_sub(fin_time);
        let late_data = f.trigger.is_some_and(|trigger| trigger.len > 0) || fin.late > 0;
        self.say(
            f.frame_at(fin.frame),
            format!("the sender had closed {:.3} s before", since_fin as f64 / 1e9),
        );
        if late_data {
            if f.alert_after_fin() {
                self.say(
                    f.trigger.map(|trigger| f.frame_of(&trigger)),
                    "what it answers is a TLS close_notify",
                );
                return (DataAfterClose, Certain, vec![DataAfterClose]);
            }
            if fin.late > 0 {
                self.say(
                    f.trigger.map(|trigger| f.frame_of(&trigger)),
                    format!("{} bytes arrived after that, and nobody was there to read them", fin.late),
                );
            }
            if f.sender_is_client() == Some(true) {
                self.ask(NextEvidence::Host(Host::ClientProcess));
                let confidence = if f.whole() { Certain } else { Likely };
                return (ClientGaveUp, confidence, vec![ClientGaveUp]);
            }
            if let Some(opinion) = self.process_gone(fin_time, DataAfterClose) {
                return opinion;
            }
            // The capture shows the order of packets at its place. If the reset's trigger was not seen, the order at
            // the server may have been another.
            let confidence = if f.trigger.is_some() && !s.gap { Certain } else { Likely };
            return (DataAfterClose, confidence, vec![DataAfterClose]);
        }
        if f.trigger.is_some_and(|trigger| trigger.flags.has(Flags::FIN)) || r.has_fin() {
            if let Some(opinion) = self.process_gone(fin_time, Finwait2Expired) {
                return opinion;
            }
            self.ask(NextEvidence::Host(Host::FinTimeout));
            if since_fin >= FIN_TIMEOUT {
                self.say(None, "tcp_fin_timeout (60 s) had passed");
                return (Finwait2Expired, Likely, vec![Finwait2Expired, HalfOpen]);
            }
            self.say(None, "sooner than tcp_fin_timeout, unless that was lowered from its 60 s");
            return (Unknown, Possible, vec![DataAfterClose, HalfOpen, Finwait2Expired]);
        }
        self.ask(NextEvidence::Capture(Capture::SenderBeforeFin));
        (Unknown, Possible, vec![Finwait2Expired, HalfOpen, DataAfterClose, FirewallReject, Forged])
    }

    /// A bare reset in the middle of a connection, with no FIN before it.
    pub(super) fn no_memory(&mut self) -> Opinion {
        let f = self.f;
        if let Some(opinion) = self.process_gone(f.reset.at.time_ns, HalfOpen) {
            return opinion;
        }
        if !f.whole() || f.sender.gap {
            self.say(None, "the capture lacks part of this connection: a FIN may have gone before");
            self.ask(NextEvidence::Capture(Capture::Beginning));
            let mut candidates = vec![HalfOpen, DataAfterClose, FirewallReject, Forged, ProcessGone];
            if f.sender_is_client() != Some(false) {
                candidates.push(ClientGaveUp);
            }
            return (Unknown, Possible, candidates);
        }
        self.say(
            None,
            "the sender had never closed: it has no memory of a connection it had acknowledged data of",
        );
        self.ask(NextEvidence::Capture(Capture::SenderGoodbye));
        let mut candidates = vec![HalfOpen, FirewallReject, Forged, ProcessGone, DataAfterClose];
        if f.sender_is_client() == Some(true) {
            candidates.insert(1, ClientGaveUp);
        }
        (HalfOpen, Likely, candidates)
    }
}
