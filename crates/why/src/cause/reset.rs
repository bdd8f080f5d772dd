//! From a reset and its connection to a cause: the order of the rules. The rules themselves are in four files: resets of another
//! sender (`foreign`), before any data (`before_data`), in answer to a packet (`passive`), of the sender's own accord (`active`).
//! A "bare" reset has no ACK flag.
//!
//! The rules follow Linux (`tcp_v4_send_reset`, `tcp_send_active_reset`, `tcp_close`), and note where other systems
//! differ. A rule names a cause only where packets show it. Where two causes look alike on the wire, both are listed
//! and none is named.

mod active;
mod before_data;
mod foreign;
mod passive;

use crate::advice::{Capture, Host, NextEvidence};
use crate::claim::{Claim, Farewell};
use crate::facts::{Facts, Unasked};
use crate::finding::Evidence;
use crate::side::{RunKind, Side};
use crate::surroundings::ListenerHistory;
use crate::{Cause, Class, Confidence, priors};

use Cause::*;
use Confidence::{Certain, Likely, Possible};

/// How soon after a process's end its port must refuse a connection, in nanoseconds.
const REFUSED_WITHIN: u64 = 10_000_000_000;
/// This many connections that end in one moment were ended by one process, or one administrator.
const TOGETHER: u32 = 3;

/// Silence that is worth a sentence, in nanoseconds: shorter pauses are those of every exchange.
const WORTH_SAYING: u64 = 2_000_000_000;

/// The verdict and its reasons.
#[derive(Debug)]
pub(crate) struct Diagnosis {
    pub(crate) class: Class,
    pub(crate) cause: Cause,
    pub(crate) confidence: Confidence,
    pub(crate) candidates: Vec<Cause>,
    pub(crate) harmless: bool,
    pub(crate) evidence: Vec<Evidence>,
    pub(crate) would_decide: Option<NextEvidence>,
}

