//! Remembers the resets this host sent: to recognise them where they are received, and to recognise their echoes.
//!
//! An echo is a further reset for a packet that the peer sent before it knew of the first. The kernel's event of it has addresses
//! alone, and two network namespaces may have the same: it is no echo of a reset in a namespace where it cannot have been sent, and
//! none if a socket receives it after another socket has received the first.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

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
/// Most resets with the same two addresses that are remembered, each of a connection of its own.
const TWINS: usize = 8;
/// Number of opinions that resets share.
const OPINIONS: usize = 8;
/// Number of echoes remembered that may turn out to be resets of other connections; the oldest are forgotten first.
const SUSPECTS: usize = 1_024;

/// A reset that was sent.
#[derive(Debug)]
struct SentReset {
    time_ns: u64,
    opinion: Arc<Opinion>,
    process: Option<(NamedProcess, ProcessRole)>,
    namespace: Option<NamespaceId>,
    /// Echoes that are not reported yet.
    echoes: u32,
    /// Those of them that came after the last report.
    young: u32,
    /// The cookie of the socket that received it; 0 if none is known.
    receiver: u64,
    /// It is not told, and no echo of it.
    is_hidden: bool,
}

/// A reset by its connection and time: there may be several of the same two addresses.
pub(crate) type ResetKey = (Endpoints, u64);

