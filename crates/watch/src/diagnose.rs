//! Derives the cause of a reset from what the kernel reports about it.
//!
//! The reasons are those of `enum sk_rst_reason` in Linux 6.18 (`include/net/rstreason.h`). Where one reason covers
//! several causes, all of them become candidates.

use std::net::SocketAddr;

use linger_untrusted::Untrusted;
use linger_why::{Cause, Confidence, Remedy};
use serde::Serialize;

use crate::bytes::Bytes;
use crate::process::NamedProcess;
use crate::tcp_state;

/// Whether this host sent or received a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Direction {
    /// This host sent the reset.
    Sent,
    /// This host received the reset.
    Received,
}

impl Direction {
    /// The name in lines, labels and JSON; it does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// The accept queue of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AcceptQueue {
    /// Connections that wait for `accept`.
    pub waiting: u32,
    /// The limit. The kernel accepts one more than `listen`'s backlog (`sk_acceptq_is_full`).
    pub limit: u32,
}

impl AcceptQueue {
    /// Whether the kernel turns the next connection away.
    pub fn is_full(self) -> bool {
        self.waiting > self.limit
    }

    /// Whether the queue is at four fifths of its limit or more.
    pub fn is_near_its_limit(self) -> bool {
        u64::from(self.waiting) * 5 >= (u64::from(self.limit) + 1) * 4
    }
}

/// A reset that this host sent or received.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct LiveReset {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub time_seconds: f64,
    /// Whether this host sent or received it.
    pub direction: Direction,
    /// This host's end.
    pub local: SocketAddr,
    /// The other end; `None` if the kernel does not say.
    pub remote: Option<SocketAddr>,
    /// The most likely cause.
    pub cause: Cause,
    /// How sure the cause is.
    pub confidence: Confidence,
    /// All causes that fit, `cause` included.
    pub candidates: Vec<Cause>,
    /// The kernel's name of the reason, such as `TCP_ABORT_ON_CLOSE`; `None` before Linux 6.10.
    pub reason: Option<String>,
    /// The TCP state of the socket at that moment.
    pub state: Option<&'static str>,
    /// The process that closed or aborted the connection, that held it, or that listens on the port.
    pub process: Option<NamedProcess>,
    /// The bytes that were unread or unacknowledged.
    #[serde(flatten)]
    pub bytes: Bytes,
    /// The accept queue, if the reset concerns a listener.
    pub listener: Option<AcceptQueue>,
    /// The observations that the cause rests on.
    pub evidence: Vec<String>,
    /// What to do about the cause.
    pub remedy: Remedy,
}

/// What is known about a sent reset in addition to the kernel's reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub(crate) active: bool,
    pub(crate) state: u8,
    /// Whether a socket listens on the local port.
    pub(crate) listens: bool,
    pub(crate) queue: Option<AcceptQueue>,
    /// Seconds since this side closed the connection; `None` if it had not closed it.
    pub(crate) closed: Option<f64>,
    /// The name of the process that was running when an active reset was sent.
    pub(crate) name: Option<Untrusted>,
}

pub(crate) type Opinion = (Cause, Confidence, Vec<Cause>, Vec<String>);

/// The cause of a reset that this host sent.
pub(crate) fn sent(reason: Option<&str>, context: &Context) -> Opinion {
    use Cause::*;
    use Confidence::*;
    let opinion = |cause: Cause, confidence, others: &[Cause], says: &str| {
        let mut candidates = vec![cause];
        candidates.extend_from_slice(others);
        (cause, confidence, candidates, vec![says.to_owned()])
    };
    match reason {
        Some("TCP_ABORT_ON_CLOSE") => {
            opinion(ClosedWithUnreadData, Certain, &[], "the kernel: close() while received data was unread")
        }
        Some("TCP_ABORT_ON_DATA") => {
            opinion(DataAfterClose, Certain, &[], "the kernel: data arrived after the socket was closed")
        }
        Some("TCP_ABORT_ON_LINGER") => {
            opinion(Aborted, Certain, &[], "the kernel: SO_LINGER with a negative timeout, set by TCP_LINGER2")
        }
        Some("TCP_KEEPALIVE_TIMEOUT") => {
            opinion(KeepaliveTimeout, Certain, &[], "the kernel: keepalive probes went unanswered")
        }
        Some("TCP_DISCONNECT_WITH_DATA") => {
            opinion(Aborted, Likely, &[], "the kernel: disconnected with data unsent, as SO_LINGER 0 does")
        }
        Some("TCP_ABORT_ON_MEMORY") => (
            Unknown,
            Possible,
            vec![Aborted, RetransmissionTimeout],
            vec!["the kernel: too many orphaned sockets or too little memory for TCP (tcp_max_orphans, tcp_mem)".into()],
        ),
        Some("TCP_TIMEWAIT_SOCKET") => opinion(
            DataAfterClose,
            Likely,
            &[Finwait2Expired],
            "the kernel: a packet for a connection in TIME-WAIT or orphaned FIN-WAIT-2",
        ),
        _ if context.active => active(reason, context),
        Some("NO_SOCKET") => no_socket(context),
        _ if context.state == tcp_state::LISTEN => at_listener(reason, context),
        Some(
            word @ ("TCP_INVALID_ACK_SEQUENCE" | "TCP_TOO_OLD_ACK" | "TCP_ACK_UNSENT_DATA" | "TCP_OLD_ACK" | "TCP_FLAGS"
            | "INVALID_SYN" | "TCP_STATE"),
        ) => opinion(
            HalfOpen,
            Likely,
            &[AcceptQueueOverflow, DataAfterClose],
            &format!("the kernel: {word}: the packet belongs to no state this side knows"),
        ),
        Some(word) => (Unknown, Possible, vec![HalfOpen, DataAfterClose], vec![format!("the kernel: {word}")]),
        None => (
            Unknown,
            Possible,
            vec![HalfOpen, DataAfterClose, PortClosed, AcceptQueueOverflow],
            vec!["an answer to a packet; this kernel gives no reason".into()],
        ),
    }
}

