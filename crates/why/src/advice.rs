//! Advice as data: the further evidence that would decide between causes, and the remedy of a cause. [`Tools`] names
//! the reader's tools when advice is put into words.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::Cause;

/// The names of the tools that the reader of a report has, as the reporting program calls them. A field is `None` if
/// the reader has no such tool; the report then names what every Linux host has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tools {
    /// Shows resets live, with the kernel's reason for each.
    pub live: Option<&'static str>,
    /// A library that gives a server a lingering close.
    pub library: Option<&'static str>,
    /// Gives an unmodified program a lingering close.
    pub wrapper: Option<&'static str>,
    /// The option that sets how many connections are remembered at once.
    pub remember: Option<&'static str>,
    /// The option that lists the connections that a report only counts.
    pub list: Option<&'static str>,
    /// Reports on the packets of one address, port and time only.
    pub select: Option<&'static str>,
}

/// A further capture or fact that would decide between the causes that remain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NextEvidence {
    /// Another capture, which has what this one lacks.
    Capture(Capture),
    /// A trace of the server's kernel while it happens: on the wire these causes look the same.
    Live(Alike),
    /// What a host's administrator can look up.
    Host(Host),
}

/// A capture that would decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capture {
    /// At the client.
    Client,
    /// At the server: a reset that a firewall sent in its name is not in that capture.
    Server,
    /// At the alleged sender: a forged reset is not in that capture.
    AllegedSender,
    /// At the sender, beginning before its FIN.
    SenderBeforeFin,
    /// At the sender, to see its own FIN or reset that was lost on the way.
    SenderGoodbye,
    /// At the other end, to see in which direction packets are lost.
    OtherEnd,
    /// A capture of both directions.
    BothDirections,
    /// A capture of both directions, from the connection's beginning.
    Beginning,
}

/// Causes that look alike on the wire, but not in the server's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Alike {
    /// An abort of one connection, and a listener closed with connections in its queue.
    AbortOrListener,
    /// An abort by `SO_LINGER` 0, by `ss -K`, and of a killed process.
    Aborts,
    /// An abort, and a close with unread data, if other evidence speaks for the close.
    UnreadLikely,
    /// An abort, and a close with unread data.
    AbortOrUnread,
}

/// What somebody at a host can look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Host {
    /// The client's timeout and log.
    ClientLog,
    /// The client's timeout, and its process.
    ClientProcess,
    /// Whether the client's program had read all before it closed.
    ClientRead,
    /// Whether the client's process cancelled its `connect()`.
    ClientConnect,
    /// The load balancer's log.
    BalancerLog,
    /// The load balancer's log, or a capture on its other side.
    BalancerOtherSide,
    /// The service's journal.
    Journal,
    /// Whether the service restarted, or its accept queue was full.
    RestartOrOverflow,
    /// Whether anybody listens, or a firewall answers.
    Listener,
    /// The counters of a full accept queue.
    AcceptQueue,
    /// The counters of SYN cookies.
    SynCookies,
    /// The counters of a full accept queue, and `tcp_abort_on_overflow`.
    AbortOnOverflow,
    /// `tcp_fin_timeout` and `tcp_max_orphans`.
    FinTimeout,
    /// The host that sent an ICMP error: its routes and rules.
    Reporter,
    /// The server's own log of that request.
    ServerLog,
    /// The idle timeouts of both sides.
    IdleTimeouts,
    /// What the program that should read was doing.
    Reader,
    /// The path MTU, asked with packets that must not be fragmented.
    PathMtu,
}

/// What to do about a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Nothing is to be done, because nothing was lost.
    Nothing,
    /// What helps against the cause.
    Against(Cause),
    /// Decide the cause first; also the remedy for unread data, in case it was that.
    DecideFirst,
}

impl Cause {
    /// What to do about it.
    pub fn remedy(self) -> Remedy {
        Remedy::Against(self)
    }
}

impl NextEvidence {
    /// What to get, as the end of a sentence.
    pub fn words(self, tools: &Tools) -> String {
        match self {
            Self::Capture(capture) => capture.words().into(),
            Self::Live(alike) => alike.words(tools.live),
            Self::Host(host) => host.words().into(),
        }
    }
}

impl Capture {
    fn words(self) -> &'static str {
        match self {
            Self::Client => "a capture at the client",
            Self::Server => "a capture at the server: a firewall's answer is not in it",
            Self::AllegedSender => "a capture at the alleged sender: a forged reset is not in it",
            Self::SenderBeforeFin => "a capture at the sender of the reset, from before its FIN",
            Self::SenderGoodbye => {
                "a capture at the sender: a FIN or reset of its own that never arrived would explain it"
            }
            Self::OtherEnd => "a capture at the other end, to see which way the packets are lost",
            Self::BothDirections => "a capture that holds both directions",
            Self::Beginning => "a capture that holds the connection from its beginning, both directions",
        }
    }
}

