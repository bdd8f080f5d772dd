//! Remembers the resets this host sent: to recognise them where they are received, and to recognise their echoes.
//!
//! An echo is a further reset for a packet that the peer sent before it knew of the first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::diagnose::{self, FoundBy};
use crate::events::Endpoints;
use crate::live_reset::Opinion;
use crate::live_reset::ProcessRole;
use crate::namespace_id::NamespaceId;
use crate::process::NamedProcess;

/// Number of resets remembered; the oldest are forgotten first.
const MAX: usize = 16_384;
/// Longest time for which a peer may go on sending to a connection that is no more (nanoseconds): a lost reset is followed by
/// retransmissions, of which the first few come within this time.
const CONNECTION: u64 = 64_000_000_000;
/// The same where only the port is known, so that another connection may be meant (nanoseconds).
const PORT: u64 = 1_000_000_000;
/// The kernel notes a reset that a system call makes only after it was sent, and thus after it may have been received
/// (`tcp_send_active_reset`). On a busy processor another task may run in between. Nanoseconds.
const AFTER: u64 = 50_000_000;

/// A reset that was sent.
#[derive(Debug)]
struct SentReset {
    time_ns: u64,
    opinion: Opinion,
    process: Option<(NamedProcess, ProcessRole)>,
    namespace: Option<NamespaceId>,
    /// Echoes that are not reported yet.
    echoes: u32,
}

/// Echoes of one reset that had been reported before they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Echoes {
    pub(crate) ends: Endpoints,
    pub(crate) opinion: Opinion,
    pub(crate) process: Option<NamedProcess>,
    pub(crate) namespace: Option<NamespaceId>,
    pub(crate) count: u32,
}

/// The latest resets this host sent.
#[derive(Debug, Default)]
pub(crate) struct RecentResets {
    sent: HashMap<Endpoints, SentReset>,
    order: VecDeque<(u64, Endpoints)>,
    /// The latest connection to each remote address.
    by_remote: HashMap<SocketAddr, Endpoints>,
    /// The latest connection of each local port.
    by_port: HashMap<u16, Endpoints>,
    /// Resets of listeners, whose peer the kernel does not say, until a receiver is found.
    of_listeners: VecDeque<(u64, SocketAddr, Opinion)>,
    /// Addresses that were this host's end of a connection, in any network namespace.
    own: HashSet<IpAddr>,
    /// Connections with echoes to report.
    echoed: Vec<Endpoints>,
}

impl RecentResets {
    /// Notes that an address is of this host.
    pub(crate) fn own(&mut self, address: IpAddr) {
        if self.own.len() >= MAX {
            self.own.clear();
        }
        if !address.is_unspecified() {
            self.own.insert(address);
        }
    }

    /// Remembers a reset that is no echo.
    pub(crate) fn sent(
        &mut self,
        time_ns: u64,
        ends: Endpoints,
        opinion: Opinion,
        process: Option<(NamedProcess, ProcessRole)>,
    ) {
        self.by_port.insert(ends.0.port(), ends);
        if ends.1.port() == 0 {
            if self.of_listeners.len() >= MAX {
                self.of_listeners.pop_front();
            }
            self.of_listeners.push_back((time_ns, ends.0, opinion.clone()));
        } else {
            self.by_remote.insert(ends.1, ends);
        }
        self.sent.insert(ends, SentReset { time_ns, opinion, process, namespace: None, echoes: 0 });
        self.order.push_back((time_ns, ends));
        // One more was added: two looks make room for it, and for one that was kept for its echoes before.
        for _ in 0..2 {
            if self.order.len() <= MAX {
                break;
            }
            let Some((time_ns, ends)) = self.order.pop_front() else { break };
            if !self.forget(time_ns, ends) {
                self.order.push_back((time_ns, ends));
            }
        }
    }

    /// Forgets a reset, unless a later one of the same connection has taken its place. False if it has echoes to report, and
    /// is still remembered.
    fn forget(&mut self, time_ns: u64, ends: Endpoints) -> bool {
        let Some(sent) = self.sent.get(&ends) else { return true };
        if sent.time_ns == time_ns {
            if sent.echoes > 0 {
                return false;
            }
            self.sent.remove(&ends);
            if self.by_remote.get(&ends.1) == Some(&ends) {
                self.by_remote.remove(&ends.1);
            }
            if self.by_port.get(&ends.0.port()) == Some(&ends) {
                self.by_port.remove(&ends.0.port());
            }
        }
        true
    }

    /// Corrects the cause of a reset and notes its namespace, once more is known of it.
    pub(crate) fn correct(
        &mut self,
        ends: &Endpoints,
        time_ns: u64,
        opinion: &Opinion,
        namespace: Option<NamespaceId>,
    ) {
        if let Some(sent) = self.sent.get_mut(ends).filter(|sent| sent.time_ns == time_ns) {
            sent.opinion = opinion.clone();
            sent.namespace = namespace;
        }
    }