/// Decides on one reset.
pub(crate) fn decide(facts: &Facts<'_>, listener: &ListenerHistory) -> Diagnosis {
    let mut judge = Judge { f: facts, listener, evidence: Vec::new(), would_decide: None };
    let class = judge.class();
    let (cause, confidence, mut candidates) = judge.cause(class);
    if !candidates.contains(&cause) && cause != Unknown {
        candidates.insert(0, cause);
    }
    let class =
        if matches!(cause, Forged) && !matches!(class, Class::AnswerToSyn) { Class::Foreign } else { class };
    // After the cause that is named, the commoner candidates first.
    let named = usize::from(cause != Unknown);
    if let Some(others) = candidates.get_mut(named..) {
        others.sort_by_key(|other| std::cmp::Reverse(priors::seen(*other, class)));
    }
    let harmless = judge.harmless(class, cause);
    judge.timing();
    Diagnosis {
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
    listener: &'a ListenerHistory,
    evidence: Vec<Evidence>,
    would_decide: Option<NextEvidence>,
}

type Opinion = (Cause, Confidence, Vec<Cause>);

impl Judge<'_> {
    fn say(&mut self, frame: impl Into<Option<u64>>, says: Claim) {
        self.evidence.push(Evidence { frame: frame.into(), says });
    }

    fn ask(&mut self, what: NextEvidence) {
        self.would_decide.get_or_insert(what);
    }

    /// The part of the verdict that the packets prove, whatever the cause.
    fn class(&self) -> Class {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        if f.answers_syn() {
            return Class::AnswerToSyn;
        }
        if f.answers_syn_ack() {
            return Class::AnswerToSynAck;
        }
        if f.active() || f.bare_unasked().is_some() {
            // A bare reset without a window may answer what is not in the capture.
            let run = s.run.filter(|_| f.active() || f.has_own_window());
            return match run.map(|run| (run.kind, run.count)) {
                Some((RunKind::Keepalive, 2..)) => Class::AfterKeepalive,
                Some((RunKind::Retransmissions | RunKind::WindowProbes, 3..)) => Class::AfterRetransmissions,
                _ if s.has_fin() => Class::ActiveAfterFin,
                _ => Class::Active,
            };
        }
        if s.has_fin() {
            Class::PassiveAfterFin
        } else if f.acknowledged_data()
            || (r.payload == 0 && s.payload > 0)
            || !f.handshake_seen()
            || f.beyond_capture().is_some()
        {
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
        let ttl = self.foreign_ttl(class);
        if let Some(opinion) = self.foreign(ttl) {
            return opinion;
        }
        if ttl {
            let at = if class == Class::AnswerToSyn { Capture::Server } else { Capture::AllegedSender };
            self.ask(NextEvidence::Capture(at));
            let opinion = self.own(class);
            return self.with_ttl_alone(opinion);
        }
        self.own(class)
    }

    /// The cause if the alleged sender has sent the reset.
    fn own(&mut self, class: Class) -> Opinion {
        if !self.f.receiver.seen() && class != Class::AnswerToSyn {
            return self.one_direction(class);
        }
        match class {
            Class::AnswerToSyn => self.answer_to_syn(),
            Class::AnswerToSynAck => self.answer_to_syn_ack(),
            Class::AfterKeepalive => self.keepalive(),
            Class::AfterRetransmissions => self.retransmissions(),
            Class::Active if self.f.answered_beats().is_some() => self.answers_lost(),
            Class::PassiveAfterFin => self.after_own_fin(),
            Class::PassiveBeforeAck => self.before_ack(),
            Class::PassiveAfterData => self.no_memory(),
            Class::Active
            | Class::ActiveAfterFin
            | Class::Foreign
            // The classes without a reset do not come here.
            | Class::Unanswered
            | Class::ClosedEarly
            | Class::OpenedLate
            | Class::Stalled => self.active(),
        }
    }

    /// The form of the reset itself.
    fn describe(&mut self) {
        let f = self.f;
        let (window, frame) = (f.reset.window, f.reset.at.frame);
        let claim = if f.answers_unseen_syn() {
            Claim::AnswersUnseenSyn
        } else if f.answers_syn() {
            Claim::AnswersSyn
        } else if f.answers_late_bytes() {
            Claim::AcknowledgesLate
        } else if f.active() {
            Claim::Unasked { window, timestamps: f.reset.timestamps, at_next: f.at_next() }
        } else {
            match (f.bare_unasked(), f.trigger) {
                (Some(Unasked::AllAcknowledged), _) => Claim::BareUnasked { window },
                (Some(Unasked::NumberUnacknowledged), _) => Claim::BareOfItsOwn { window },
                (Some(Unasked::OwnWindow), _) => Claim::BareWithWindow { window },
                (None, Some(trigger)) => Claim::Answers {
                    window,
                    what: f.kind_of(&trigger),
                    frame: f.frame_of(&trigger),
                    or_earlier: f.may_answer_earlier(),
                },
                (None, None) => Claim::AnswersUnseen { window },
            }
        };
        self.say(frame, claim);
    }

    /// The cause if the capture holds one direction: only the form of the reset is known.
    fn one_direction(&mut self, class: Class) -> Opinion {
        self.say(None, Claim::OneDirection);
        self.ask(NextEvidence::Capture(Capture::BothDirections));
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

    /// The opinion that the server's process ended at `time`, if other connections show that.
    fn process_gone(&mut self, time: u64, otherwise: Cause) -> Option<Opinion> {
        if self.f.sender_is_client() == Some(true) {
            return None;
        }
        let together = self.listener.ended_together(time);
        // 50 ms: one process's connections do not all end in the same instant, and a refusal may come among them.
        let refused = self.listener.refused.filter(|refused| {
            refused.time.saturating_add(50_000_000) >= time
                && refused.time.saturating_sub(time) <= REFUSED_WITHIN
        });
        // A port that accepted again in between refused for another reason.
        let refused = refused.filter(|refused| refused.accepted.is_none_or(|accepted| accepted <= time));
        // Many ends at once are no proof: a busy server that closes with unread data looks the same.
        let frame = refused?.frame;
        self.say(frame, Claim::PortRefusesLater);
        if together >= TOGETHER {
            self.say(None, Claim::EndedTogether(together));
        }
        self.ask(NextEvidence::Host(Host::Journal));
        let mut candidates = vec![ProcessGone, otherwise];
        if otherwise != Aborted {
            candidates.push(Aborted);
        }
        Some((ProcessGone, Likely, candidates))
    }

    /// How long nothing was sent before the reset, and before the sender's FIN.
    fn timing(&mut self) {
        let f = self.f;
        if let Some(nanoseconds) = f.silence_before_fin().filter(|&silence| silence >= WORTH_SAYING) {
            let fin = f.sender.fin().map(|fin| f.frame_at(fin.frame));
            self.say(fin, Claim::SilenceBeforeFin { nanoseconds });
        }
        if let Some(nanoseconds) = f.silence().filter(|&silence| silence >= WORTH_SAYING) {
            self.say(None, Claim::Silence { nanoseconds });
        }
    }

    /// Whether nobody lost anything.
    fn harmless(&self, class: Class, cause: Cause) -> bool {
        let f = self.f;
        let (s, r) = (f.sender, f.receiver);
        // An injected reset that its receiver did not obey.
        if f.reset.survived() {
            return true;
        }
        // Of HTTP/2 each response counts, whoever closed and however.
        if f.streams_open() {
            return false;
        }
        match class {
            Class::AnswerToSyn | Class::AnswerToSynAck | Class::PassiveBeforeAck => return false,
            // Both had closed, and all had arrived, so that only a FIN went unanswered.
            Class::AfterRetransmissions if s.has_fin() && r.has_fin() => {
                return f.delivered(s, r) && f.delivered(r, s) && f.arrived().is_none();
            }
            Class::AfterRetransmissions => return false,
            _ => {}
        }
        if matches!(cause, ProcessGone | KeepaliveTimeout) || !s.seen() || !r.seen() {
            return false;
        }
        // After a goodbye line (such as `QUIT`), nobody has to read the answer.
        if f.delivered(s, r) && s.app.farewell() == Some(Farewell::Line) {
            return true;
        }
        // What one side has not taken is lost, unless it is a farewell.
        let left = |from: &Side, to: &Side| to.late() > 0 || !f.delivered(from, to);
        let farewell = |from: &Side, to: &Side| f.only_farewell_left(from, to).is_some();
        match (left(s, r), left(r, s) || f.arrived().is_some()) {
            (false, false) => {}
            (sent, got) => return (!sent || farewell(s, r)) && (!got || farewell(r, s)),
        }
        if !(f.whole() || s.has_fin() && r.has_fin() || f.exchange_complete()) {
            return false;
        }
        // The server had ended its side, so it had nothing more to say.
        let server_ended = f.sender_is_client() == Some(true) && r.has_fin();
        let closed = s.has_fin() && r.has_fin() || server_ended;
        if closed || f.exchange_complete() {
            return true;
        }
        match cause {
            Forged | FirewallReject | RetransmissionTimeout => false,
            _ if s.payload == 0 && r.payload == 0 => true,
            ClosedWithUnreadData | ClientGaveUp => r.app.farewell().is_some(),
            _ => f.client_left_content() || !f.http_open() && f.client_said_farewell(),
        }
    }
}