/// For a reset sent within a system call.
fn active(reason: Option<&str>, context: &Context) -> Opinion {
    use Cause::*;
    use Confidence::*;
    if context.name.as_ref().is_some_and(|name| *name == *"ss") {
        return (
            Aborted,
            Certain,
            vec![Aborted],
            vec!["an administrator's ss -K destroyed the socket".into()],
        );
    }
    let word = reason.unwrap_or("no reason given");
    let evidence = vec![format!(
        "the kernel: {word}, from a system call: SO_LINGER 0, a killed socket, or a listener closed with a queue"
    )];
    match reason {
        Some("TCP_STATE") => (Aborted, Likely, vec![Aborted, ProcessGone], evidence),
        _ => {
            (Unknown, Possible, vec![ClosedWithUnreadData, Aborted, ProcessGone, KeepaliveTimeout], evidence)
        }
    }
}

fn no_socket(context: &Context) -> Opinion {
    use Cause::*;
    use Confidence::*;
    if let Some(seconds) = context.closed {
        return (
            Finwait2Expired,
            Possible,
            vec![Finwait2Expired, DataAfterClose],
            vec![format!("no socket: this side had closed the connection {seconds:.1} s before")],
        );
    }
    if context.listens {
        return (
            HalfOpen,
            Likely,
            vec![HalfOpen, DataAfterClose, Finwait2Expired],
            vec![
                "no socket, though somebody listens on the port: a packet of a connection nobody remembers"
                    .into(),
            ],
        );
    }
    (
        PortClosed,
        Likely,
        vec![PortClosed, HalfOpen, ProcessGone],
        vec!["no socket, and nobody listens on the port".into()],
    )
}

fn at_listener(reason: Option<&str>, context: &Context) -> Opinion {
    use Cause::*;
    use Confidence::*;
    let word = reason.unwrap_or("no reason given");
    let mut evidence = vec![format!("the kernel: {word} at a listener")];
    let Some(queue) = context.queue else {
        return (Unknown, Possible, vec![AcceptQueueOverflow, HalfOpen], evidence);
    };
    evidence.push(format!("its accept queue held {} of {}", queue.waiting, queue.limit));
    if queue.is_full() {
        (AcceptQueueOverflow, Likely, vec![AcceptQueueOverflow, HalfOpen], evidence)
    } else {
        (Unknown, Possible, vec![HalfOpen, AcceptQueueOverflow], evidence)
    }
}

/// The cause of a received reset whose sender is on this host too, so that its reason is known.
pub(crate) fn of_this_host((cause, confidence, candidates, evidence): &Opinion) -> Opinion {
    let mut evidence = evidence.clone();
    evidence.insert(0, "this host sent it itself".to_owned());
    (*cause, *confidence, candidates.clone(), evidence)
}

/// The causes for which a peer may have sent a reset, by the socket error that the kernel derived from it.
pub(crate) fn received(error: Option<i32>) -> Opinion {
    use Cause::*;
    use Confidence::*;
    match error {
        Some(libc::ECONNREFUSED) => (
            PortClosed,
            Likely,
            vec![PortClosed, FirewallReject, AcceptQueueOverflow],
            vec!["ECONNREFUSED: it answered our SYN".into()],
        ),
        Some(libc::EPIPE) => (
            DataAfterClose,
            Likely,
            vec![DataAfterClose, ClosedWithUnreadData],
            vec!["EPIPE: the peer had closed its side before".into()],
        ),
        _ => (
            Unknown,
            Possible,
            vec![ClosedWithUnreadData, Aborted, ProcessGone, HalfOpen, AcceptQueueOverflow, Forged],
            vec![
                "the peer reset the connection; why is known there only, by its kernel or from a capture"
                    .into(),
            ],
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_name_several_causes_stay_candidates() {
        let active = Context { active: true, ..Context::default() };
        let (cause, confidence, candidates, _) = sent(Some("TCP_STATE"), &active);
        assert_eq!((cause, confidence), (Cause::Aborted, Confidence::Likely));
        assert!(candidates.contains(&Cause::ProcessGone), "a listener closed with a queue looks the same");
        let (cause, ..) = sent(None, &active);
        assert_eq!(cause, Cause::Unknown, "without a reason nothing is certain");
    }

    #[test]
    fn a_backlog_of_n_holds_one_more() {
        let queue = |waiting| AcceptQueue { waiting, limit: 4 };
        assert!(!queue(4).is_full() && queue(5).is_full());
        assert!(!queue(3).is_near_its_limit() && queue(4).is_near_its_limit());
    }
}