impl Alike {
    fn words(self, live: Option<&str>) -> String {
        const TRACEPOINT: &str = "the tcp_send_reset tracepoint";
        let tool = live.unwrap_or(TRACEPOINT);
        match self {
            Self::AbortOrListener => {
                format!(
                    "the server's log, or {tool} there: a listener closed with a full queue looks the same"
                )
            }
            Self::Aborts => {
                format!("{tool} at the server: an abort, ss -K and a killed socket look the same on the wire")
            }
            Self::UnreadLikely => format!("{tool} at the server: TCPAbortOnClose for unread data"),
            Self::AbortOrUnread => {
                let or = live.map_or(String::new(), |_| format!(" (or {TRACEPOINT})"));
                format!(
                    "{tool}{or} at the server: on the wire an abort and a close with unread data are the same"
                )
            }
        }
    }
}

impl Host {
    fn words(self) -> &'static str {
        match self {
            Self::ClientLog => "the client's timeout and log",
            Self::ClientProcess => "the client's timeout, and the process at the client",
            Self::ClientRead => {
                "whether the client's program had read it: close() with unread data sends this reset"
            }
            Self::ClientConnect => {
                "whether a process at the client cancelled its connect(), or none ever asked (a scan, a spoofed \
                 address)"
            }
            Self::BalancerLog => "the load balancer's log",
            Self::BalancerOtherSide => "the load balancer's log, or a capture on its other side",
            Self::Journal => "the service's journal at that time",
            Self::RestartOrOverflow => {
                "whether the service restarted, or ListenOverflows (some systems refuse when the queue is full)"
            }
            Self::Listener => {
                "`ss -ltn` on the host; a firewall there that rejects with tcp-reset looks the same"
            }
            Self::AcceptQueue => "ListenOverflows in `nstat -az` on the server, or `ss -ltn` at that time",
            Self::SynCookies => "TCPReqQFullDoCookies, SyncookiesFailed and ListenOverflows on the server",
            Self::AbortOnOverflow => "ListenOverflows and net.ipv4.tcp_abort_on_overflow on the server",
            Self::FinTimeout => "tcp_fin_timeout and tcp_max_orphans on the host that reset",
            Self::Reporter => "the routes and rules of the host that sent the ICMP error",
            Self::ServerLog => "the server's log of that request: an error, a timeout or a worker's end",
            Self::IdleTimeouts => "the idle timeouts of the server and of the client's pool",
            Self::Reader => "what the reading program was doing (`ss -tmp` shows its full receive queue)",
            Self::PathMtu => "`tracepath` or `ping -M do -s 1400` from the sender to the receiver",
        }
    }
}

impl Remedy {
    /// What to do, in one or two sentences.
    pub fn words(self, tools: &Tools) -> String {
        match self {
            Self::Nothing => "Nothing was lost; no action is needed.".into(),
            Self::Against(Cause::ClosedWithUnreadData) => format!(
                "Let the server end with a lingering close: half-close, read on until the client closes or a bound \
                 is reached, then close ({}).",
                lingering(tools)
            ),
            Self::Against(Cause::DataAfterClose) => format!(
                "If a request was lost to an idle keep-alive connection: let the client's idle timeout be the \
                 shorter one, and repeat safe requests. If an upload was cut off by an early answer: end with a \
                 lingering close{}.",
                tools.wrapper.map_or(String::new(), |wrapper| format!(" ({wrapper})"))
            ),
            Self::Against(Cause::Unknown) => format!(
                "Take the further capture named below, or {} on the host that reset.",
                tools.live.map_or("trace tcp_send_reset".into(), |live| format!("run {live}"))
            ),
            Self::Against(cause) => against(cause).into(),
            Self::DecideFirst => format!(
                "{} If it is unread data: {}",
                Self::Against(Cause::Unknown).words(tools),
                Self::Against(Cause::ClosedWithUnreadData).words(tools)
            ),
        }
    }
}

/// The ways to a lingering close that a server has, for a sentence.
fn lingering(tools: &Tools) -> String {
    const NGINX: &str = "`lingering_close always` in nginx";
    match (tools.library, tools.wrapper) {
        (Some(library), Some(wrapper)) => format!("{NGINX}, {library}, or {wrapper}"),
        (Some(other), None) | (None, Some(other)) => format!("{NGINX}, or {other}"),
        (None, None) => NGINX.into(),
    }
}

