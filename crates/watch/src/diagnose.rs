//! Derives the cause of a reset from what the kernel reports about it.
//!
//! The reasons are those of `enum sk_rst_reason` in Linux 6.18 (`include/net/rstreason.h`). Where one reason covers
//! several causes, all of them become candidates.

use linger_untrusted::Untrusted;
use linger_why::{Cause, Confidence};

use crate::kernel::leftovers::Arrived;
use crate::live_reset::{AcceptQueue, Opinion};
use crate::tcp_state;

/// What is known about a sent reset in addition to the kernel's reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    /// Whether no packet triggered the reset: it was sent from a system call or a timer.
    pub(crate) active: bool,
    /// The state of the socket that sent it (`tcp_state`).
    pub(crate) state: u8,
    /// Whether a socket listens on the local port.
    pub(crate) listens: bool,
    pub(crate) queue: Option<AcceptQueue>,
    /// Seconds since this side closed the connection; `None` if it had not closed it.
    pub(crate) closed: Option<f64>,
    /// The name of the process that was running when an active reset was sent.
    pub(crate) name: Option<Untrusted>,
    /// The end of the process that was running.
    pub(crate) ending: Option<ProcessEnding>,
    /// The kernel reset the socket, as it does for data after close, just before it sent the reset (`tcp_reset`).
    pub(crate) reset_by_data: bool,
    /// What had arrived at the socket in its life.
    pub(crate) arrived: Option<Arrived>,
    /// How the listener's queue overflowed lately.
    pub(crate) overflow: Overflow,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessEnding {
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
fn by_the_end_of_a_process(reason: Option<&str>, ending: &ProcessEnding) -> Opinion {
    let word = reason.unwrap_or("no reason given");
    let unread = if word == "TCP_ABORT_ON_CLOSE" { ", with received data unread" } else { "" };
    let evidence = vec![
        ending.says.clone(),
        format!("the kernel: {word}: it closed the socket of the ending process{unread}"),
    ];
    (Cause::ProcessGone, Confidence::Certain, vec![Cause::ProcessGone], evidence)
}

/// For a reset that no packet triggered, and whose reason does not name the cause.
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
pub(crate) fn of_this_host((cause, confidence, candidates, evidence): &Opinion, how: FoundBy) -> Opinion {
    let mut evidence = evidence.clone();
    let (says, most) = match how {
        FoundBy::SameConnection => ("this host sent it itself", Confidence::Certain),
        FoundBy::SameListener => ("this host sent it itself, from the listener", Confidence::Certain),
        FoundBy::Translated => {
            ("this host sent it itself, from an address that was translated", Confidence::Likely)
        }
    };
    evidence.insert(0, says.to_owned());
    (*cause, (*confidence).min(most), candidates.clone(), evidence)
}

/// How the sender of a received reset was found on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoundBy {
    /// Both ends have the same two addresses.
    SameConnection,
    /// A listener of this host reset a connection of the port at this time; the kernel does not say which.
    SameListener,
    /// The receiver's address is the same; the sender's own address differs, as behind a published port (DNAT).
    Translated,
}

