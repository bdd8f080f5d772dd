//! Resets that no packet triggered: timers and aborts.

use crate::advice::{Alike, Capture, Host, NextEvidence};
use crate::side::RunKind;
use crate::{Cause, Confidence};

use super::{Judge, Opinion};
use Cause::*;
use Confidence::{Certain, Likely, Possible};

impl Judge<'_> {
    pub(super) fn keepalive(&mut self) -> Opinion {
        let f = self.f;
        let Some(run) = f.sender.run else { return (Unknown, Possible, Vec::new()) };
        let (shortest, longest) = run.pauses_ms;
        self.say(
            None,
            format!(
                "{} keepalive probes before it went unanswered, {} to {} ms apart",
                run.count, shortest, longest
            ),
        );
        // If the pauses are about equal, the pause before the reset included, a timer made them.
        let last = (f.reset.at.time_ns.saturating_sub(run.last) / 1_000_000).min(u64::from(u32::MAX)) as u32;
        let even = longest.max(last) <= shortest.min(last).saturating_mul(2);
        if even {
            return (KeepaliveTimeout, Certain, vec![KeepaliveTimeout]);
        }
        (KeepaliveTimeout, Likely, vec![KeepaliveTimeout, Aborted])
    }

    pub(super) fn retransmissions(&mut self) -> Opinion {
        let f = self.f;
        let Some(run) = f.sender.run else { return (Unknown, Possible, Vec::new()) };
        let seconds = run.last.saturating_sub(run.first) as f64 / 1e9;
        let what = if run.kind == RunKind::WindowProbes { "window probes" } else { "retransmissions" };
        self.say(None, format!("{} {what} over {seconds:.1} s went unanswered before it", run.count));
        self.ask(NextEvidence::Capture(Capture::OtherEnd));
        (RetransmissionTimeout, Likely, vec![RetransmissionTimeout, Aborted])
    }

    /// A reset that no packet triggered, sent by the server.
    pub(super) fn active(&mut self) -> Opinion {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        if let Some((before, now)) = f.window_reopened() {
            self.say(
                f.reset.at.frame,
                format!(
                    "the window re-opens from {before} to {now} at the same acknowledgement: close() threw away \
                     bytes that lay unread"
                ),
            );
            if f.sender_is_client() == Some(true) {
                let confidence = if f.whole() { Certain } else { Likely };
                return (ClientGaveUp, confidence, vec![ClientGaveUp, ClosedWithUnreadData]);
            }
            if let Some(opinion) = self.process_gone(f.reset.at.time_ns, ClosedWithUnreadData) {
                return opinion;
            }
            let confidence = if f.sender_is_client().is_some() { Certain } else { Likely };
            return (ClosedWithUnreadData, confidence, vec![ClosedWithUnreadData]);
        }
        if f.sender_is_client() == Some(true) {
            return self.active_client();
        }
        if let Some(opinion) = self.process_gone(f.reset.at.time_ns, ClosedWithUnreadData) {
            return opinion;
        }
        if f.whole() && r.payload == 0 {
            self.say(None, "the other side had sent no byte, so none can have been unread");
            if s.payload == 0 {
                self.ask(NextEvidence::Live(Alike::AbortOrListener));
                return (Aborted, Likely, vec![Aborted, ProcessGone, Forged]);
            }
            self.ask(NextEvidence::Live(Alike::Aborts));
            return (Aborted, Likely, vec![Aborted, Forged]);
        }
        if s.late() > 0 && f.acknowledges_all() {
            self.say(
                f.frame_at(r.last_frame),
                format!("{} bytes arrived after the sender's half-close, and close() met them", s.late()),
            );
            self.ask(NextEvidence::Live(Alike::UnreadLikely));
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        if let Some((frame, says)) = f.request_left_unread() {
            self.say(frame, says);
            self.ask(NextEvidence::Live(Alike::UnreadLikely));
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        if f.exchange_complete() {
            self.say(None, "the response was whole and acknowledged before it");
        }
        self.ask(NextEvidence::Live(Alike::AbortOrUnread));
        (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ProcessGone, Forged])
    }

    pub(super) fn active_client(&mut self) -> Opinion {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        if s.payload == 0 && r.payload == 0 && f.whole() {
            self.say(None, "no byte was sent either way: a health check, or a scan");
            return (Aborted, Likely, vec![Aborted, ClientGaveUp]);
        }
        if f.exchange_complete() {
            self.say(None, "the client had the whole response, and ended the connection with a reset");
            return (Aborted, Likely, vec![Aborted, ClosedWithUnreadData, ClientGaveUp]);
        }
        if let Some(fin) = r.fin()
            && f.acknowledges_all()
        {
            self.say(
                f.frame_at(fin.frame),
                "the server had ended its side, and the client's system had acknowledged all of it",
            );
            self.ask(NextEvidence::Host(Host::ClientRead));
            return (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ClientGaveUp]);
        }
        // Bytes up to the reset's own acknowledgement had arrived: `tcp_send_active_reset` sends rcv_nxt.
        let undelivered = r.payload_after(f.reset.ack);
        if undelivered > 0 {
            self.say(f.reset.at.frame, format!("{undelivered} bytes of the response were on the way to it"));
        } else if r.payload == 0 {
            self.say(None, "the server had not begun to answer");
        }
        self.ask(NextEvidence::Host(Host::ClientLog));
        (ClientGaveUp, Likely, vec![ClientGaveUp, Aborted, ClosedWithUnreadData, Forged])
    }
}