    /// The connection whose reset a passive reset of `ends` follows, if it is an echo.
    pub(crate) fn original(&self, ends: &Endpoints, time_ns: u64) -> Option<Endpoints> {
        let young = |ends: &Endpoints, most: u64| {
            self.sent.get(ends).is_some_and(|sent| time_ns.saturating_sub(sent.time_ns) < most)
        };
        if ends.1.port() != 0 {
            return Some(*ends).filter(|ends| young(ends, CONNECTION));
        }
        let latest = self.by_port.get(&ends.0.port())?;
        let same_host = ends.0.ip().is_unspecified() || ends.0.ip() == latest.0.ip();
        Some(*latest).filter(|latest| same_host && young(latest, PORT))
    }

    /// Counts an echo of a reset that was reported already.
    pub(crate) fn echo(&mut self, original: &Endpoints) {
        if let Some(sent) = self.sent.get_mut(original) {
            if sent.echoes == 0 {
                self.echoed.push(*original);
            }
            sent.echoes += 1;
        }
    }

    /// The echoes since the last call.
    pub(crate) fn echoes(&mut self) -> Vec<Echoes> {
        let take = |ends: Endpoints| {
            let sent = self.sent.get_mut(&ends)?;
            let count = std::mem::take(&mut sent.echoes);
            let process = sent.process.as_ref().map(|(process, _)| process.clone());
            let (opinion, namespace) = (sent.opinion.clone(), sent.namespace);
            (count > 0).then_some(Echoes { ends, opinion, process, namespace, count })
        };
        self.echoed.drain(..).filter_map(take).collect()
    }

    /// The namespace in which a reset was received, if it was sent over a loopback address, in a namespace that is known.
    pub(crate) fn namespace_of(&self, (here, peer): &Endpoints, time_ns: u64) -> Option<NamespaceId> {
        let sent = self.sent.get(&(*peer, *here)).filter(|_| here.ip().is_loopback())?;
        sent.namespace.filter(|_| is_between(sent.time_ns, time_ns, CONNECTION))
    }

    /// The cause of a reset that was received at `ends`, if this host sent one between the same two addresses. `noted_later`:
    /// also if the kernel noted that one only afterwards. It may then be of a connection with the same addresses in another
    /// namespace.
    pub(crate) fn cause_of_same(
        &self,
        (here, peer): &Endpoints,
        time_ns: u64,
        noted_later: bool,
    ) -> Option<Opinion> {
        let sent = self.sent.get(&(*peer, *here)).filter(|sent| noted_later || sent.time_ns <= time_ns)?;
        is_between(sent.time_ns, time_ns, CONNECTION)
            .then(|| diagnose::of_this_host(&sent.opinion, FoundBy::SameConnection))
    }

    /// The cause of a reset that was received at `ends`, if this host sent it.
    pub(crate) fn cause_of(&mut self, ends: &Endpoints, time_ns: u64) -> Option<Opinion> {
        let (here, peer) = *ends;
        let young = |sent: u64, most: u64| is_between(sent, time_ns, most);
        if let Some(same) = self.cause_of_same(ends, time_ns, true) {
            return Some(same);
        }
        let is_peer = |local: &SocketAddr| {
            local.port() == peer.port()
                && (local.ip() == peer.ip() || local.ip().is_unspecified() && self.own.contains(&peer.ip()))
        };
        let of_listener =
            self.of_listeners.iter().position(|(sent, local, _)| is_peer(local) && young(*sent, PORT));
        if let Some((.., opinion)) = of_listener.and_then(|at| self.of_listeners.remove(at)) {
            return Some(diagnose::of_this_host(&opinion, FoundBy::SameListener));
        }
        let translated = self.by_remote.get(&here).and_then(|ends| self.sent.get(ends));
        let translated = translated.filter(|sent| young(sent.time_ns, PORT))?;
        Some(diagnose::of_this_host(&translated.opinion, FoundBy::Translated))
    }
}

/// Whether a reset that was sent at `sent` may arrive at `received`.
fn is_between(sent: u64, received: u64, most: u64) -> bool {
    sent <= received.saturating_add(AFTER) && received.saturating_sub(sent) < most
}

#[cfg(test)]
mod tests {
    use super::*;
    use linger_why::{Cause, Confidence};

    const SECOND: u64 = 1_000_000_000;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn opinion(cause: Cause) -> Opinion {
        (cause, Confidence::Certain, vec![cause], Vec::new())
    }

    fn recent(server: &str, client: &str) -> RecentResets {
        let mut recent = RecentResets::default();
        recent.sent(SECOND, (at(server), at(client)), opinion(Cause::ClosedWithUnreadData), None);
        recent
    }