/// The remedies that need no tool but those of every host.
fn against(cause: Cause) -> &'static str {
    match cause {
        Cause::AcceptQueueOverflow => {
            "Look at `ss -ltn` (Recv-Q at its Send-Q) and ListenOverflows in `nstat -az`; make the application \
             accept faster, raise its backlog and net.core.somaxconn together."
        }
        Cause::Aborted => {
            "Search the application for SO_LINGER with 0 and for deliberate aborts (timeouts, limits, bans); its \
             log should say which."
        }
        Cause::PortClosed => {
            "Check that the service runs and on which address and port it listens (`ss -ltnp`)."
        }
        Cause::ProcessGone => {
            "Look for a crash, a kill or a restart at that time (journal, kernel log for out-of-memory); on \
             planned restarts stop accepting first and drain the connections."
        }
        Cause::HalfOpen => {
            "Find what restarted or failed over, or which NAT, firewall or balancer forgets idle connections, and \
             send keepalives more often than its timeout."
        }
        Cause::ClientGaveUp => {
            "Compare the client's timeout with how long the answer took; users who leave are no fault of the server."
        }
        Cause::KeepaliveTimeout => {
            "Look for the peer or the path disappearing at the first unanswered probe; shorten or lengthen \
             tcp_keepalive_* if the detection came too late or too early."
        }
        Cause::RetransmissionTimeout => {
            "Find where the segments are lost: capture at both ends, look at path MTU, routes and stateful boxes."
        }
        Cause::Finwait2Expired => {
            "Let the peer close when it reads end of file; or, if it must keep its half open, let the closing side \
             keep its socket instead of orphaning it (tcp_fin_timeout, 60 s)."
        }
        Cause::BothClosed => {
            "Nothing is lost by it. Stacks in user space (VPN programs, balancers) and sockets that an administrator \
             destroyed end so."
        }
        Cause::NoAnswer => {
            "Check route and address, then for a rule that drops (`nft list ruleset`, security groups), then for a full \
             accept queue (ListenOverflows and ListenDrops in `nstat -az`)."
        }
        Cause::Unreachable => {
            "Look at the host that sent the ICMP error: its routes, its neighbours, and its rules (`nft list ruleset`)."
        }
        Cause::CutShort => {
            "Look in the server's log at that time: a crash or an error in the middle of a response, a timeout of the \
             proxy in front, or a wrong Content-Length."
        }
        Cause::ClosedMidRequest => {
            "Look for the server's limits: header and body timeouts, body size; a server that refuses should answer first, \
             and end with a lingering close."
        }
        Cause::ClosedUnanswered => {
            "Look in the server's log for that request: a crashed worker, or a closed upstream, closes in place of an answer."
        }
        Cause::KeepAliveRace => {
            "Let the client's idle timeout be shorter than the server's, and let it repeat safe requests once."
        }
        Cause::WindowStuck => {
            "Look at the reading program: it is blocked, stopped or waits for something else (`ss -tmp`, a stack dump)."
        }
        Cause::BlackHole => {
            "Let ICMP \"fragmentation needed\" pass, or clamp the MSS to the path (`tcp option maxseg size set rt mtu`), or \
             set tcp_mtu_probing=1 at the sender."
        }
        Cause::FirewallReject => {
            "Look for a reject rule with tcp-reset that matches (`nft list ruleset`, `iptables-save`), or for an \
             expired connection-tracking entry."
        }
        Cause::Forged => {
            "Find the box: the TTL says how many hops away it is. Intrusion prevention, parental filters and \
             censors work like this; capture on both sides of each suspect."
        }
        Cause::ClosedWithUnreadData | Cause::DataAfterClose | Cause::Unknown => "",
    }
}

impl fmt::Display for NextEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(&Tools::default()))
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(&Tools::default()))
    }
}

impl Serialize for NextEvidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Remedy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_remedy_with_and_without_tools() {
        let tools = Tools {
            live: Some("LIVE"),
            library: Some("LIBRARY"),
            wrapper: Some("WRAPPER"),
            ..Tools::default()
        };
        for cause in Cause::ALL {
            let remedy = Remedy::Against(cause);
            assert!(remedy.to_string().ends_with('.') && remedy.words(&tools).ends_with('.'), "{cause}");
        }
        let unread = Remedy::Against(Cause::ClosedWithUnreadData);
        assert!(unread.words(&tools).ends_with("(`lingering_close always` in nginx, LIBRARY, or WRAPPER)."));
        assert!(unread.to_string().ends_with("(`lingering_close always` in nginx)."));
        assert!(Remedy::DecideFirst.words(&tools).contains("or run LIVE on the host"));
        assert!(Remedy::DecideFirst.to_string().contains("or trace tcp_send_reset on the host"));
    }

    #[test]
    fn a_tool_that_is_there_is_named() {
        let tools = Tools { live: Some("LIVE"), ..Tools::default() };
        assert!(
            NextEvidence::Live(Alike::AbortOrUnread)
                .words(&tools)
                .starts_with("LIVE (or the tcp_send_reset tracepoint) at")
        );
        assert!(
            NextEvidence::Live(Alike::AbortOrUnread)
                .to_string()
                .starts_with("the tcp_send_reset tracepoint at")
        );
        assert!(NextEvidence::Live(Alike::Aborts).words(&tools).starts_with("LIVE at the server"));
    }
}
