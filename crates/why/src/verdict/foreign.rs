//! Resets of another sender: reasons that middleboxes give, and fields that do not fit the alleged sender.

use crate::advice::{Capture, Host, NextEvidence};
use crate::boxes::{self, Said};
use crate::reset::Genuine;
use crate::{Cause, Class, Confidence};

use super::{Judge, Opinion};
use Cause::*;
use Confidence::{Certain, Likely, Possible};

impl Judge<'_> {
    /// The reason that a middlebox gave in the reset: a NetScaler's code, a BIG-IP's text, or a diagnostic
    /// payload.
    pub(super) fn said_by_a_box(&mut self) -> Option<Opinion> {
        let reset = self.f.reset;
        let frame = reset.at.frame;
        let said = boxes::payload(&reset.payload).or_else(|| {
            let window = reset.window?;
            // A value close to the sender's last window is a window, not a code.
            let s = self.f.sender;
            let near = s.window.is_some_and(|offered| offered.abs_diff(window) < 512);
            if near || self.f.window_reopened().is_some() { None } else { boxes::window(window) }
        })?;
        match said {
            Said::NetScaler { code, means } => {
                self.say(frame, format!("window {code} is a NetScaler's reset code: {means}"));
                self.ask(NextEvidence::Host(Host::BalancerOtherSide));
                Some((Forged, Possible, vec![Forged, Aborted, ClosedWithUnreadData]))
            }
            Said::BigIp(text) => {
                self.say(frame, format!("the payload is a BIG-IP's: \"{text}\""));
                self.ask(NextEvidence::Host(Host::BalancerLog));
                Some((Forged, Likely, vec![Forged]))
            }
            Said::Diagnostic { code, means } => {
                self.say(frame, format!("the diagnostic payload gives reason {code}: {means}"));
                Some(match code {
                    2 => (HalfOpen, Likely, vec![HalfOpen, Forged]),
                    3 => (DataAfterClose, Likely, vec![DataAfterClose, Forged]),
                    4 => (Aborted, Likely, vec![Aborted, Forged]),
                    _ => (Forged, Likely, vec![Forged]),
                })
            }
            Said::Vendor { code, enterprise } => {
                self.say(
                    frame,
                    format!("the diagnostic payload gives reason {code} of enterprise {enterprise}"),
                );
                Some((Forged, Likely, vec![Forged]))
            }
            Said::Text(text) => {
                self.say(frame, format!("the reset carries text: \"{text}\""));
                None
            }
        }
    }

    /// Whether another sender sent the reset.
    pub(super) fn foreign(&mut self, class: Class) -> Option<Opinion> {
        let f = self.f;
        let reset = f.reset;
        let genuine = reset.after.genuine;
        let ttl = f.foreign_ttl();
        let hops = ttl.map(|usual| {
            self.say(
                reset.at.frame,
                format!("its TTL is {}; the sender's other packets have {usual}", reset.ttl),
            );
        });
        if let (Class::AnswerToSyn, Some(usual)) = (class, self.listener.ttl)
            && usual != reset.ttl
        {
            self.say(
                reset.at.frame,
                format!(
                    "its TTL is {}; the SYN-ACKs of the same port have {usual}: another machine answered",
                    reset.ttl
                ),
            );
            self.ask(NextEvidence::Capture(Capture::Server));
            return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
        }
        let id = f.foreign_id();
        if let Some((expected, got)) = id {
            self.say(
                reset.at.frame,
                format!("its IP identification is {got}; the sender counts up and was at {expected}"),
            );
        }
        if let Some((frame, what)) = genuine {
            self.say(
                frame,
                match what {
                    Genuine::NewAck => {
                        "the same sender then acknowledges what came later: it knows nothing of a reset"
                    }
                    Genuine::NewData => {
                        "the same sender goes on sending beyond the reset: it knows nothing of it"
                    }
                },
            );
            // A firewall that answers a packet in a host's name does not tell that host either.
            if !f.active() && hops.is_some() && f.trigger.is_some() {
                self.ask(NextEvidence::Capture(Capture::AllegedSender));
                return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
            }
            let confidence = if hops.is_some() || id.is_some() { Certain } else { Likely };
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some((Forged, confidence, vec![Forged]));
        }
        if hops.is_some() {
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some(if f.active() || f.trigger.is_none() {
                (Forged, Likely, vec![Forged, FirewallReject])
            } else {
                (FirewallReject, Likely, vec![FirewallReject, Forged])
            });
        }
        if let Some((answered, round_trip)) = f.answered_too_fast() {
            self.say(
                reset.at.frame,
                format!(
                    "it came {} us after the packet it answers; the way to the sender and back takes {} us",
                    answered / 1_000,
                    round_trip / 1_000
                ),
            );
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
        }
        if id.is_some() && f.active() {
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some((Unknown, Possible, vec![Forged, Aborted, ClosedWithUnreadData]));
        }
        None
    }
}