/// A reset that was taken for an echo, as its event has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) time_ns: u64,
    /// The process and the thread that were running.
    pub(crate) running: (u32, u32),
    pub(crate) ends: Endpoints,
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) state: u8,
    pub(crate) socket: u64,
    /// The reset that it was taken for an echo of.
    pub(crate) original: ResetKey,
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
    /// The latest last.
    sent: HashMap<Endpoints, Vec<SentReset>>,
    order: VecDeque<ResetKey>,
    /// The latest connection to each remote address.
    by_remote: HashMap<SocketAddr, Endpoints>,
    /// The latest connection of each local port: of all, and of those whose namespace is known.
    by_port: HashMap<(u16, Option<NamespaceId>), Endpoints>,
    /// Resets of listeners, whose peer the kernel does not say, until a receiver is found.
    of_listeners: VecDeque<(u64, SocketAddr, Opinion)>,
    /// Addresses that were this host's end of a connection, in any network namespace.
    own: HashSet<IpAddr>,
    /// Resets with echoes to report.
    echoed: Vec<ResetKey>,
    suspects: VecDeque<Suspect>,
    /// The latest opinions: many resets share one.
    opinions: VecDeque<Arc<Opinion>>,
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

    /// The opinion, in the memory of an earlier one that says the same.
    fn shared(&mut self, opinion: Opinion) -> Arc<Opinion> {
        if let Some(known) = self.opinions.iter().rev().find(|known| ***known == opinion) {
            return known.clone();
        }
        if self.opinions.len() >= OPINIONS {
            self.opinions.pop_front();
        }
        let opinion = Arc::new(opinion);
        self.opinions.push_back(opinion.clone());
        opinion
    }

    /// Remembers a reset that is no echo.
    pub(crate) fn sent(
        &mut self,
        time_ns: u64,
        ends: Endpoints,
        opinion: Opinion,
        process: Option<(NamedProcess, ProcessRole)>,
    ) {
        self.by_port.insert((ends.0.port(), None), ends);
        if ends.1.port() == 0 {
            if self.of_listeners.len() >= MAX {
                self.of_listeners.pop_front();
            }
            self.of_listeners.push_back((time_ns, ends.0, opinion.clone()));
        } else {
            self.by_remote.insert(ends.1, ends);
        }
        let opinion = self.shared(opinion);
        let sent = SentReset {
            time_ns,
            opinion,
            process,
            namespace: None,
            echoes: 0,
            young: 0,
            receiver: 0,
            is_hidden: false,
        };
        let twins = self.sent.entry(ends).or_default();
        // Most connections have one.
        twins.reserve_exact(1);
        twins.push(sent);
        if twins.len() > TWINS {
            // Its place in the order is passed over when its turn comes.
            let oldest = twins.iter().position(|twin| twin.echoes == 0).unwrap_or(0);
            let gone = twins.remove(oldest);
            self.unlink(&ends, gone.namespace);
        }
        self.order.push_back((ends, time_ns));
        // One more was added: two looks make room for it, and for one that was kept for its echoes before.
        for _ in 0..2 {
            if self.order.len() <= MAX {
                break;
            }
            let Some(oldest) = self.order.pop_front() else { break };
            if !self.forget(&oldest) {
                self.order.push_back(oldest);
            }
        }
    }

    fn of(&mut self, (ends, time_ns): &ResetKey) -> Option<&mut SentReset> {
        self.sent.get_mut(ends)?.iter_mut().find(|twin| twin.time_ns == *time_ns)
    }

    /// Forgets a reset. False if it has echoes to report, and is still remembered.
    fn forget(&mut self, key: &ResetKey) -> bool {
        let (ends, time_ns) = key;
        let Some(twins) = self.sent.get_mut(ends) else { return true };
        let Some(at) = twins.iter().position(|twin| twin.time_ns == *time_ns) else { return true };
        if twins[at].echoes > 0 {
            return false;
        }
        let gone = twins.remove(at);
        self.unlink(ends, gone.namespace);
        true
    }

    /// Removes what leads to a reset in `namespace` that is forgotten.
    fn unlink(&mut self, ends: &Endpoints, namespace: Option<NamespaceId>) {
        let twins = self.sent.get(ends).map_or(&[][..], |twins| twins);
        let is_last = twins.is_empty();
        let namespace = namespace.filter(|id| !twins.iter().any(|twin| twin.namespace == Some(*id)));
        for place in [namespace.map(Some), is_last.then_some(None)].into_iter().flatten() {
            let key = (ends.0.port(), place);
            if self.by_port.get(&key) == Some(ends) {
                self.by_port.remove(&key);
            }
        }
        if is_last {
            self.sent.remove(ends);
            if self.by_remote.get(&ends.1) == Some(ends) {
                self.by_remote.remove(&ends.1);
            }
        }
    }

    /// Corrects the cause of a reset and notes its namespace, once more is known of it.
    pub(crate) fn correct(&mut self, key: &ResetKey, opinion: Opinion, namespace: Option<NamespaceId>) {
        let opinion = self.shared(opinion);
        let Some(sent) = self.of(key) else { return };
        sent.opinion = opinion;
        sent.namespace = namespace;
        if namespace.is_some() {
            self.by_port.insert((key.0.0.port(), namespace), key.0);
        }
    }

    /// Hides a reset, and its echoes. What a listener on its port answers is an echo of another.
    pub(crate) fn hide(&mut self, key: &ResetKey) {
        let Some(sent) = self.of(key) else { return };
        (sent.is_hidden, sent.echoes, sent.young) = (true, 0, 0);
        let namespace = sent.namespace;
        self.echoed.retain(|other| other != key);
        for place in [None, namespace] {
            let port = (key.0.0.port(), place);
            if self.by_port.get(&port) == Some(&key.0) {
                self.by_port.remove(&port);
            }
        }
    }

    /// The reset of which a passive reset of `ends` is an echo, if it is one. `places` are the namespaces in which it may have been
    /// sent; empty if nothing is known of that.
    pub(crate) fn original(
        &self,
        ends: &Endpoints,
        time_ns: u64,
        places: &[NamespaceId],
    ) -> Option<ResetKey> {
        let may_be_in = |id: &NamespaceId| places.is_empty() || places.contains(id);
        let latest = |ends: &Endpoints, most: u64| {
            let young = |sent: &&SentReset| time_ns.saturating_sub(sent.time_ns) < most;
            let may_be = |sent: &&SentReset| sent.namespace.as_ref().is_none_or(may_be_in);
            let found = self.sent.get(ends)?.iter().rev().filter(young).find(may_be)?;
            Some((*ends, found.time_ns))
        };
        if ends.1.port() != 0 {
            return latest(ends, CONNECTION);
        }
        // The latest of all first: its namespace may be found only later.
        let all = std::iter::once(None).chain(places.iter().copied().map(Some));
        all.filter_map(|place| self.by_port.get(&(ends.0.port(), place)))
            .filter(|latest| ends.0.ip().is_unspecified() || ends.0.ip() == latest.0.ip())
            .find_map(|ends| latest(ends, PORT))
    }

    /// Counts an echo of a reset that was reported already.
    pub(crate) fn echo(&mut self, original: &ResetKey) {
        if let Some(sent) = self.of(original).filter(|sent| !sent.is_hidden) {
            let is_first = sent.echoes == 0;
            sent.echoes += 1;
            sent.young += 1;
            if is_first {
                self.echoed.push(*original);
            }
        }
    }

    /// Takes an echo back that was none. False if it is reported already.
    pub(crate) fn take_back(&mut self, original: &ResetKey) -> bool {
        let Some(sent) = self.of(original).filter(|sent| sent.echoes > 0) else { return false };
        sent.echoes -= 1;
        sent.young = sent.young.saturating_sub(1);
        if sent.echoes == 0 {
            self.echoed.retain(|key| key != original);
        }
        true
    }

    /// Remembers the event of an echo: it may turn out to be none.
    pub(crate) fn suspect(&mut self, suspect: Suspect) {
        // Of what a listener answers no receiver is found.
        if suspect.ends.1.port() == 0 {
            return;
        }
        if self.suspects.len() >= SUSPECTS {
            self.suspects.pop_front();
        }
        self.suspects.push_back(suspect);
    }

    /// Notes that the socket with this cookie received a reset at `ends`. A socket receives one: if another has received the reset
    /// with these addresses, what was taken for its echo is the reset of this socket's connection, and is returned.
    pub(crate) fn receive(&mut self, (here, peer): &Endpoints, time_ns: u64, cookie: u64) -> Option<Suspect> {
        let ends = (*peer, *here);
        let twins = self.sent.get_mut(&ends).filter(|_| cookie != 0)?;
        if twins.iter().any(|twin| twin.receiver == cookie) {
            return None;
        }
        let may_be = |sent: u64| is_between(sent, time_ns, CONNECTION);
        if let Some(twin) = twins.iter_mut().rev().find(|twin| twin.receiver == 0 && may_be(twin.time_ns)) {
            twin.receiver = cookie;
            return None;
        }
        let is_its = |suspect: &Suspect| suspect.ends == ends && may_be(suspect.time_ns);
        let at = self.suspects.iter().rposition(is_its)?;
        self.suspects.remove(at)
    }

    /// The echoes that were there at the last call already, whose receivers would have been seen by now; with `all` those that came
    /// since, too.
    pub(crate) fn echoes(&mut self, all: bool) -> Vec<Echoes> {
        let mut told = Vec::new();
        for key in std::mem::take(&mut self.echoed) {
            let Some(sent) = self.of(&key) else { continue };
            let young = std::mem::take(&mut sent.young);
            let count = if all { sent.echoes } else { sent.echoes - young };
            sent.echoes -= count;
            let is_left = sent.echoes > 0;
            let process = sent.process.as_ref().map(|(process, _)| process.clone());
            let (opinion, namespace) = ((*sent.opinion).clone(), sent.namespace);
            if count > 0 {
                told.push(Echoes { ends: key.0, opinion, process, namespace, count });
            }
            if is_left {
                self.echoed.push(key);
            }
        }
        told
    }

    /// The latest reset that was sent from `ends`.
    fn latest(&self, ends: &Endpoints) -> Option<&SentReset> {
        self.sent.get(ends)?.last()
    }

    /// The namespace in which a reset was received, if it was sent over a loopback address, in a namespace that is known.
    pub(crate) fn namespace_of(&self, (here, peer): &Endpoints, time_ns: u64) -> Option<NamespaceId> {
        let twins = self.sent.get(&(*peer, *here)).filter(|_| here.ip().is_loopback())?;
        let mut places = twins
            .iter()
            .filter(|sent| is_between(sent.time_ns, time_ns, CONNECTION))
            .map(|sent| sent.namespace);
        let first = places.next().flatten()?;
        places.all(|other| other == Some(first)).then_some(first)
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
        let may_be = |sent: &&SentReset| {
            (noted_later || sent.time_ns <= time_ns) && is_between(sent.time_ns, time_ns, CONNECTION)
        };
        let sent = self.sent.get(&(*peer, *here))?.iter().rev().find(may_be)?;
        Some(diagnose::of_this_host(&sent.opinion, FoundBy::SameConnection))
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
        let translated = self.by_remote.get(&here).and_then(|ends| self.latest(ends));
        let translated = translated.filter(|sent| young(sent.time_ns, PORT))?;
        Some(diagnose::of_this_host(&translated.opinion, FoundBy::Translated))
    }
}

/// Whether a reset that was sent at `sent` may arrive at `received`.
fn is_between(sent: u64, received: u64, most: u64) -> bool {
    sent <= received.saturating_add(AFTER) && received.saturating_sub(sent) < most
}

#[cfg(test)]
#[path = "recent_tests.rs"]
mod tests;