/// The likely causes of a reset that the peer sent, by the socket error that the kernel made of it (`tcp_reset`).
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

    fn on_data(context: Context) -> (Cause, Confidence, Vec<Cause>) {
        let (cause, confidence, candidates, _) = sent(Some("TCP_ABORT_ON_DATA"), &context);
        (cause, confidence, candidates)
    }

    #[test]
    fn what_had_arrived_decides_between_late_data_and_linger2() {
        use Confidence::*;
        let with = |segments, bytes, largest| {
            let arrived = Some(Arrived { segments, bytes, largest });
            on_data(Context { arrived, ..Context::default() })
        };
        let (abort, late) = ((Cause::Aborted, Certain), (Cause::DataAfterClose, Certain));
        let first = |(cause, confidence, _)| (cause, confidence);
        assert_eq!(first(with(0, 0, 536)), abort, "nothing ever arrived");
        assert_eq!(first(with(1, 0, 536)), late, "what arrived was not accepted");
        assert_eq!(first(with(1, 3, 536)), abort, "the one segment was accepted");
        assert_eq!(first(with(2, 537, 536)), abort, "one segment cannot have that many bytes");
        let open = with(2, 536, 536);
        assert_eq!(open, (Cause::DataAfterClose, Likely, vec![Cause::DataAfterClose, Cause::Aborted]));
        assert_eq!(on_data(Context::default()), open, "nothing is known");
        let reset = Context { reset_by_data: true, ..Context::default() };
        assert_eq!(first(on_data(reset)), late, "the kernel reset the socket for it");
    }

    #[test]
    fn the_end_of_a_process_is_one_only_where_a_system_call_resets() {
        let ending = Some(ProcessEnding { says: "the process x[1] ended".into() });
        let context = |active| Context { active, ending: ending.clone(), ..Context::default() };
        assert_eq!(sent(Some("TCP_ABORT_ON_CLOSE"), &context(true)).0, Cause::ProcessGone);
        assert_eq!(
            sent(Some("NO_SOCKET"), &context(false)).0,
            Cause::PortClosed,
            "a packet met nothing meanwhile"
        );
        let alive = Context { ending: None, ..context(true) };
        assert_eq!(sent(Some("TCP_ABORT_ON_CLOSE"), &alive).0, Cause::ClosedWithUnreadData);
    }

    #[test]
    fn a_listener_somewhere_is_none_where_the_packet_met_no_socket() {
        let context = Context { listens: true, ..Context::default() };
        let (cause, _, candidates, evidence) = sent(Some("NO_SOCKET"), &context);
        assert_eq!((cause, candidates[1]), (Cause::PortClosed, Cause::HalfOpen));
        assert!(evidence[0].contains("another network namespace"), "{evidence:?}");
        let closed = Context { closed: Some(1.0), ..context };
        assert_eq!(sent(Some("NO_SOCKET"), &closed).0, Cause::Finwait2Expired);
    }

    #[test]
    fn an_overflow_needs_a_full_queue_or_a_grown_counter() {
        let with = |reason, grown, resets, waiting| {
            let queue = Some(AcceptQueue { waiting, limit: 2 });
            let overflow = Overflow { grown, resets };
            let context = Context { state: tcp_state::LISTEN, queue, overflow, ..Context::default() };
            let (cause, confidence, ..) = sent(Some(reason), &context);
            (cause, confidence)
        };
        let overflow = |confidence| (Cause::AcceptQueueOverflow, confidence);
        assert_eq!(with("INVALID_SYN", 1, true, 0), overflow(Confidence::Certain));
        assert_eq!(with("INVALID_SYN", 1, false, 0), overflow(Confidence::Likely));
        assert_eq!(
            with("TCP_FLAGS", 1, true, 0),
            overflow(Confidence::Likely),
            "it may have been forgotten since"
        );
        assert_eq!(with("TCP_FLAGS", 0, true, 3), overflow(Confidence::Likely), "full");
        assert_eq!(with("TCP_FLAGS", 0, true, 2), (Cause::HalfOpen, Confidence::Likely));
    }

    #[test]
    fn only_strays_are_echoes() {
        let listening = Context { state: tcp_state::LISTEN, ..Context::default() };
        let is = |reason, context: &Context| may_be_echo(Some(reason), context, Cause::HalfOpen);
        assert!(is("NO_SOCKET", &Context::default()) && is("TCP_FLAGS", &listening));
        assert!(!is("INVALID_SYN", &listening), "an overflow's own reset");
        assert!(!is("TCP_ABORT_ON_DATA", &Context::default()) && !is("TCP_FLAGS", &Context::default()));
        let active = Context { active: true, ..Context::default() };
        assert!(!is("NO_SOCKET", &active));
    }

    #[test]
    fn a_received_reset_may_be_a_firewalls() {
        for error in [None, Some(libc::ECONNREFUSED), Some(libc::ECONNRESET)] {
            assert!(received(error).2.contains(&Cause::FirewallReject), "{error:?}");
        }
    }

    #[test]
    fn what_was_found_by_half_of_the_addresses_is_never_certain() {
        let certain = (Cause::Aborted, Confidence::Certain, vec![Cause::Aborted], Vec::new());
        let confidence = |how| of_this_host(&certain, how).1;
        assert_eq!(confidence(FoundBy::SameConnection), Confidence::Certain);
        assert_eq!(confidence(FoundBy::Translated), Confidence::Likely);
    }
}
