//! Resets that no packet triggered: timers and aborts.

use crate::advice::{Alike, Capture, Host, NextEvidence};
use crate::claim::{Claim, Repeated};
use crate::side::{Fin, Marks, RunKind};
use crate::{Cause, Confidence};

use super::{Judge, Opinion};
use Cause::*;
use Confidence::{Certain, Likely, Possible};

impl Judge<'_> {
    /// The sender gave up its keepalive probes as if nobody had answered. The answers, which the capture holds, were lost on
    /// the rest of the way.
    pub(super) fn answers_lost(&mut self) -> Opinion {
        self.ask(NextEvidence::Capture(Capture::OtherEnd));
        (KeepaliveTimeout, Likely, vec![KeepaliveTimeout, Aborted, Forged])
    }

    pub(super) fn keepalive(&mut self) -> Opinion {
        let f = self.f;
        let Some(run) = f.sender.run else { return (Unknown, Possible, Vec::new()) };
        let (shortest, longest) = run.pauses_ms;
        self.say(None, Claim::KeepaliveProbes { count: run.count, pauses_ms: run.pauses_ms });
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
        let nanoseconds = u64::from(run.span_ms) * 1_000_000;
        let what = match run.kind {
            RunKind::WindowProbes => Repeated::WindowProbes,
            _ => Repeated::Retransmissions,
        };
        self.say(None, Claim::Unanswered { what, count: run.count, nanoseconds });
        self.ask(NextEvidence::Capture(Capture::OtherEnd));
        (RetransmissionTimeout, Likely, vec![RetransmissionTimeout, Aborted])
    }

    /// A reset that no packet triggered. Those of the client go on in [`Judge::active_client`].
    pub(super) fn active(&mut self) -> Opinion {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        if let Some((before, now)) = f.window_reopened() {
            self.say(f.reset.at.frame, Claim::WindowReopens { before, now });
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
        if let Some(opinion) = self.acknowledged_fins() {
            return opinion;
        }
        if f.sender_is_client() == Some(true) {
            return self.active_client();
        }
        let unanswered = f.unanswered_syn_acks();
        if unanswered >= 3 {
            self.say(None, Claim::SynAcksUnanswered(unanswered));
            self.ask(NextEvidence::Capture(Capture::OtherEnd));
            return (RetransmissionTimeout, Likely, vec![RetransmissionTimeout, Aborted]);
        }
        if let Some(opinion) = self.process_gone(f.reset.at.time_ns, ClosedWithUnreadData) {
            return opinion;
        }
        if f.whole() && r.payload == 0 && !r.has_gap() && !f.acknowledges_unseen() {
            self.say(None, Claim::OtherSentNothing);
            if s.payload == 0 {
                self.ask(NextEvidence::Live(Alike::AbortOrListener));
                return (Aborted, Likely, vec![Aborted, ProcessGone, Forged]);
            }
            self.ask(NextEvidence::Live(Alike::Aborts));
            return (Aborted, Likely, vec![Aborted, Forged]);
        }
        let said = f.frame_at(r.spoke_frame);
        if s.late() > 0 && f.acknowledges_all() {
            if f.answers_late_bytes() {
                self.say(
                    said,
                    Claim::LateBytes { bytes: s.late(), defied: s.fin().is_some_and(|fin| fin.defied) },
                );
                return (DataAfterClose, Likely, vec![DataAfterClose, ClosedWithUnreadData, Aborted, Forged]);
            }
            self.say(said, Claim::LateAcknowledged(s.late()));
            self.ask(NextEvidence::Live(Alike::UnreadLikely));
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        if let Some((frame, claim)) = f.request_left_unread() {
            self.say(frame, claim);
            self.ask(NextEvidence::Live(Alike::UnreadLikely));
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        if let Some((before, now)) = f.window_grew_after_fin() {
            self.say(f.reset.at.frame, Claim::WindowGrows { before, now });
            self.ask(NextEvidence::Live(Alike::UnreadLikely));
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        self.after_the_last_word()
    }

    /// Both sides had closed, and each had acknowledged the other's FIN: nothing was left that an abort could end.
    fn acknowledged_fins(&mut self) -> Option<Opinion> {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        let (own, other) = s.fin().zip(r.fin())?;
        if own.late > 0 || s.ack() != Some(r.next) || r.ack() != Some(s.next) {
            return None;
        }
        self.say(f.frame_at(own.frame.max(other.frame)), Claim::BothClosed);
        Some((BothClosed, Likely, vec![BothClosed, Aborted, ClosedWithUnreadData, Forged]))
    }

    /// The server's reset, with nothing that was certainly unread: whoever spoke last decides what is commoner.
    fn after_the_last_word(&mut self) -> Opinion {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        self.ask(NextEvidence::Live(Alike::AbortOrUnread));
        let ended = r.fin().filter(|_| f.acknowledges_all());
        let answered = f.server_spoke_last();
        if f.exchange_complete() {
            self.say(None, f.exchange_whole());
        } else if answered {
            self.say(f.frame_at(s.spoke_frame), Claim::SpokeLast(f.party(f.reset.by)));
        }
        let Some(fin) = ended else {
            return (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ProcessGone, Forged]);
        };
        self.say(f.frame_at(fin.frame), Claim::OtherEnded);
        if r.app.farewell().is_some() && r.spoke_frame > s.spoke_frame {
            // A library that closes after the peer's close_notify has mostly not read it.
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        let of_linux = s.marks.has(Marks::LINUX) && f.active() && f.reset.window != Some(0);
        if f.exchange_complete() || answered && !of_linux {
            // Every request was answered, so nothing was left to be read: Windows services end connections like this, without
            // a FIN. Of Linux a close with unread data is as common, where the protocol does not show that all was read.
            return (Aborted, Likely, vec![Aborted, ClosedWithUnreadData, Forged]);
        }
        (Unknown, Possible, vec![Aborted, ClosedWithUnreadData, ProcessGone, Forged])
    }

    pub(super) fn active_client(&mut self) -> Opinion {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        if s.payload == 0 && r.payload == 0 && f.whole() && !f.acknowledges_unseen() {
            self.say(None, Claim::NobodySentAnything);
            return (Aborted, Likely, vec![Aborted, ClientGaveUp]);
        }
        let arrived = f.arrived_after();
        if let Some(frame) = arrived {
            self.say(frame, Claim::ArrivedAfter);
        } else if let Some(fin) = s.fin().filter(|fin| fin.late > 0 && f.active() && f.acknowledges_all()) {
            return self.client_met_late_bytes(fin);
        } else if f.exchange_complete() {
            self.say(None, f.exchange_whole());
            return (Aborted, Likely, vec![Aborted, ClosedWithUnreadData, ClientGaveUp]);
        }
        // Bytes up to the reset's own acknowledgement had arrived: `tcp_send_active_reset` sends rcv_nxt.
        let sacked = f.sacked_by(s, f.reset.ack);
        let undelivered = if f.active() { r.payload_beyond(f.reset.ack, sacked) } else { 0 };
        if undelivered > 0 && !sacked.is_partial {
            self.say(f.reset.at.frame, Claim::Undelivered(undelivered));
        } else if undelivered > 0 {
            // How much is not known: the selective acknowledgements may be incomplete.
        } else if arrived.is_some() {
            // The client did not wait for the rest.
        } else if f.client_left_content() || !f.http_open() && s.app.farewell().is_some() {
            return self.client_had_all();
        } else if r.payload == 0 && f.whole() && !r.has_gap() && !f.acknowledges_unseen() {
            self.say(None, Claim::ServerSentNothing);
        }
        if let Some(fin) = r.fin()
            && f.acknowledges_all()
        {
            self.say(f.frame_at(fin.frame), Claim::OtherEnded);
            self.ask(NextEvidence::Host(Host::ClientRead));
            return (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ClientGaveUp]);
        }
        self.ask(NextEvidence::Host(Host::ClientLog));
        (ClientGaveUp, Likely, vec![ClientGaveUp, Aborted, ClosedWithUnreadData, Forged])
    }

    /// The client resets after its own FIN, and acknowledges what came after that FIN.
    fn client_met_late_bytes(&mut self, fin: Fin) -> Opinion {
        let f = self.f;
        let fin_time = f.connection().first_time + fin.since.nanoseconds();
        let nanoseconds = f.reset.at.time_ns.saturating_sub(fin_time);
        self.say(f.frame_at(fin.frame), Claim::ClosedBefore { nanoseconds });
        self.ask(NextEvidence::Host(Host::ClientProcess));
        // Either the FIN was that of a close(), and the host answers what reaches the closed socket; or it was that of a
        // half-close, and close() found the bytes unread.
        let causes = if f.answers_late_bytes() {
            [DataAfterClose, ClosedWithUnreadData]
        } else {
            [ClosedWithUnreadData, DataAfterClose]
        };
        if let Some(farewell) = f.farewell_after_fin() {
            self.say(None, Claim::LateFarewell(farewell));
            return (causes[0], Likely, [&causes[..], &[Aborted]].concat());
        }
        self.say(None, Claim::LateBytes { bytes: fin.late, defied: fin.defied });
        (ClientGaveUp, Likely, [&[ClientGaveUp], &causes[..]].concat())
    }

    /// The client resets after it had all that the server said, or after its own farewell.
    fn client_had_all(&mut self) -> Opinion {
        let f = self.f;
        if let Some(fin) = f.receiver.fin() {
            self.say(f.frame_at(fin.frame), Claim::OtherEnded);
        }
        if f.server_spoke_last() {
            self.say(f.frame_at(f.receiver.spoke_frame), Claim::SpokeLast(f.party(1 - f.reset.by)));
        }
        self.ask(NextEvidence::Host(Host::ClientRead));
        (Aborted, Likely, vec![Aborted, ClosedWithUnreadData, ClientGaveUp])
    }
}
