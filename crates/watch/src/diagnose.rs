//! Derives the cause of a reset from what the kernel reports about it.
//!
//! The reasons are those of `enum sk_rst_reason` in Linux 6.18 (`include/net/rstreason.h`). Where one reason covers
//! several causes, all of them become candidates.

use std::net::SocketAddr;

use linger_untrusted::Untrusted;
use linger_why::{Cause, Confidence, Remedy};
use serde::Serialize;

use crate::bytes::Bytes;
use crate::cgroup::Workload;
use crate::kernel::leftovers::Arrived;
use crate::namespaces::NamespaceId;
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

/// What a process has to do with a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// The process closed or aborted the connection, or ended: the reset is its doing.
    Closed,
    /// The process held the connection, which its peer reset.
    Held,
    /// The process listens on the port. The kernel answered in its place.
    Listens,
}

impl Role {
    /// The name in JSON; it does not change between versions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Held => "held",
            Self::Listens => "listens",
        }
    }

    /// The words before the process in a line of text.
    pub fn words(self) -> &'static str {
        match self {
            Self::Closed => "by",
            Self::Held => "held by",
            Self::Listens => "listener",
        }
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
    /// The process concerned; see `role`.
    pub process: Option<NamedProcess>,
    /// What `process` has to do with the reset.
    pub role: Option<Role>,
    /// The network namespace of this host's end, if it is known.
    pub namespace: Option<NamespaceId>,
    /// Whether that is the namespace of the watcher itself.
    pub is_own_namespace: bool,
    /// The namespaces that it may be, if it is not known: at most 16 of those with the local address.
    pub namespace_candidates: Vec<NamespaceId>,
    /// The namespace's name (`ip netns`, Docker), if it has one.
    pub namespace_name: Option<Untrusted>,
    /// The workload of the process, or of the namespace if no process is known.
    pub workload: Option<Workload>,
    /// How many connections this notice stands for: more than one if a process ended with several.
    pub connections: u32,
    /// Further resets for packets that the peer sent before it knew of this one, as far as seen by now.
    pub further_resets: u32,
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

impl LiveReset {
    pub(crate) fn set(&mut self, (cause, confidence, candidates, evidence): Opinion) {
        (self.cause, self.confidence, self.candidates, self.evidence) =
            (cause, confidence, candidates, evidence);
        self.remedy = cause.remedy();
    }

    pub(crate) fn opinion(&self) -> Opinion {
        (self.cause, self.confidence, self.candidates.clone(), self.evidence.clone())
    }
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
    /// The end of the process that was running.
    pub(crate) ending: Option<Ending>,
    /// The kernel reset the socket, as it does for data after close, just before it sent the reset (`tcp_reset`).
    pub(crate) reset_by_data: bool,
    /// What had arrived at the socket in its life.
    pub(crate) arrived: Option<Arrived>,
    /// How the listener's queue overflowed lately.
    pub(crate) overflow: Overflow,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The evidence, in words.
    pub(crate) says: String,
}

