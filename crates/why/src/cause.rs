//! The names in a verdict: what the wire proves (class), why the reset was sent (cause), and how sure that is (confidence). When
//! each is named is decided in `reset`, and in `no_reset` for connections that failed without a reset.

pub(crate) mod no_reset;
pub(crate) mod reset;

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a reset was sent, or why a connection failed without one. The kebab-case names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// The accept queue was full: silently, with `tcp_abort_on_overflow`, or behind SYN cookies.
    AcceptQueueOverflow,
    /// `close()` while bytes of the peer were unread: the kernel resets and drops the send queue.
    ClosedWithUnreadData,
    /// Bytes arrived after `close()` or `shutdown()` of the read side, or after the end of the process.
    DataAfterClose,
    /// The owner asked for it: `SO_LINGER` with 0, `ss -K`, or an application's abort.
    Aborted,
    /// Nobody listens on the port.
    PortClosed,
    /// The process ended, or its listener was closed, with connections open.
    ProcessGone,
    /// One side has no memory of the connection: a restart, a moved address, an expired state.
    HalfOpen,
    /// The side that opened the connection ended it before it had the answer.
    ClientGaveUp,
    /// Keepalive probes went unanswered.
    KeepaliveTimeout,
    /// Data went unacknowledged until the sender gave up.
    RetransmissionTimeout,
    /// The orphaned socket in FIN-WAIT-2 was dropped before the peer closed.
    Finwait2Expired,
    /// Both sides had closed; a last FIN or acknowledgement met a socket that was gone.
    BothClosed,
    /// SYNs that nobody answered.
    NoAnswer,
    /// A router or the host reported that the packets cannot be delivered.
    Unreachable,
    /// The server ended a response, or a record, before it was whole by its own length.
    CutShort,
    /// The server closed in the middle of a request.
    ClosedMidRequest,
    /// The server closed in place of a response.
    ClosedUnanswered,
    /// A request crossed the FIN with which the server closed a connection at rest.
    KeepAliveRace,
    /// The reader's window closed and did not open again.
    WindowStuck,
    /// Long segments are lost where short ones pass.
    BlackHole,
    /// A firewall answered in the host's name.
    FirewallReject,
    /// The alleged sender did not send it: a middlebox or an attacker did.
    Forged,
    /// More than one cause remains, or none fits.
    Unknown,
}

/// What the wire alone proves about a reset, or about a failure without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Class {
    /// The reset answered a SYN.
    AnswerToSyn,
    /// The reset answered a SYN-ACK, or an acknowledgement out of place during the handshake.
    AnswerToSynAck,
    /// An answer to a packet, before the sender had acknowledged any data.
    PassiveBeforeAck,
    /// An answer to a packet, after data had been acknowledged.
    PassiveAfterData,
    /// An answer to a packet that came after the sender's own FIN.
    PassiveAfterFin,
    /// The sender's own decision: no packet asked for it.
    Active,
    /// The sender's own decision, after its own FIN.
    ActiveAfterFin,
    /// The sender's own decision, after its keepalive probes went unanswered.
    AfterKeepalive,
    /// The sender's own decision, after its data went unacknowledged.
    AfterRetransmissions,
    /// There is no reset: SYNs, or a whole handshake, got no answer.
    Unanswered,
    /// There is no reset, and the connection opened at last: SYNs got no answer for a time.
    OpenedLate,
    /// There is no reset: a FIN came before all was said.
    ClosedEarly,
    /// There is no reset: nothing moves any more.
    Stalled,
    /// The reset does not fit the connection to which it claims to belong.
    Foreign,
}

/// How sure a cause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Confidence {
    /// The cause fits the packets, and so do others.
    Possible,
    /// The cause fits the packets best; the other causes that fit are rarer.
    Likely,
    /// Nothing else explains the packets.
    Certain,
}

