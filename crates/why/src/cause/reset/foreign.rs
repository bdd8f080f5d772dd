//! Resets of another sender: reasons that middleboxes give, and fields that do not fit the alleged sender.

use crate::advice::{Capture, Host, NextEvidence};
use crate::boxes::{self, Said};
use crate::claim::Claim;
use crate::facts::hops;
use crate::recorded_reset::Genuine;
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
            let near = s.window().is_some_and(|offered| offered.abs_diff(window) < 512);
            if near || self.f.window_reopened().is_some() { None } else { boxes::window(window) }
        })?;
        match said {
            Said::NetScaler { code, means } => {
                self.say(frame, Claim::NetScaler { code, means });
                self.ask(NextEvidence::Host(Host::BalancerOtherSide));
                Some((Forged, Possible, vec![Forged, Aborted, ClosedWithUnreadData]))
            }
            Said::BigIp(text) => {
                self.say(frame, Claim::BigIp(text));
                self.ask(NextEvidence::Host(Host::BalancerLog));
                Some((Forged, Likely, vec![Forged]))
            }
            Said::Diagnostic { code, means } => {
                self.say(frame, Claim::Diagnostic { code, means });
                Some(match code {
                    2 => (HalfOpen, Likely, vec![HalfOpen, Forged]),
                    3 => (DataAfterClose, Likely, vec![DataAfterClose, Forged]),
                    4 => (Aborted, Likely, vec![Aborted, Forged]),
                    _ => (Forged, Likely, vec![Forged]),
                })
            }
            Said::Vendor { code, enterprise } => {
                self.say(frame, Claim::VendorDiagnostic { code, enterprise });
                Some((Forged, Likely, vec![Forged]))
            }
            Said::Text(text) => {
                self.say(frame, Claim::Text(text));
                None
            }
        }
    }

    /// Whether another sender sent the reset.
    pub(super) fn foreign(&mut self, class: Class) -> Option<Opinion> {
        let f = self.f;
        let reset = f.reset;
        let genuine = reset.after.genuine;
        let frame = reset.at.frame;
        let foreign_ttl = f.foreign_ttl().is_some_and(|usual| {
            let own = own_ttl(usual, reset.ttl);
            let ttls = (reset.ttl, usual);
            self.say(
                frame,
                match (own, ttls) {
                    (true, (reset, usual)) => Claim::TtlOfSameDistance { reset, usual },
                    (false, (reset, usual)) => Claim::TtlDiffers { reset, usual },
                },
            );
            // A scanner makes its SYN itself, and its kernel knows nothing of it when the SYN-ACK comes.
            !own && class != Class::AnswerToSynAck
        });
        if let (Class::AnswerToSyn, Some(usual)) = (class, self.listener.ttl)
            && usual != reset.ttl
            && !own_ttl(usual, reset.ttl)
        {
            self.say(frame, Claim::ListenerTtl { reset: reset.ttl, usual });
            self.ask(NextEvidence::Capture(Capture::Server));
            return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
        }
        let id = f.foreign_id();
        if let Some((last, reset)) = id {
            self.say(frame, Claim::IdDiffers { reset, last });
        }
        if let Some((frame, what)) = genuine {
            self.say(
                frame,
                match what {
                    Genuine::NewAck => Claim::GoesOnAcknowledging,
                    Genuine::NewData => Claim::GoesOnSending,
                },
            );
            // A firewall that answers a packet in a host's name does not tell that host either.
            if !f.active() && foreign_ttl && f.trigger.is_some() {
                self.ask(NextEvidence::Capture(Capture::AllegedSender));
                return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
            }
            let confidence = if foreign_ttl || id.is_some() { Certain } else { Likely };
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some((Forged, confidence, vec![Forged]));
        }
        if foreign_ttl {
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some(if f.active() || f.trigger.is_none() {
                (Forged, Likely, vec![Forged, FirewallReject])
            } else {
                (FirewallReject, Likely, vec![FirewallReject, Forged])
            });
        }
        if let Some((answered, round_trip)) = f.answered_too_fast() {
            self.say(frame, Claim::TooSoon { after_us: answered / 1_000, round_trip_us: round_trip / 1_000 });
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

/// Whether two TTLs are those of one host, of which a program sets its own: both have passed as many routers, or the usual one
/// is that of a program that speaks to its neighbours alone (BGP: RFC 5082, and 1 without it).
fn own_ttl(usual: u8, reset: u8) -> bool {
    usual == 1 || hops(usual) == hops(reset)
}