/// What the counters of a network namespace say of full accept queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overflow {
    /// How much `ListenOverflows` has grown in the time that an unaccepted connection lives.
    pub(crate) grown: u64,
    /// `tcp_abort_on_overflow`: the kernel resets what it cannot queue.
    pub(crate) resets: bool,
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
    if let Some(ending) = context.ending.as_ref().filter(|_| context.active) {
        return by_the_end_of_a_process(reason, ending);
    }
    match reason {
        Some("TCP_ABORT_ON_CLOSE") => {
            opinion(ClosedWithUnreadData, Certain, &[], "the kernel: close() while received data was unread")
        }
        Some("TCP_ABORT_ON_DATA") => aborted_on_data(context),
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

/// `TCP_ABORT_ON_DATA` stands for two events of an orphaned socket. Data arrived, or its FIN was acknowledged while
/// `TCP_LINGER2` is negative, which needs no data at all (`tcp_rcv_state_process`, TCP_FIN_WAIT1).
fn aborted_on_data(context: &Context) -> Opinion {
    use Cause::*;
    use Confidence::*;
    let data = "the kernel: data arrived after the socket was closed";
    if context.reset_by_data {
        return (DataAfterClose, Certain, vec![DataAfterClose], vec![data.into()]);
    }
    match context.arrived {
        // All of the segments are needed for the accepted bytes, so that none came after the close.
        Some(Arrived { segments, bytes, largest })
            if segments == 0 || bytes > u64::from(segments - 1) * u64::from(largest) =>
        {
            let evidence = format!(
                "the kernel: TCP_ABORT_ON_DATA as the FIN was acknowledged, and no data came late ({segments} segments of \
                 data, {bytes} bytes accepted): TCP_LINGER2 is negative"
            );
            (Aborted, Certain, vec![Aborted], vec![evidence])
        }
        Some(Arrived { bytes: 0, .. }) => (DataAfterClose, Certain, vec![DataAfterClose], vec![data.into()]),
        _ => (
            DataAfterClose,
            Likely,
            vec![DataAfterClose, Aborted],
            vec![
                "the kernel: TCP_ABORT_ON_DATA as the FIN was acknowledged: by a packet with late data, or TCP_LINGER2 is \
                 negative"
                    .into(),
            ],
        ),
    }
}

/// For a reset sent because the process ended: the kernel closed its sockets.
fn by_the_end_of_a_process(reason: Option<&str>, ending: &Ending) -> Opinion {
    let word = reason.unwrap_or("no reason given");
    let unread = if word == "TCP_ABORT_ON_CLOSE" { ", with received data unread" } else { "" };
    let evidence = vec![
        ending.says.clone(),
        format!("the kernel: {word}: it closed the socket of the ending process{unread}"),
    ];
    (Cause::ProcessGone, Confidence::Certain, vec![Cause::ProcessGone], evidence)
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
        // `__inet_lookup_skb` would have found the listener: a SYN makes a connection there, and other packets are
        // answered in its name, in state LISTEN.
        return (
            PortClosed,
            Likely,
            vec![PortClosed, HalfOpen, ProcessGone],
            vec![
                "no socket: nobody listened where the packet arrived; the listener on this port is of another network \
                 namespace or interface, or newer"
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

/// For a reset in the name of a listener. `INVALID_SYN` is what `tcp_check_req` answers to the handshake's last packet if
/// the queue is full and `tcp_abort_on_overflow` is set; `TCP_FLAGS` answers a packet of no connection.
fn at_listener(reason: Option<&str>, context: &Context) -> Opinion {
    use Cause::*;
    use Confidence::*;
    let word = reason.unwrap_or("no reason given");
    let mut evidence = vec![format!("the kernel: {word} at a listener")];
    if let Some(queue) = context.queue {
        evidence.push(format!("its accept queue held {} of {}", queue.waiting, queue.limit));
    }
    let Overflow { grown, resets } = context.overflow;
    if grown > 0 {
        evidence.push(format!("ListenOverflows grew by {grown}"));
    }
    let is_full = context.queue.is_some_and(AcceptQueue::is_full);
    if word == "INVALID_SYN" && resets && grown > 0 {
        evidence.push("tcp_abort_on_overflow is 1".into());
        (AcceptQueueOverflow, Certain, vec![AcceptQueueOverflow], evidence)
    } else if is_full || grown > 0 {
        (AcceptQueueOverflow, Likely, vec![AcceptQueueOverflow, HalfOpen], evidence)
    } else {
        (HalfOpen, Likely, vec![HalfOpen, AcceptQueueOverflow, DataAfterClose], evidence)
    }
}

/// Whether a reset may answer a packet of a connection that was reset before: a packet that belongs to no connection now.
pub(crate) fn may_be_echo(reason: Option<&str>, context: &Context, cause: Cause) -> bool {
    let is_stray = match reason {
        Some("NO_SOCKET" | "TCP_TIMEWAIT_SOCKET") => true,
        // What an overflow makes of the handshake's last packet is a reset of its own.
        Some("INVALID_SYN") => false,
        _ => context.state == tcp_state::LISTEN,
    };
    is_stray && !context.active && cause != Cause::Unknown
}

/// The cause of a received reset whose sender is on this host too, so that its reason is known.
pub(crate) fn of_this_host((cause, confidence, candidates, evidence): &Opinion, how: Origin) -> Opinion {
    let mut evidence = evidence.clone();
    let (says, most) = match how {
        Origin::SameConnection => ("this host sent it itself", Confidence::Certain),
        Origin::SameListener => ("this host sent it itself, from the listener", Confidence::Certain),
        Origin::Translated => {
            ("this host sent it itself, from an address that was translated", Confidence::Likely)
        }
    };
    evidence.insert(0, says.to_owned());
    (*cause, (*confidence).min(most), candidates.clone(), evidence)
}

/// How the sender of a received reset was found on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Both ends have the same two addresses.
    SameConnection,
    /// A listener of this host reset a connection of the port at this time; the kernel does not say which.
    SameListener,
    /// The receiver's address is the same; the sender's own address differs, as behind a published port (DNAT).
    Translated,
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
            vec![
                ClosedWithUnreadData,
                Aborted,
                ProcessGone,
                HalfOpen,
                AcceptQueueOverflow,
                FirewallReject,
                Forged,
            ],
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
