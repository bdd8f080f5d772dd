//! Resets that answer a packet of an open or closed connection.

use crate::advice::{Alike, Capture, Host, NextEvidence};
use crate::claim::Claim;
use crate::side::Fin;
use crate::{Cause, Confidence};

use super::{Judge, Opinion};
use Cause::*;
use Confidence::{Certain, Likely, Possible};

/// `tcp_fin_timeout` is 60 s by default. A reset that comes sooner after the FIN has another cause, or the setting was
/// lowered. This constant, in nanoseconds, is one second less, because delays vary.
const FIN_TIMEOUT: u64 = 59_000_000_000;

/// A sender that has sent a packet so recently, in nanoseconds, had the connection a moment before: it has not forgotten it.
const RECENT: u64 = 1_000_000_000;

/// A sender that has sent a packet so recently, in nanoseconds, and has nothing in flight, did not lose its memory in between: a restart,
/// a failover and a timeout take longer.
const FORGETS_AFTER: u64 = 100_000_000;

impl Judge<'_> {
    /// A bare reset after the sender's own FIN.
    pub(super) fn after_own_fin(&mut self) -> Opinion {
        let f = self.f;
        let Some(fin) = f.sender.fin() else { return self.no_memory() };
        let fin_time = f.connection().first_time + fin.since.nanoseconds();
        let since_fin = f.reset.at.time_ns.saturating_sub(fin_time);
        self.say(f.frame_at(fin.frame), Claim::ClosedBefore { nanoseconds: since_fin });
        if fin.late > 0 || f.trigger.is_some_and(|trigger| trigger.len > 0) {
            return self.late_data(fin, fin_time);
        }
        let Some(other) = f.receiver.fin() else {
            self.ask(NextEvidence::Capture(Capture::SenderBeforeFin));
            return (
                Unknown,
                Possible,
                vec![Finwait2Expired, HalfOpen, DataAfterClose, FirewallReject, Forged],
            );
        };
        if let Some(bytes) = f.unseen_before_fin() {
            self.say(f.frame_at(other.frame), Claim::UnseenBeforeFin(bytes));
            return self.late_data(fin, fin_time);
        }
        if let Some(opinion) = self.process_gone(fin_time, BothClosed) {
            return opinion;
        }
        self.say(f.frame_at(other.frame.max(fin.frame)), Claim::BothClosed);
        self.ask(NextEvidence::Host(Host::FinTimeout));
        if since_fin >= FIN_TIMEOUT {
            self.say(None, Claim::FinTimeoutPassed);
            return (Finwait2Expired, Likely, vec![Finwait2Expired, HalfOpen, BothClosed]);
        }
        if since_fin < RECENT {
            return (BothClosed, Likely, vec![BothClosed, HalfOpen]);
        }
        self.say(None, Claim::SoonerThanFinTimeout);
        (BothClosed, Likely, vec![BothClosed, Finwait2Expired, HalfOpen])
    }

    /// Bytes that the sender's FIN does not acknowledge.
    fn late_data(&mut self, fin: Fin, fin_time: u64) -> Opinion {
        let f = self.f;
        let late = fin.late;
        let trigger = f.trigger.map(|trigger| f.frame_of(&trigger));
        // The capture shows the order of packets at its place. If the reset's trigger was not seen, the order at the server
        // may have been another.
        let shown = trigger.is_some() && late > 0 && !f.sender.has_gap();
        if let Some(farewell) = f.farewell_after_fin() {
            self.say(trigger, Claim::LateFarewell(farewell));
            let confidence = if shown { Certain } else { Likely };
            return (DataAfterClose, confidence, vec![DataAfterClose]);
        }
        if late > 0 {
            self.say(trigger, Claim::LateBytes { bytes: late, defied: fin.defied });
        }
        if f.sender_is_client() == Some(true) {
            self.ask(NextEvidence::Host(Host::ClientProcess));
            // That the client lacked a part of the response is certain only if the response says how long it is.
            let short = f.response_is_short();
            let confidence = if shown && short && f.whole() { Certain } else { Likely };
            return (ClientGaveUp, confidence, vec![ClientGaveUp, DataAfterClose]);
        }
        if let Some(opinion) = self.process_gone(fin_time, DataAfterClose) {
            return opinion;
        }
        (DataAfterClose, if shown { Certain } else { Likely }, vec![DataAfterClose])
    }

    /// A bare reset in the middle of a connection, with no FIN before it.
    pub(super) fn no_memory(&mut self) -> Opinion {
        let f = self.f;
        if let Some(opinion) = self.process_gone(f.reset.at.time_ns, HalfOpen) {
            return opinion;
        }
        let by_client = f.sender_is_client();
        let with_client = |mut candidates: Vec<Cause>| {
            if by_client == Some(true) {
                candidates.insert(0, ClientGaveUp);
            } else if by_client.is_none() {
                candidates.push(ClientGaveUp);
            }
            candidates
        };
        // The reset of the end itself may have been lost on its way to here; the bare ones behind it answer for a connection that is no more.
        // The client's has its own name.
        let unseen_first = if by_client == Some(true) { &[][..] } else { &[Aborted, ClosedWithUnreadData] };
        if let Some(bytes) = f.beyond_capture() {
            self.say(f.reset.at.frame, Claim::BeyondCapture(bytes));
        } else if !f.whole() || f.sender.has_gap() {
            self.say(None, Claim::LacksPart);
        }
        if f.beyond_capture().is_some() || !f.whole() || f.sender.has_gap() {
            self.ask(NextEvidence::Capture(Capture::Beginning));
            let mut candidates = vec![HalfOpen, DataAfterClose, FirewallReject, Forged, ProcessGone];
            candidates.extend(unseen_first);
            return (Unknown, Possible, with_client(candidates));
        }
        if let Some(frame) = f.own_reset_behind().filter(|_| by_client != Some(true)) {
            self.say(frame, Claim::OwnResetBehind);
            self.ask(NextEvidence::Live(Alike::AbortOrUnread));
            return (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ProcessGone, Forged]);
        }
        let (since, flight) = (f.since_sender(), f.in_flight());
        self.say(f.frame_at(f.sender.last_frame), Claim::NeverClosed { nanoseconds: since });
        self.ask(NextEvidence::Capture(Capture::SenderGoodbye));
        // The FIN of a close() waits behind what is queued, and the reset drops the queue: this close leaves no FIN.
        let full = f.window_full();
        if full.is_some() || flight > 0 && since < RECENT {
            match full {
                Some(frame) => self.say(f.frame_at(frame), Claim::WindowClosed),
                None => self.say(f.frame_at(f.sender.spoke_frame), Claim::DataInFlight(flight)),
            }
            let mut candidates = vec![DataAfterClose, HalfOpen, FirewallReject, Forged, ProcessGone];
            candidates.extend(unseen_first);
            let candidates = with_client(candidates);
            let cause = if by_client == Some(true) { ClientGaveUp } else { DataAfterClose };
            return (cause, Likely, candidates);
        }
        // With nothing queued and room in the window, a close() would have sent its FIN. Who has forgotten a connection answers at
        // the number that the packet acknowledges; a number ahead of that is known to the connection alone.
        let mut candidates = vec![HalfOpen, FirewallReject, Forged, ProcessGone, DataAfterClose];
        if by_client == Some(true) {
            candidates.insert(1, ClientGaveUp);
        }
        if f.is_number_unacknowledged() {
            candidates.extend([Aborted, ClosedWithUnreadData]);
            return (Unknown, Possible, candidates);
        }
        if since < FORGETS_AFTER {
            candidates.extend(unseen_first);
            return (Unknown, Possible, candidates);
        }
        (HalfOpen, Likely, candidates)
    }
}
