//! From a reset and its connection to a cause.
//!
//! The rules follow what Linux does (`tcp_v4_send_reset`, `tcp_send_active_reset`, `tcp_close`), and say so
//! where another system would do otherwise. A rule may name a cause only for what its packets show; where two
//! causes look alike on the wire both are listed and none is named.

use linger_packet::Flags;

use crate::boxes::{self, Said};
use crate::facts::Facts;
use crate::finding::Evidence;
use crate::reset::Genuine;
use crate::side::RunKind;
use crate::surroundings::Listener;
use crate::{Cause, Class, Confidence};

use Cause::*;
use Confidence::{Certain, Likely, Possible};

/// A process's end shows in refused connections this soon after it, in nanoseconds.
const REFUSED_WITHIN: u64 = 10_000_000_000;
/// `tcp_fin_timeout` is 60 s; what is answered with a reset this long after a FIN met no socket.
const FIN_TIMEOUT: u64 = 55_000_000_000;
/// So many connections ended in one moment are one process's, or one administrator's.
const TOGETHER: u32 = 3;

/// What was decided, and why.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) class: Class,
    pub(crate) cause: Cause,
    pub(crate) confidence: Confidence,
    pub(crate) candidates: Vec<Cause>,
    pub(crate) harmless: bool,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) would_decide: Option<String>,
}

/// Decides on one reset.
pub(crate) fn decide(facts: &Facts<'_>, listener: &Listener) -> Verdict {
    let mut judge = Judge { f: facts, listener, evidence: Vec::new(), would_decide: None };
    let class = judge.class();
    let (cause, confidence, mut candidates) = judge.cause(class);
    if !candidates.contains(&cause) && cause != Unknown {
        candidates.insert(0, cause);
    }
    let class =
        if matches!(cause, Forged) && !matches!(class, Class::AnswerToSyn) { Class::Foreign } else { class };
    let harmless = judge.harmless(class, cause);
    Verdict {
        class,
        cause,
        confidence,
        candidates,
        harmless,
        evidence: judge.evidence,
        would_decide: judge.would_decide.filter(|_| confidence != Certain),
    }
}

struct Judge<'a> {
    f: &'a Facts<'a>,
    listener: &'a Listener,
    evidence: Vec<Evidence>,
    would_decide: Option<String>,
}

type Opinion = (Cause, Confidence, Vec<Cause>);

