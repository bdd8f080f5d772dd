//! The rules as a table: which cause is named for which class of finding, on what condition, and what would refute it.
//!
//! The conditions are decided in `cause/reset/` and `cause/no_reset/`; the table is what a reader checks a verdict against. The tests demand a row
//! for each verdict that any case or capture gets, that each counter-example exists and is judged otherwise, and that
//! docs/why-rules.md, which `cargo xtask corpus --rules` prints, says the same.

use std::fmt::Write;

use crate::{Cause, Class, priors};

/// One rule.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CauseRule {
    /// The cause that it names.
    pub cause: Cause,
    /// The class of the findings for which it is named.
    pub class: Class,
    /// When it is named.
    pub condition: &'static str,
    /// What must not be in the packets.
    pub refuted_by: &'static str,
    /// The nearest case that is judged otherwise: a file of `tests/rules/recorded`, and the change in it. `None` for a reason that
    /// the reset itself gives, and where another row of the cause has the case.
    pub counter_example: Option<(&'static str, &'static str)>,
    /// How many verdicts over the labelled captures it gave, all of them right.
    pub labelled: u16,
}

impl CauseRule {
    /// All rules.
    pub fn all() -> &'static [Self] {
        &RULES
    }

    /// The rule's name.
    pub fn name(&self) -> String {
        format!("{}/{}", self.cause, self.class)
    }

    /// The rules as a table in Markdown, with how often each was seen in public captures.
    pub fn table() -> String {
        let mut text = String::from(
            "| rule | condition | refuted by | nearest counter-example | labelled | public |\n|---|---|---|---|---|---|\n",
        );
        for rule in &RULES {
            let counter =
                rule.counter_example.map_or(String::new(), |(file, change)| format!("{file}: {change}"));
            let public = priors::seen(rule.cause, rule.class);
            let labelled = match rule.labelled {
                0 => String::new(),
                count => format!("{count} of {count}"),
            };
            let row =
                [&rule.name(), rule.condition, rule.refuted_by, &counter, &labelled, &public.to_string()];
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {} |", row.join(" | "));
        }
        text
    }
}

const fn rule(
    (cause, class): (Cause, Class),
    condition: &'static str,
    refuted_by: &'static str,
    counter_example: Option<(&'static str, &'static str)>,
    labelled: u16,
) -> CauseRule {
    CauseRule { cause, class, condition, refuted_by, counter_example, labelled }
}

