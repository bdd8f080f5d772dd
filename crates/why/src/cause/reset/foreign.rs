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
                let mut candidates = vec![Forged, Aborted, ClosedWithUnreadData];
                // Who has closed, or forgotten, a connection answers its packets.
                if self.f.trigger.is_some() {
                    candidates.insert(1, HalfOpen);
                }
                Some((Forged, Possible, candidates))
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
                    // The ends of a connection give such reasons, too. Where nothing else was seen of its sender, either may have.
                    _ if !self.f.sender.seen() => (Unknown, Possible, vec![Aborted, FirewallReject, Forged]),
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

    /// The opinion that another than its alleged sender sent the reset; `None` without evidence of that. `ttl`: its TTL is
    /// such evidence, which alone is too little.
    pub(super) fn foreign(&mut self, ttl: bool) -> Option<Opinion> {
        let f = self.f;
        let frame = f.reset.at.frame;
        let id = f.foreign_id();
        if let Some((last, reset)) = id {
            self.say(frame, Claim::IdDiffers { reset, last });
        }
        if let Some((frame, what)) = f.genuine() {
            self.say(
                frame,
                match what {
                    Genuine::NewAck => Claim::GoesOnAcknowledging,
                    Genuine::NewData => Claim::GoesOnSending,
                },
            );
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            // A firewall that answers a packet in a host's name does not tell that host either.
            if ttl && self.box_in_its_name() == FirewallReject {
                return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
            }
            return Some((Forged, if ttl || id.is_some() { Certain } else { Likely }, vec![Forged]));
        }
        if let Some((last, reset)) = f.foreign_id_of_answer() {
            self.say(frame, Claim::IdDiffers { reset, last });
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some((Forged, Likely, vec![Forged, FirewallReject, HalfOpen]));
        }
        if let Some((answered, round_trip)) = f.answered_too_fast() {
            self.say(frame, Claim::TooSoon { after_us: answered / 1_000, round_trip_us: round_trip / 1_000 });
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
        }
        if ttl && f.shows_another_stack() {
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some(match self.box_in_its_name() {
                Forged => (Forged, Likely, vec![Forged, FirewallReject]),
                named => (named, Likely, vec![named, Forged]),
            });
        }
        if id.is_some() {
            self.ask(NextEvidence::Capture(Capture::AllegedSender));
            return Some((Unknown, Possible, vec![Forged, Aborted, ClosedWithUnreadData]));
        }
        None
    }

    /// Whether the reset's TTL is not its sender's. If it differs from the usual one, that becomes evidence.
    pub(super) fn foreign_ttl(&mut self, class: Class) -> bool {
        let f = self.f;
        let (frame, reset) = (f.reset.at.frame, f.reset.ttl);
        if let (Class::AnswerToSyn, Some(usual)) = (class, self.listener.ttl) {
            let foreign = usual != reset && !own_ttl(usual, reset);
            if foreign {
                self.say(frame, Claim::ListenerTtl { reset, usual });
            }
            return foreign;
        }
        let Some(usual) = f.foreign_ttl() else { return false };
        let own = own_ttl(usual, reset);
        let claim =
            if own { Claim::TtlOfSameDistance { reset, usual } } else { Claim::TtlDiffers { reset, usual } };
        self.say(frame, claim);
        // A scanner makes its SYN itself, and its kernel knows nothing of it when the SYN-ACK comes.
        !own && class != Class::AnswerToSynAck
    }

    /// What a foreign TTL makes of the verdict of the other rules if nothing else shows another sender: paths change, programs set
    /// their own TTL, and tools make their own packets. It tips the scales where those rules leave room for another sender, and
    /// takes away certainty where they do not.
    pub(super) fn with_ttl_alone(&mut self, (cause, confidence, candidates): Opinion) -> Opinion {
        self.say(self.f.reset.at.frame, Claim::TtlAlone);
        let named = self.box_in_its_name();
        if cause == Unknown || candidates.iter().any(|other| [Forged, FirewallReject].contains(other)) {
            let others = candidates.into_iter().filter(|&other| other != named);
            return (named, Possible, std::iter::once(named).chain(others).collect());
        }
        (cause, confidence.min(Likely), candidates.into_iter().chain([named]).collect())
    }

    /// The cause if a box on the way has sent the reset: a firewall that answers a packet, or who forges it.
    fn box_in_its_name(&self) -> Cause {
        if self.f.trigger.is_some() || self.f.answers_syn() { FirewallReject } else { Forged }
    }
}

/// Whether two TTLs are those of one host, of which a program sets its own: both have passed as many routers, or the usual one
/// is that of a program that speaks to its neighbours alone (BGP: RFC 5082, and 1 without it).
fn own_ttl(usual: u8, reset: u8) -> bool {
    usual == 1 || hops(usual) == hops(reset)
}