impl Judge<'_> {
    fn say(&mut self, frame: impl Into<Option<u64>>, says: impl Into<String>) {
        self.evidence.push(Evidence { frame: frame.into(), says: says.into() });
    }

    fn ask(&mut self, what: impl Into<String>) {
        self.would_decide.get_or_insert(what.into());
    }

    /// What the wire proves, whatever the cause.
    fn class(&self) -> Class {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        if f.answers_syn() {
            return Class::AnswerToSyn;
        }
        if f.answers_syn_ack() {
            return Class::AnswerToSynAck;
        }
        if f.active() {
            return match s.run.kind {
                RunKind::Keepalive if s.run.count >= 2 => Class::AfterKeepalive,
                RunKind::Retransmissions if s.run.count >= 3 => Class::AfterRetransmissions,
                RunKind::WindowProbes if s.run.count >= 3 => Class::AfterRetransmissions,
                _ if s.fin() => Class::ActiveAfterFin,
                _ => Class::Active,
            };
        }
        if s.fin() {
            Class::PassiveAfterFin
        } else if f.acknowledged_data() || (r.payload == 0 && s.payload > 0) || !f.handshake_seen() {
            Class::PassiveAfterData
        } else {
            Class::PassiveBeforeAck
        }
    }

    fn cause(&mut self, class: Class) -> Opinion {
        self.describe();
        if let Some(opinion) = self.said_by_a_box() {
            return opinion;
        }
        if let Some(opinion) = self.foreign(class) {
            return opinion;
        }
        if !self.f.receiver.seen() && class != Class::AnswerToSyn {
            return self.one_direction(class);
        }
        match class {
            Class::AnswerToSyn => self.answer_to_syn(),
            Class::AnswerToSynAck => self.answer_to_syn_ack(),
            Class::AfterKeepalive => self.keepalive(),
            Class::AfterRetransmissions => self.retransmissions(),
            Class::PassiveAfterFin => self.after_own_fin(),
            Class::PassiveBeforeAck => self.before_ack(),
            Class::PassiveAfterData => self.no_memory(),
            Class::Active | Class::ActiveAfterFin | Class::Foreign => self.active(),
        }
    }

    /// The form of the reset itself.
    fn describe(&mut self) {
        let f = self.f;
        let (reset, frame) = (f.reset, f.reset.at.frame);
        let window = reset.window.map_or("cut off".to_owned(), |window| window.to_string());
        if f.answers_syn() {
            return self.say(frame, "RST answers the SYN; no SYN-ACK was ever sent");
        }
        if f.active() {
            let stamps = if reset.timestamps { "with timestamps" } else { "without timestamps" };
            self.say(frame, format!("RST+ACK at the sender's next sequence number, window {window}, {stamps}: nobody asked for it"));
            return;
        }
        match f.trigger {
            Some(trigger) => {
                let what = f.describe_record(&trigger);
                self.say(
                    frame,
                    format!(
                        "bare RST, window {window}: an answer to {what} (frame {})",
                        f.frame_of(&trigger)
                    ),
                );
            }
            None => self
                .say(frame, format!("bare RST, window {window}: an answer to a packet this capture lacks")),
        }
    }

    /// NetScaler codes, BIG-IP texts, diagnostic payloads.
    fn said_by_a_box(&mut self) -> Option<Opinion> {
        let reset = self.f.reset;
        let frame = reset.at.frame;
        let said = boxes::payload(&reset.payload).or_else(|| {
            let window = reset.window?;
            // A window that the sender has offered before, or nearly, is a window and no code.
            let s = self.f.sender;
            let near = s.has_window() && s.window.abs_diff(window) < 512;
            if near || self.f.window_reopened().is_some() { None } else { boxes::window(window) }
        })?;
        match said {
            Said::NetScaler { code, means } => {
                self.say(frame, format!("window {code} is a NetScaler's reset code: {means}"));
                self.ask("the load balancer's log, or a capture on its other side");
                Some((Forged, Possible, vec![Forged, Aborted, ClosedWithUnreadData]))
            }
            Said::BigIp(text) => {
                self.say(frame, format!("the payload is a BIG-IP's: \"{text}\""));
                self.ask("the load balancer's log");
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

    /// Whether the reset comes from somebody else.
    fn foreign(&mut self, class: Class) -> Option<Opinion> {
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
            self.ask("a capture at the server: a firewall's answer is not in it");
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
            // A firewall that answers a packet leaves the other side as unaware.
            if !f.active() && hops.is_some() && f.trigger.is_some() {
                self.ask("a capture at the alleged sender: this reset is not in it");
                return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
            }
            let confidence = if hops.is_some() || id.is_some() { Certain } else { Likely };
            self.ask("a capture at the alleged sender: this reset is not in it");
            return Some((Forged, confidence, vec![Forged]));
        }
        if hops.is_some() {
            self.ask("a capture at the alleged sender: this reset is not in it");
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
            self.ask("a capture at the alleged sender: this reset is not in it");
            return Some((FirewallReject, Likely, vec![FirewallReject, Forged]));
        }
        if id.is_some() && f.active() {
            self.ask("a capture at the alleged sender: this reset is not in it");
            return Some((Unknown, Possible, vec![Forged, Aborted, ClosedWithUnreadData]));
        }
        None
    }

    /// Nothing of the other side was captured: the form of the reset is all there is.
    fn one_direction(&mut self, class: Class) -> Opinion {
        self.say(None, "no packet of the other side is in the capture");
        self.ask("a capture that holds both directions");
        let candidates = match class {
            Class::Active | Class::ActiveAfterFin | Class::AfterRetransmissions | Class::AfterKeepalive => {
                vec![
                    ClosedWithUnreadData,
                    Aborted,
                    ClientGaveUp,
                    ProcessGone,
                    RetransmissionTimeout,
                    KeepaliveTimeout,
                    Forged,
                ]
            }
            _ => vec![
                DataAfterClose,
                HalfOpen,
                ClientGaveUp,
                ProcessGone,
                Finwait2Expired,
                AcceptQueueOverflow,
                PortClosed,
                FirewallReject,
                Forged,
            ],
        };
        (Unknown, Possible, candidates)
    }

    fn answer_to_syn(&mut self) -> Opinion {
        let time = self.f.reset.at.time;
        if let Some(accepted) = self.listener.accepted
            && accepted > time
            && accepted - time < 2_000_000_000
        {
            self.say(None, "the same port accepts another connection less than two seconds later");
            self.ask("whether the service restarted, or ListenOverflows (some systems refuse when the queue is full)");
            return (Unknown, Possible, vec![PortClosed, ProcessGone, AcceptQueueOverflow, FirewallReject]);
        }
        let ended = self.listener.ended_within(time, REFUSED_WITHIN);
        if ended >= TOGETHER {
            self.say(None, format!("shortly before, {ended} connections of the same port ended at once"));
            self.ask("the service's journal at that time");
            return (ProcessGone, Likely, vec![ProcessGone, PortClosed, FirewallReject]);
        }
        if self.listener.accepted.is_some() {
            self.say(None, "the same port accepted connections before");
        }
        self.ask("`ss -ltn` on the host; a firewall there that rejects with tcp-reset looks the same");
        (PortClosed, Likely, vec![PortClosed, ProcessGone, FirewallReject])
    }

    fn answer_to_syn_ack(&mut self) -> Opinion {
        let f = self.f;
        if let Some(ack) = f.stale_answer() {
            self.say(
                f.frame_of(&ack),
                "the SYN was answered with the acknowledgement of an older connection on the same ports",
            );
            return (HalfOpen, Likely, vec![HalfOpen]);
        }
        self.say(None, "the handshake was never completed");
        self.ask("whether a process at the client cancelled its connect(), or none ever asked (a scan, a spoofed address)");
        (ClientGaveUp, Likely, vec![ClientGaveUp, HalfOpen])
    }

    fn keepalive(&mut self) -> Opinion {
        let f = self.f;
        let run = f.sender.run;
        let (shortest, longest) = run.pauses;
        self.say(
            None,
            format!(
                "{} keepalive probes before it went unanswered, {} to {} ms apart",
                run.count, shortest, longest
            ),
        );
        // Even pauses, the last one too: the timer's, not an application's.
        let last = (f.reset.at.time.saturating_sub(run.last) / 1_000_000).min(u64::from(u32::MAX)) as u32;
        let even = longest.max(last) <= shortest.min(last).saturating_mul(2);
        if even && f.receiver.seen() {
            return (KeepaliveTimeout, Certain, vec![KeepaliveTimeout]);
        }
        (KeepaliveTimeout, Likely, vec![KeepaliveTimeout, Aborted])
    }

    fn retransmissions(&mut self) -> Opinion {
        let f = self.f;
        let run = f.sender.run;
        let seconds = run.last.saturating_sub(run.first) as f64 / 1e9;
        let what = if run.kind == RunKind::WindowProbes { "window probes" } else { "retransmissions" };
        self.say(None, format!("{} {what} over {seconds:.1} s went unanswered before it", run.count));
        self.ask("a capture at the other end, to see which way the packets are lost");
        (RetransmissionTimeout, Likely, vec![RetransmissionTimeout, Aborted])
    }

    /// A bare reset after the sender's own FIN.
    fn after_own_fin(&mut self) -> Opinion {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        let fin = f.frame_at(s.fin_frame);
        let since_fin = f.reset.at.time.saturating_sub(s.fin_time);
        let late_data = f.trigger.is_some_and(|trigger| trigger.len > 0) || r.after_fin > 0;
        self.say(fin, format!("the sender had closed {:.3} s before", since_fin as f64 / 1e9));
        if late_data {
            if f.alert_after_fin() {
                self.say(
                    f.trigger.map(|trigger| f.frame_of(&trigger)),
                    "what it answers is a TLS close_notify",
                );
                return (DataAfterClose, Certain, vec![DataAfterClose]);
            }
            if r.after_fin > 0 {
                self.say(
                    f.trigger.map(|trigger| f.frame_of(&trigger)),
                    format!("{} bytes arrived after that, and nobody was there to read them", r.after_fin),
                );
            }
            if f.sender_is_client() == Some(true) {
                self.ask("the client's timeout, and the process at the client");
                let confidence = if f.whole() { Certain } else { Likely };
                return (ClientGaveUp, confidence, vec![ClientGaveUp]);
            }
            if let Some(opinion) = self.process_gone(s.fin_time, DataAfterClose) {
                return opinion;
            }
            // Without the server's side of the story "after" is only the order at this point of the path.
            let confidence = if f.trigger.is_some() && !s.gap() { Certain } else { Likely };
            return (DataAfterClose, confidence, vec![DataAfterClose]);
        }
        if f.trigger.is_some_and(|trigger| trigger.flags.has(Flags::FIN)) || r.fin() {
            if let Some(opinion) = self.process_gone(s.fin_time, Finwait2Expired) {
                return opinion;
            }
            if since_fin >= FIN_TIMEOUT {
                self.say(None, "longer than tcp_fin_timeout (60 s)");
            }
            self.ask("tcp_fin_timeout and tcp_max_orphans on the host that reset");
            return (Finwait2Expired, Likely, vec![Finwait2Expired, HalfOpen]);
        }
        self.ask("a capture at the sender of the reset, from before its FIN");
        (Unknown, Possible, vec![Finwait2Expired, HalfOpen, DataAfterClose, FirewallReject, Forged])
    }

    /// A bare reset, and the sender had acknowledged none of the client's bytes.
    fn before_ack(&mut self) -> Opinion {
        let f = self.f;
        if f.sender_is_client() == Some(true) {
            self.ask("a capture at the client");
            return (Unknown, Possible, vec![ClientGaveUp, HalfOpen, FirewallReject, Forged]);
        }
        let at = f.frame_at(f.flow().syn_ack_frame);
        if f.flow().syn_ack_repeats > 0 {
            self.say(
                at,
                format!(
                    "the SYN-ACK was sent again {} times after the client had acknowledged it",
                    f.flow().syn_ack_repeats
                ),
            );
            if f.receiver.repeats > 0 {
                self.say(
                    None,
                    format!("the client repeated its data {} times unanswered", f.receiver.repeats),
                );
            }
            self.ask("ListenOverflows in `nstat -az` on the server, or `ss -ltn` at that time");
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
            self.ask("TCPReqQFullDoCookies, SyncookiesFailed and ListenOverflows on the server");
            return (
                AcceptQueueOverflow,
                Likely,
                vec![AcceptQueueOverflow, FirewallReject, HalfOpen, Forged],
            );
        }
        if let Some(opinion) = self.process_gone(f.reset.at.time, AcceptQueueOverflow) {
            return opinion;
        }
        self.say(at, "the server had completed the handshake, and refused the client's very next packet");
        if self.listener.repeats > 0 {
            self.say(None, "SYN-ACKs of the same port are repeated in other connections");
        }
        self.ask("ListenOverflows and net.ipv4.tcp_abort_on_overflow on the server");
        (AcceptQueueOverflow, Likely, vec![AcceptQueueOverflow, ProcessGone, FirewallReject, Forged])
    }

    /// A bare reset in the middle of a connection, with no FIN before it.
    fn no_memory(&mut self) -> Opinion {
        let f = self.f;
        if let Some(opinion) = self.process_gone(f.reset.at.time, HalfOpen) {
            return opinion;
        }
        if !f.whole() || f.sender.gap() {
            self.say(None, "the capture lacks part of this connection: a FIN may have gone before");
            self.ask("a capture that holds the connection from its beginning, both directions");
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
        self.ask("a capture at the sender: a FIN or reset of its own that never arrived would explain it");
        let mut candidates = vec![HalfOpen, FirewallReject, Forged, ProcessGone, DataAfterClose];
        if f.sender_is_client() == Some(true) {
            candidates.insert(1, ClientGaveUp);
        }
        (HalfOpen, Likely, candidates)
    }

    /// A reset that nobody asked for.
    fn active(&mut self) -> Opinion {
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
            if let Some(opinion) = self.process_gone(f.reset.at.time, ClosedWithUnreadData) {
                return opinion;
            }
            let confidence = if f.sender_is_client().is_some() { Certain } else { Likely };
            return (ClosedWithUnreadData, confidence, vec![ClosedWithUnreadData]);
        }
        if f.sender_is_client() == Some(true) {
            return self.active_client();
        }
        if let Some(opinion) = self.process_gone(f.reset.at.time, ClosedWithUnreadData) {
            return opinion;
        }
        if f.whole() && r.payload == 0 {
            self.say(None, "the other side had sent no byte, so none can have been unread");
            if s.payload == 0 {
                self.ask("the server's log, or `linger watch` there: a listener closed with a full queue looks the same");
                return (Aborted, Likely, vec![Aborted, ProcessGone, Forged]);
            }
            self.ask(
                "`linger watch` at the server: an abort, ss -K and a killed socket look the same on the wire",
            );
            return (Aborted, Likely, vec![Aborted, Forged]);
        }
        if s.fin() && r.after_fin > 0 && f.acknowledges_all() {
            self.say(
                f.frame_at(r.last_frame),
                format!("{} bytes arrived after the sender's half-close, and close() met them", r.after_fin),
            );
            self.ask("`linger watch` at the server: TCPAbortOnClose for unread data");
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        if let Some((frame, says)) = f.request_left_unread() {
            self.say(frame, says);
            self.ask("`linger watch` at the server: TCPAbortOnClose for unread data");
            return (ClosedWithUnreadData, Likely, vec![ClosedWithUnreadData, Aborted, Forged]);
        }
        if f.exchange_complete() {
            self.say(None, "the response was whole and acknowledged before it");
        }
        self.ask(
            "`linger watch` (or the tcp_send_reset tracepoint) at the server: on the wire an abort and a close with \
             unread data are the same",
        );
        (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ProcessGone, Forged])
    }

    fn active_client(&mut self) -> Opinion {
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
        if r.fin() && f.acknowledges_all() {
            self.say(
                f.frame_at(r.fin_frame),
                "the server had ended its side, and the client's system had acknowledged all of it",
            );
            self.ask("whether the client's program had read it: close() with unread data sends this reset");
            return (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ClientGaveUp]);
        }
        let undelivered = r.payload_after(s.ack);
        if undelivered > 0 {
            self.say(f.reset.at.frame, format!("{undelivered} bytes of the response were on the way to it"));
        } else if r.payload == 0 {
            self.say(None, "the server had not begun to answer");
        }
        self.ask("the client's timeout and log");
        (ClientGaveUp, Likely, vec![ClientGaveUp, Aborted, ClosedWithUnreadData, Forged])
    }

    /// Whether other connections show that the server's process ended at `time`.
    fn process_gone(&mut self, time: u64, otherwise: Cause) -> Option<Opinion> {
        if self.f.sender_is_client() == Some(true) {
            return None;
        }
        let together = self.listener.ended_together(time);
        let refused = self.listener.refused.filter(|&(refused, _)| {
            refused.saturating_add(50_000_000) >= time && refused.saturating_sub(time) <= REFUSED_WITHIN
        });
        // It accepted again in between: then it was refused for another reason.
        let refused = refused.filter(|&(refused, _)| {
            self.listener.accepted.is_none_or(|accepted| accepted <= time || accepted >= refused)
        });
        // Many ends at once alone are no death: a busy server that closes with unread data looks just so.
        let (_, frame) = refused?;
        self.say(frame, "soon after, the same port refuses connections: nobody listens any more");
        if together >= TOGETHER {
            self.say(
                None,
                format!("{together} connections of the same port ended within a twentieth of a second"),
            );
        }
        self.ask("the service's journal at that time");
        let mut candidates = vec![ProcessGone, otherwise];
        if otherwise != Aborted {
            candidates.push(Aborted);
        }
        Some((ProcessGone, Likely, candidates))
    }

    /// Whether anybody lost anything by it.
    fn harmless(&self, class: Class, cause: Cause) -> bool {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        match class {
            Class::AnswerToSyn | Class::AnswerToSynAck | Class::PassiveBeforeAck => return false,
            Class::AfterKeepalive | Class::AfterRetransmissions => return false,
            _ => {}
        }
        if cause == ProcessGone || !f.whole() {
            return false;
        }
        // Everything the sender wrote had arrived, the FIN too; what it reset was a farewell.
        let delivered = s.payload_after(r.ack) == 0;
        if class == Class::PassiveAfterFin && delivered {
            return f.alert_after_fin() || (r.after_fin == 0 && r.payload_after(s.ack) == 0);
        }
        if s.payload == 0 && r.payload == 0 {
            return true;
        }
        if r.fin() && r.payload_after(s.ack) == 0 && delivered {
            return true;
        }
        f.exchange_complete()
    }
}