impl Cause {
    /// Every cause, in the order of the documentation.
    pub const ALL: [Self; 23] = [
        Self::AcceptQueueOverflow,
        Self::ClosedWithUnreadData,
        Self::DataAfterClose,
        Self::Aborted,
        Self::PortClosed,
        Self::ProcessGone,
        Self::HalfOpen,
        Self::ClientGaveUp,
        Self::KeepaliveTimeout,
        Self::RetransmissionTimeout,
        Self::Finwait2Expired,
        Self::BothClosed,
        Self::NoAnswer,
        Self::Unreachable,
        Self::CutShort,
        Self::ClosedMidRequest,
        Self::ClosedUnanswered,
        Self::KeepAliveRace,
        Self::WindowStuck,
        Self::BlackHole,
        Self::FirewallReject,
        Self::Forged,
        Self::Unknown,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcceptQueueOverflow => "accept-queue-overflow",
            Self::ClosedWithUnreadData => "closed-with-unread-data",
            Self::DataAfterClose => "data-after-close",
            Self::Aborted => "aborted",
            Self::PortClosed => "port-closed",
            Self::ProcessGone => "process-gone",
            Self::HalfOpen => "half-open",
            Self::ClientGaveUp => "client-gave-up",
            Self::KeepaliveTimeout => "keepalive-timeout",
            Self::RetransmissionTimeout => "retransmission-timeout",
            Self::Finwait2Expired => "finwait2-expired",
            Self::BothClosed => "both-closed",
            Self::NoAnswer => "no-answer",
            Self::Unreachable => "unreachable",
            Self::CutShort => "cut-short",
            Self::ClosedMidRequest => "closed-mid-request",
            Self::ClosedUnanswered => "closed-unanswered",
            Self::KeepAliveRace => "keep-alive-race",
            Self::WindowStuck => "window-stuck",
            Self::BlackHole => "black-hole",
            Self::FirewallReject => "firewall-reject",
            Self::Forged => "forged",
            Self::Unknown => "unknown",
        }
    }

    /// What happened, in one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::AcceptQueueOverflow => {
                "The listener's accept queue was full: the kernel dropped SYNs, or the last step of the handshake, so that \
                 the client believed it was connected."
            }
            Self::ClosedWithUnreadData => {
                "The application closed the socket while bytes of the peer lay unread: the kernel reset the \
                 connection and threw away what it had not sent yet."
            }
            Self::DataAfterClose => {
                "Bytes arrived after the application had closed the socket, or had ended: the kernel answers them \
                 with a reset."
            }
            Self::Aborted => {
                "The owner of the socket asked for a reset: SO_LINGER with 0 seconds, an administrator's ss -K, or \
                 an application's abort."
            }
            Self::PortClosed => "Nobody listens on that port of that host.",
            Self::ProcessGone => "The process ended, or closed its listener, while connections were open.",
            Self::HalfOpen => {
                "One side has no memory of the connection: it restarted, its address moved, or a state table \
                 between them forgot it."
            }
            Self::ClientGaveUp => "The client closed, aborted or died before it had the whole answer.",
            Self::KeepaliveTimeout => "Keepalive probes went unanswered: the peer or the path was gone.",
            Self::RetransmissionTimeout => "Data was sent again and again, and nobody acknowledged it.",
            Self::Finwait2Expired => {
                "One side closed, the other kept its half open so long that the kernel forgot the connection."
            }
            Self::BothClosed => {
                "Both sides had closed; the last FIN or its acknowledgement met a socket that was gone already."
            }
            Self::NoAnswer => {
                "Nobody answered the client's SYNs: a rule dropped them, the host was away, or its accept queue was full."
            }
            Self::Unreachable => {
                "A router or the host itself reported by ICMP that the packets cannot be delivered."
            }
            Self::CutShort => {
                "The server closed before its response was whole by the response's own length: the client has a part, \
                 or takes the part for the whole."
            }
            Self::ClosedMidRequest => {
                "The server closed while the client was sending a request, and had answered nothing."
            }
            Self::ClosedUnanswered => {
                "The server closed in place of a response: the whole request had arrived."
            }
            Self::KeepAliveRace => {
                "The server closed a connection at rest, and the client's next request was on its way: it got no \
                 response."
            }
            Self::WindowStuck => {
                "The reader stopped reading: its window closed, and did not open again while the capture lasts."
            }
            Self::BlackHole => {
                "Full segments are lost where short ones pass: a link on the path takes smaller packets only, and the \
                 sender is not told."
            }
            Self::FirewallReject => {
                "A firewall on the path or on the host answered with a reset in the host's name."
            }
            Self::Forged => {
                "The alleged sender did not send this reset: a box between the two ends, or an attacker, did."
            }
            Self::Unknown => "This capture alone cannot tell the causes apart.",
        }
    }
}

impl Class {
    /// Every class, in the order of the documentation.
    pub const ALL: [Self; 14] = [
        Self::AnswerToSyn,
        Self::AnswerToSynAck,
        Self::PassiveBeforeAck,
        Self::PassiveAfterData,
        Self::PassiveAfterFin,
        Self::Active,
        Self::ActiveAfterFin,
        Self::AfterKeepalive,
        Self::AfterRetransmissions,
        Self::Foreign,
        Self::Unanswered,
        Self::OpenedLate,
        Self::ClosedEarly,
        Self::Stalled,
    ];

    /// Whether there was a reset.
    pub fn is_reset(self) -> bool {
        !matches!(self, Self::Unanswered | Self::OpenedLate | Self::ClosedEarly | Self::Stalled)
    }

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::AnswerToSyn => "answer-to-syn",
            Self::AnswerToSynAck => "answer-to-syn-ack",
            Self::PassiveBeforeAck => "passive-before-ack",
            Self::PassiveAfterData => "passive-after-data",
            Self::PassiveAfterFin => "passive-after-fin",
            Self::Active => "active",
            Self::ActiveAfterFin => "active-after-fin",
            Self::AfterKeepalive => "after-keepalive",
            Self::AfterRetransmissions => "after-retransmissions",
            Self::Unanswered => "unanswered",
            Self::OpenedLate => "opened-late",
            Self::ClosedEarly => "closed-early",
            Self::Stalled => "stalled",
            Self::Foreign => "foreign",
        }
    }
}

impl Confidence {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Confidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_json_agree() {
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_string(&cause).unwrap(), format!("\"{cause}\""));
        }
    }
}