static RULES: [CauseRule; 50] = [
    rule(
        (Cause::AcceptQueueOverflow, Class::PassiveBeforeAck),
        "a bare reset answers a packet of the client, the server has sent nothing but its SYN-ACK, and the SYN-ACK was repeated after the client's ACK, or three clients are refused so, or the third ACK itself is refused, or data was repeated twice behind it",
        "a byte of the client that was acknowledged; a SYN-ACK that is repeated before the ACK",
        Some(("repeated-SYN-ACK", "before the client's answer")),
        18,
    ),
    rule(
        (Cause::AcceptQueueOverflow, Class::Unanswered),
        "no reset; the SYN-ACK is repeated after the client's ACK and its data is repeated unanswered, or SYNs go unanswered where other connections of the port show a full queue, by repeated SYN-ACKs, refusals or late openings, or two or more with requests that were opened before and on which neither a byte nor a FIN came back, while the port ended and answered no other; possible if the host acknowledges nothing of these after the first SYN",
        "an acknowledgement of the data; a SYN-ACK",
        Some(("not-accepted--and-no-reset", "the data is acknowledged at last")),
        6,
    ),
    rule(
        (Cause::AcceptQueueOverflow, Class::OpenedLate),
        "the SYN-ACK came 1.8 s or more after the first of three SYNs or more, as in three connections of the port at least, which are most of those whose SYN was repeated; or 0.9 s or more after the first of two, as in 16 connections within 10 s or more, 4.33 standard deviations above the fifth that a link may lose, or, with those that sent their first data three times or got another SYN-ACK before they were heard, above a quarter; likely if the port answered others while two SYNs of one of them went unanswered, else possible",
        "two such connections; as many others whose SYN was repeated once; 15 connections, or 26 of 64; 30 of 64 with those that were not heard at first",
        Some(("opened-late", "two of them")),
        0,
    ),
    rule(
        (Cause::ClosedWithUnreadData, Class::Active),
        "an RST+ACK of the server at its next number, and: the window re-opens at the same acknowledgement, or the response came before the request was whole, or a pipelined request got none, or records of a FastCGI gateway lie after END_REQUEST, or a close_notify came after the server's last byte",
        "no byte of the client; every request answered",
        Some(("window", "it stays")),
        21,
    ),
    rule(
        (Cause::ClosedWithUnreadData, Class::ActiveAfterFin),
        "an RST+ACK of either side after its own FIN that offers a window, has timestamps or comes after another packet, and acknowledges bytes that came after that FIN: a farewell, if the sender is the client; or one of a Linux server after its own FIN, with a window that is larger by 512 bytes or more at the same acknowledgement",
        "no byte after the FIN, and the same window",
        Some(("unread-after-a-half-close", "no byte")),
        6,
    ),
    rule(
        (Cause::DataAfterClose, Class::PassiveAfterFin),
        "a bare reset of the server after its FIN answers bytes that the FIN does not acknowledge; or the client's FIN, which stands behind \
         bytes that are not in the capture and that the server did not acknowledge: likely",
        "the FIN acknowledges them, or a later packet those before the client's FIN",
        Some(("crossing-the-FIN", "the FIN acknowledges them")),
        27,
    ),
    rule(
        (Cause::DataAfterClose, Class::ActiveAfterFin),
        "an RST+ACK without window and timestamps is the sender's first packet after its FIN, and acknowledges bytes that came after that FIN: a farewell, if the sender is the client",
        "a window or timestamps; an acknowledgement in between; no byte after the FIN",
        Some(("after-the-client-s-own-FIN", "a window: the socket was open")),
        0,
    ),
    rule(
        (Cause::DataAfterClose, Class::PassiveAfterData),
        "a bare reset without a FIN of its sender, of which bytes were in flight less than a second before, or which faced a full window until the data that it answers was sent: a FIN would have waited",
        "all bytes acknowledged and room in the window; a second of silence",
        Some(("FIN-behind-a-queue", "all had been acknowledged")),
        0,
    ),
    rule(
        (Cause::DataAfterClose, Class::Active),
        "a diagnostic payload of the reset says so",
        "another code",
        None,
        0,
    ),
    rule(
        (Cause::Aborted, Class::Active),
        "an RST+ACK that no packet asked for, and nothing can have lain unread: the other side had sent no byte, or had ended after every word was answered (by Linux: after every request had its response), or the client resets after it had all",
        "a byte that no packet acknowledges; a request without a response",
        Some(("no-byte-of-the-client", "one byte of the client")),
        21,
    ),
    rule(
        (Cause::Aborted, Class::ActiveAfterFin),
        "the same after the sender's FIN",
        "the same",
        Some(("no-byte-of-the-client", "one byte of the client")),
        0,
    ),
    rule(
        (Cause::PortClosed, Class::AnswerToSyn),
        "an RST+ACK that acknowledges the SYN, from a side that has sent nothing else; the same SYN refused again is the same failure",
        "a SYN-ACK of the same connection; another number, which is another failure",
        Some(("answer-to-a-SYN", "it acknowledges another number")),
        18,
    ),
    rule(
        (Cause::ProcessGone, Class::PassiveAfterData),
        "the port refuses a connection less than 10 s later, and accepted none in between",
        "nobody is refused, or a connection is accepted in between",
        Some(("process-gone", "nobody is refused")),
        0,
    ),
    rule(
        (Cause::ProcessGone, Class::PassiveAfterFin),
        "the same",
        "the same",
        Some(("process-gone", "nobody is refused")),
        12,
    ),
    rule((Cause::ProcessGone, Class::PassiveBeforeAck), "the same", "the same", None, 0),
    rule(
        (Cause::ProcessGone, Class::Active),
        "the same",
        "the same",
        Some(("process-gone", "accepted again before")),
        48,
    ),
    rule(
        (Cause::ProcessGone, Class::ActiveAfterFin),
        "the same",
        "the same",
        Some(("process-gone", "accepted again before")),
        0,
    ),
    rule(
        (Cause::ProcessGone, Class::AnswerToSyn),
        "three connections of the port ended within a twentieth of a second, at most 10 s before the refusal",
        "two of them; more than 10 s",
        Some(("refused-after-ends", "two ended")),
        24,
    ),
    rule(
        (Cause::HalfOpen, Class::PassiveAfterData),
        "a bare reset in mid-connection, at a number that the other side has acknowledged, no FIN of its sender, all its bytes acknowledged and room in the window before the packet that it answers, seen from its handshake on, and its sender silent for 0.1 s",
        "a FIN; bytes in flight; a number that nobody has acknowledged; a part that is not in the capture; a packet of the sender within the last 0.1 s",
        Some(("no-memory", "a number that nobody has acknowledged")),
        10,
    ),
    rule(
        (Cause::HalfOpen, Class::AnswerToSynAck),
        "the SYN was answered with the acknowledgement of an older connection, and the client resets that",
        "a SYN-ACK",
        Some(("stale-answer", "a SYN-ACK")),
        3,
    ),
    rule(
        (Cause::HalfOpen, Class::Active),
        "a diagnostic payload of the reset says so",
        "another code",
        None,
        0,
    ),
    rule(
        (Cause::ClientGaveUp, Class::Active),
        "the client resets before it has acknowledged the whole response, or before any",
        "the whole response acknowledged",
        Some(("health-check", "as it is")),
        9,
    ),
    rule(
        (Cause::ClientGaveUp, Class::ActiveAfterFin),
        "the same after the client's FIN, or it acknowledges bytes that came after that FIN and are no farewell",
        "the same",
        Some(("health-check", "as it is")),
        0,
    ),
    rule(
        (Cause::ClientGaveUp, Class::AnswerToSynAck),
        "the client answers the SYN-ACK with a bare reset",
        "an acknowledgement before",
        Some(("answer-to-a-SYN-ACK", "another number")),
        6,
    ),
    rule(
        (Cause::ClientGaveUp, Class::PassiveAfterFin),
        "the client had sent its FIN, and answers later bytes of the server with a bare reset",
        "the FIN of the server in its place",
        Some(("data-after-close", "as it is")),
        6,
    ),
    rule(
        (Cause::ClientGaveUp, Class::PassiveAfterData),
        "the client answers with a bare reset, its bytes in flight or the window full",
        "all acknowledged",
        Some(("FIN-behind-a-queue", "all had been acknowledged")),
        0,
    ),
    rule(
        (Cause::ClientGaveUp, Class::ClosedEarly),
        "no reset; the client's FIN came before the response was whole, and the server closed short of it",
        "the server's FIN was first",
        Some(("short-by-its-Content-Length", "as it is")),
        0,
    ),
    rule(
        (Cause::KeepaliveTimeout, Class::AfterKeepalive),
        "two probes or more without an answer before an RST+ACK, or before a bare reset that answers nothing; certain if the pauses are even",
        "one probe; an answer",
        Some(("keepalive", "one probe")),
        4,
    ),
    rule(
        (Cause::KeepaliveTimeout, Class::Active),
        "the sender's last three probes or more are answered here, at an even pace, and its RST+ACK comes as long after the last one: the answers were lost behind the capture",
        "a reset that comes sooner; two probes",
        Some(("answered-beats", "sooner")),
        0,
    ),
    rule(
        (Cause::RetransmissionTimeout, Class::AfterRetransmissions),
        "three repetitions or more without an answer before an RST+ACK, or before a bare reset that answers nothing",
        "two; an acknowledgement",
        Some(("retransmissions", "twice")),
        4,
    ),
    rule(
        (Cause::RetransmissionTimeout, Class::Active),
        "three SYN-ACKs without an answer before an RST+ACK",
        "two; an answer",
        Some(("unanswered-SYN-ACKs", "two")),
        0,
    ),
    rule(
        (Cause::RetransmissionTimeout, Class::Stalled),
        "no reset; the first segment without an acknowledgement was repeated three times over 2.5 s or more: harmless if only a farewell was left, for a peer that has closed or said its own, and all of whose words had arrived",
        "an acknowledgement",
        Some(("data-without-an-answer", "acknowledged at last")),
        0,
    ),
    rule(
        (Cause::Finwait2Expired, Class::PassiveAfterFin),
        "both FINs, nothing late, and 59 s or more between the sender's FIN and the reset",
        "a shorter time; late bytes",
        Some(("FIN-WAIT-2", "a millisecond sooner")),
        0,
    ),
    rule(
        (Cause::BothClosed, Class::PassiveAfterFin),
        "both FINs, nothing late, sooner than that",
        "bytes that the FIN does not acknowledge, or that only the number of the other side's FIN shows",
        Some(("FIN-behind-lost-bytes", "as it is")),
        6,
    ),
    rule(
        (Cause::BothClosed, Class::ActiveAfterFin),
        "an RST+ACK after both sides had acknowledged each other's FIN, and nothing came after its sender's",
        "a FIN that is not acknowledged; bytes after it",
        Some(("acknowledged-FINs", "one FIN is not acknowledged")),
        0,
    ),
    rule(
        (Cause::NoAnswer, Class::Unanswered),
        "three SYNs or more over 1.8 s, and no answer",
        "a SYN-ACK; a reset; an ICMP error",
        Some(("no-answer", "refused at last")),
        1,
    ),
    rule(
        (Cause::Unreachable, Class::Unanswered),
        "SYNs, no answer, and an ICMP error about them",
        "a SYN-ACK; no error",
        Some(("unreachable", "no error")),
        2,
    ),
    rule(
        (Cause::Unreachable, Class::Stalled),
        "repeated data, never acknowledged, and an ICMP error about it that is not of its size",
        "an acknowledgement; no error",
        Some(("data-without-an-answer", "as it is")),
        0,
    ),
    rule(
        (Cause::CutShort, Class::ClosedEarly),
        "the server's FIN stands within the head of its response, before the end of the response by Content-Length or chunks, before the end of a TLS record or of a frame of HTTP/2 or WebSocket, or before END_REQUEST, or before END_STREAM on a stream of HTTP/2 whose response has begun; or the server ended such a stream by RST_STREAM, though the connection lives; every byte before it is in the capture",
        "the rest; a missing byte in the capture; the client's FIN before",
        Some(("short-by-its-Content-Length", "whole")),
        12,
    ),
    rule(
        (Cause::ClosedMidRequest, Class::ClosedEarly),
        "the server's FIN acknowledges a part of a request (of HTTP/2: one without END_STREAM, on a stream that the server's GOAWAY does not decline), and there is no response to it",
        "the rest; a response",
        Some(("no-response", "a whole body")),
        3,
    ),
    rule(
        (Cause::ClosedUnanswered, Class::ClosedEarly),
        "the server's FIN acknowledges a whole request, and there is no response to it (of HTTP/2: on a stream that the server's GOAWAY does not decline; or the server ended the stream by RST_STREAM, and not with REFUSED_STREAM)",
        "a response; the request not acknowledged; an earlier response that ends the connection; two lengths of the request",
        Some(("no-response", "after a response that ends the connection")),
        6,
    ),
    rule(
        (Cause::KeepAliveRace, Class::ClosedEarly),
        "the server's FIN acknowledges nothing of the last request, and every earlier one has its response; or only streams above the last one of the server's GOAWAY have none, and the client has that GOAWAY: harmless, since it may send them again",
        "the FIN acknowledges the request",
        Some(("keep-alive-race", "the FIN acknowledges the request")),
        3,
    ),
    rule(
        (Cause::WindowStuck, Class::Stalled),
        "the window of one side is 0 in all its last packets, over 10 s or more and through three probes",
        "an open window; a FIN",
        Some(("window-stuck", "opened at last")),
        3,
    ),
    rule(
        (Cause::BlackHole, Class::Stalled),
        "the rule of repeated data, with segments of 1,000 bytes or more, none as long ever acknowledged, while shorter pieces sent after the first of them were acknowledged selectively, or a router says that they are too big",
        "an acknowledged segment as long; a short one that is lost; no answer after the first loss",
        Some(("black-hole", "no answer")),
        2,
    ),
    rule(
        (Cause::FirewallReject, Class::AnswerToSyn),
        "a refusal whose TTL is not that of the port's SYN-ACKs, nor as many hops away: possible; likely if the same side then accepts",
        "the same TTL",
        Some(("TTL", "the answer to a SYN, another connection's SYN-ACK has the same")),
        6,
    ),
    rule(
        (Cause::FirewallReject, Class::PassiveAfterData),
        "a bare reset that answers a packet sooner than a quarter of the way to the sender and back, or with another TTL than its sender's and a second sign: a window where the sender's stack has none, text, a wrong checksum, a sender that goes on; possible by the TTL alone, where no stronger rule names a cause",
        "the same TTL; the whole way",
        Some(("too-soon", "a quarter of the way")),
        2,
    ),
    rule(
        (Cause::FirewallReject, Class::PassiveBeforeAck),
        "the same before any acknowledgement",
        "the same",
        Some(("too-soon", "a quarter of the way")),
        0,
    ),
    rule(
        (Cause::FirewallReject, Class::PassiveAfterFin),
        "the same after the sender's FIN",
        "the same",
        Some(("too-soon", "a quarter of the way")),
        0,
    ),
    rule(
        (Cause::Forged, Class::Foreign),
        "the alleged sender goes on as if it knew nothing of the reset, or a reset that answers nothing has another TTL and a second sign: no timestamps where the sender's stack has them, an identification out of order, several resets ahead of each other, an acknowledgement that comes too soon, text, a wrong checksum; certain if the sender goes on and the TTL or the identification is foreign, or if its own capture lacks it; possible by the TTL alone, where no stronger rule names a cause",
        "the same TTL and nothing after it",
        Some(("goes-on", "nothing comes after")),
        10,
    ),
    rule(
        (Cause::Forged, Class::AnswerToSyn),
        "a SYN is refused, and then accepted by the same side in the same connection",
        "nothing after the refusal",
        Some(("forged-refusal", "nothing said")),
        0,
    ),
];
