//! In which network namespace a reset was sent or received.
//!
//! The kernel's events do not say it. A destroyed socket's message comes from its namespace; where there is no socket, the
//! address, the closer of the connection, or the other end on a loopback address may decide.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::live_reset::{BoxedReset, Direction, LiveReset};
use crate::namespace_id::NamespaceId;
use crate::namespaces::Survey;

/// Most candidates that are reported.
const CANDIDATES: usize = 16;
/// Longest time for which a reset without a socket waits for its other end to be placed. It is above the time for which a
/// received reset is held.
const PATIENCE: Duration = Duration::from_millis(1_200);
/// Largest number of resets that wait so at a time.
const MAX: usize = 4_096;

/// The addresses of all namespaces, and resets whose namespace is still open.
#[derive(Debug, Default)]
pub(crate) struct Places {
    addresses: HashMap<NamespaceId, HashSet<IpAddr>>,
    waiting: Vec<(Instant, BoxedReset)>,
}

impl Places {
    /// Takes over the addresses.
    pub(crate) fn take(&mut self, surveys: &HashMap<NamespaceId, Survey>) {
        self.addresses = surveys.iter().map(|(id, survey)| (*id, survey.addresses.clone())).collect();
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The namespaces in which an address is local.
    pub(crate) fn with(&self, address: IpAddr) -> Vec<NamespaceId> {
        let is_local = |own: &HashSet<IpAddr>| {
            address.is_loopback() || address.is_unspecified() || own.contains(&address)
        };
        let mut with: Vec<NamespaceId> =
            self.addresses.iter().filter(|(_, own)| is_local(own)).map(|(id, _)| *id).collect();
        with.sort_unstable();
        with
    }

    /// Whether a reset's namespace may still be learnt from its other end.
    pub(crate) fn may_learn(reset: &LiveReset) -> bool {
        reset.namespace.is_none() && reset.local.ip().is_loopback() && reset.direction == Direction::Sent
    }

    /// Holds a reset until its other end is placed.
    pub(crate) fn wait(&mut self, reset: BoxedReset) {
        self.waiting.push((Instant::now(), reset));
    }

    /// A reset was received in a namespace: if it came over a loopback address, it was sent there.
    pub(crate) fn received(&mut self, local: SocketAddr, remote: SocketAddr, namespace: NamespaceId) {
        if !remote.ip().is_loopback() {
            return;
        }
        let sender = |reset: &LiveReset| reset.local == remote && reset.remote == Some(local);
        if let Some((_, reset)) =
            self.waiting.iter_mut().find(|(_, reset)| reset.namespace.is_none() && sender(reset))
        {
            reset.namespace = Some(namespace);
        }
    }

    /// Removes the resets that wait no longer: their namespace is known by now, or `closed_in` knows it, or they have waited for
    /// their longest time. Removes all of them if `all` is set, or if more than [`MAX`] wait.
    pub(crate) fn placed(
        &mut self,
        all: bool,
        closed_in: impl Fn(&LiveReset) -> Option<NamespaceId>,
    ) -> Vec<BoxedReset> {
        let now = Instant::now();
        let crowded = self.waiting.len() > MAX;
        let over = |(since, reset): &mut (Instant, BoxedReset)| {
            reset.namespace = reset.namespace.or_else(|| closed_in(reset));
            all || crowded || reset.namespace.is_some() || now - *since >= PATIENCE
        };
        self.waiting.extract_if(.., over).map(|(_, reset)| reset).collect()
    }

    /// Decides by the address, or names the candidates.
    pub(crate) fn decide(&self, reset: &mut LiveReset) {
        if reset.namespace.is_some() {
            return;
        }
        let mut candidates = self.with(reset.local.ip());
        if let [only] = candidates[..] {
            reset.namespace = Some(only);
            return;
        }
        candidates.truncate(CANDIDATES);
        reset.namespace_candidates = candidates;
    }
}