    #[test]
    fn an_echo_is_one_of_the_same_connection_and_soon() {
        let (server, client) = ("10.0.0.1:80", "10.0.0.2:4000");
        let recent = recent(server, client);
        let original =
            |local: &str, remote: &str, time_ns| recent.original(&(at(local), at(remote)), time_ns);
        let ends = Some((at(server), at(client)));
        assert_eq!(original(server, client, 2 * SECOND), ends);
        assert_eq!(original(server, client, SECOND + CONNECTION), None, "too late");
        assert_eq!(original(server, "10.0.0.2:4001", 2 * SECOND), None, "another connection");
        // From a listener the kernel does not say the peer.
        for listener in ["0.0.0.0:80", "[::]:80", server] {
            assert_eq!(original(listener, "0.0.0.0:0", SECOND + PORT - 1), ends);
            assert_eq!(original(listener, "0.0.0.0:0", SECOND + PORT), None, "too late for a port alone");
        }
        assert_eq!(original("0.0.0.0:81", "0.0.0.0:0", SECOND + 1), None, "another port");
        assert_eq!(original("10.0.0.9:80", "0.0.0.0:0", SECOND + 1), None, "another address");
    }

    #[test]
    fn echoes_are_told_once_with_the_cause_of_the_first() {
        let ends = (at("10.0.0.1:80"), at("10.0.0.2:4000"));
        let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
        assert!(recent.echoes().is_empty());
        recent.echo(&ends);
        recent.echo(&ends);
        let echoes = recent.echoes();
        assert_eq!((echoes.len(), echoes[0].count, echoes[0].opinion.0), (1, 2, Cause::ClosedWithUnreadData));
        assert!(recent.echoes().is_empty());
    }

    #[test]
    fn a_reset_with_echoes_to_report_is_forgotten_once_they_are_reported() {
        let ends = (at("10.0.0.1:80"), at("10.0.0.2:4000"));
        let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
        recent.echo(&ends);
        let others = |recent: &mut RecentResets, number: usize| {
            for address in 0..number as u32 {
                let local = SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + address), 80));
                recent.sent(SECOND, (local, ends.1), opinion(Cause::DataAfterClose), None);
            }
        };
        others(&mut recent, 2 * MAX);
        assert_eq!((recent.sent.len(), recent.order.len()), (MAX, MAX));
        assert_eq!(recent.echoes().len(), 1, "still remembered");
        others(&mut recent, 2 * MAX);
        assert_eq!((recent.sent.len(), recent.order.len()), (MAX, MAX));
        assert!(!recent.sent.contains_key(&ends));
    }

    #[test]
    fn a_received_reset_has_the_cause_of_its_sender() {
        let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
        let ends = (at("10.0.0.2:4000"), at("10.0.0.1:80"));
        // As through a shaped link, 100 ms later.
        let (cause, confidence, _, evidence) = recent.cause_of(&ends, SECOND + SECOND / 10).unwrap();
        assert_eq!((cause, confidence), (Cause::ClosedWithUnreadData, Confidence::Certain));
        assert_eq!(evidence, ["this host sent it itself"]);
        assert!(recent.cause_of_same(&ends, SECOND - AFTER, true).is_some(), "noted after it was received");
        assert_eq!(recent.cause_of_same(&ends, SECOND - AFTER - 1, true), None, "too early");
        assert_eq!(recent.cause_of_same(&ends, SECOND - 1, false), None, "it may be another connection's");
        assert_eq!(
            recent.cause_of(&(ends.0, at("10.0.0.1:81")), SECOND - AFTER - 1),
            None,
            "before it was sent"
        );
        // A published port: the client knows another address of the server.
        let published = (ends.0, at("192.0.2.1:8080"));
        let (cause, confidence, ..) = recent.cause_of(&published, SECOND + 1).unwrap();
        assert_eq!((cause, confidence), (Cause::ClosedWithUnreadData, Confidence::Likely));
        assert_eq!(recent.cause_of(&published, SECOND + PORT), None, "too late for half of the addresses");
        assert_eq!(recent.cause_of(&(at("10.0.0.3:4000"), ends.1), SECOND + 1), None, "another client");
    }

    #[test]
    fn a_listener_of_this_host_is_the_sender_only_under_an_address_of_this_host() {
        let mut recent = RecentResets::default();
        let listener = (at("0.0.0.0:80"), at("0.0.0.0:0"));
        recent.sent(SECOND, listener, opinion(Cause::AcceptQueueOverflow), None);
        let ends = (at("10.0.0.2:4000"), at("10.0.0.1:80"));
        assert_eq!(recent.cause_of(&ends, SECOND + 1), None, "a server elsewhere may have the same port");
        recent.own(ends.1.ip());
        assert_eq!(recent.cause_of(&ends, SECOND + 1).unwrap().0, Cause::AcceptQueueOverflow);
        assert_eq!(recent.cause_of(&ends, SECOND + 1), None, "each reset has one receiver");
    }
}
